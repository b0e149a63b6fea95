"""The one error that leaves the verifier, and its closed list of reason codes.

Guarantees: every refusal of bad input is a `VerifierError` with a stable `Reason`.
Does not say anything about policy decisions of the broker; those codes are the broker's.
"""

from __future__ import annotations

from enum import StrEnum
from typing import final


@final
class Reason(StrEnum):
    """Why evidence was not accepted. The values are stable: callers and tests may match on them."""

    # Reading.
    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    UNSUPPORTED = "unsupported"
    TRAILING_DATA = "trailing_data"
    # Collateral and chains.
    COLLATERAL_MISSING = "collateral_missing"
    COLLATERAL_UNAVAILABLE = "collateral_unavailable"
    COLLATERAL_MALFORMED = "collateral_malformed"
    COLLATERAL_SIGNATURE = "collateral_signature"
    COLLATERAL_EXPIRED = "collateral_expired"
    COLLATERAL_NOT_YET_VALID = "collateral_not_yet_valid"
    COLLATERAL_MISMATCH = "collateral_mismatch"
    COLLATERAL_TOO_OLD = "collateral_too_old"
    CRL_MISSING = "crl_missing"
    CRL_INVALID = "crl_invalid"
    CRL_EXPIRED = "crl_expired"
    CERTIFICATE_REVOKED = "certificate_revoked"
    CERTIFICATE_EXPIRED = "certificate_expired"
    CERTIFICATE_INVALID = "certificate_invalid"
    CHAIN_INVALID = "chain_invalid"
    ROOT_UNKNOWN = "root_unknown"
    RIM_EXPIRED = "rim_expired"
    CERTIFICATE_HOLD = "certificate_hold"
    REVOCATION_MISSING = "revocation_missing"
    REVOCATION_INVALID = "revocation_invalid"
    REVOCATION_EXPIRED = "revocation_expired"
    NRAS_REFUSED = "nras_refused"
    # Signatures of the evidence.
    SIGNATURE_INVALID = "signature_invalid"
    QE_REPORT_INVALID = "qe_report_invalid"
    QE_IDENTITY_MISMATCH = "qe_identity_mismatch"
    TDX_MODULE_MISMATCH = "tdx_module_mismatch"
    PRODUCT_MISMATCH = "product_mismatch"
    CHIP_ID_MISMATCH = "chip_id_mismatch"
    TCB_MISMATCH = "tcb_mismatch"
    # TCB.
    TCB_NOT_SUPPORTED = "tcb_not_supported"
    TCB_STATUS = "tcb_status"
    TCB_REVOKED = "tcb_revoked"
    TCB_BELOW_MINIMUM = "tcb_below_minimum"
    TCB_PROVISIONAL = "tcb_provisional"
    # Workload.
    DEBUG_ENABLED = "debug_enabled"
    ATTRIBUTES_REFUSED = "attributes_refused"
    MIGRATION_ALLOWED = "migration_allowed"
    SERVICE_TD = "service_td"
    VMPL = "vmpl"
    GUEST_POLICY = "guest_policy"
    PLATFORM_INFO = "platform_info"
    PLATFORM_NOT_ALLOWED = "platform_not_allowed"
    CHIP_ID_MASKED = "chip_id_masked"
    CSP_NOT_ALLOWED = "csp_not_allowed"
    REPORT_VERSION_NOT_ALLOWED = "report_version_not_allowed"
    MEASUREMENT_UNKNOWN = "measurement_unknown"
    NO_REFERENCE_VALUES = "no_reference_values"
    REPORT_DATA_MISMATCH = "report_data_mismatch"
    KIND_MISMATCH = "kind_mismatch"
    GPU_EVIDENCE_MISSING = "gpu_evidence_missing"
    GPU_UNSUPPORTED = "gpu_unsupported"
    GPU_COUNT = "gpu_count"
    GPU_DUPLICATE = "gpu_duplicate"
    GPU_SET_MIXED = "gpu_set_mixed"
    GPU_MODE = "gpu_mode"
    GPU_TOPOLOGY = "gpu_topology"
    GPU_FWID = "gpu_fwid"
    GPU_MEASUREMENT = "gpu_measurement"
    SIMULATED = "simulated"
    # TPM quotes and event logs.
    SIGNATURE_MISSING = "signature_missing"
    NONCE_MISSING = "nonce_missing"
    NONCE_MISMATCH = "nonce_mismatch"
    HASH_NOT_ALLOWED = "hash_not_allowed"
    PCR_MISSING = "pcr_missing"
    PCR_NOT_ALLOWED = "pcr_not_allowed"
    PCR_DIGEST_MISMATCH = "pcr_digest_mismatch"
    AK_REFUSED = "ak_refused"
    AK_NOT_CERTIFIED = "ak_not_certified"
    TPM_QUOTE_MISSING = "tpm_quote_missing"
    HARDWARE_REPORT_MISSING = "hardware_report_missing"
    VM_CONFIGURATION = "vm_configuration"
    USER_DATA_MISMATCH = "user_data_mismatch"
    EVENT_LOG_MISSING = "event_log_missing"
    EVENT_LOG_MISMATCH = "event_log_mismatch"
    EVENT_LOG_REFUSED = "event_log_refused"
    # Provenance of what was measured.
    PROVENANCE_MISSING = "provenance_missing"
    PROVENANCE_ROOT = "provenance_root"
    PROVENANCE_INVALID = "provenance_invalid"
    PROVENANCE_IDENTITY = "provenance_identity"
    PROVENANCE_UNAVAILABLE = "provenance_unavailable"
    # Tokens that others signed about a machine, and ours about results.
    TOKEN_KEY_UNKNOWN = "token_key_unknown"
    TOKEN_ISSUER = "token_issuer"
    TOKEN_AUDIENCE = "token_audience"
    TOKEN_EXPIRED = "token_expired"
    TOKEN_NOT_YET_VALID = "token_not_yet_valid"
    MAA_NOT_ALLOWED = "maa_not_allowed"
    MAA_NOT_COMPLIANT = "maa_not_compliant"
    # Signed documents and the log.
    DOCUMENT_SIGNATURE = "document_signature"
    LOG_PROOF = "log_proof"
    LOG_ORIGIN = "log_origin"
    LOG_SIGNATURE = "log_signature"


class VerifierError(Exception):
    """Input that the verifier does not accept.

    `reason` is stable; the text names the field, what was expected and what was seen.
    It never carries secret bytes: everything the verifier reads is public.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
