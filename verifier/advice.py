"""Advice for every reason: what to change in the policy or on the machine, in a sentence or two.

Guarantees: every `Reason` has an entry; a field of a policy is named in backticks as it stands in
TOML, its table before it (`tdx.allow_debug`, `reference.mr_td`), and exists in
`verifier/policy.py`. Advice never asks for less than the refusal protects without saying what is
given up.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from verifier.errors import Reason

_READING: Final = {
    Reason.MALFORMED: "The bytes are not what they were given as: take the evidence from the "
    "machine again, and see that nothing on its way re-encodes, cuts or pads it.",
    Reason.TOO_LARGE: "The input is larger than anything genuine: see that the right file was "
    "named.",
    Reason.UNSUPPORTED: "This version cannot judge evidence of this form. Use a newer version, or "
    "a machine that makes another form; no policy changes it.",
    Reason.TRAILING_DATA: "Something follows the evidence: cut the file to the length that the "
    "evidence declares, or find out who appended to it.",
}

_CHAINS: Final = {
    Reason.COLLATERAL_MISSING: "Give the vendor's endorsements with the evidence: `ostiary "
    "collateral` fetches them, or the machine's cloud hands them out.",
    Reason.COLLATERAL_UNAVAILABLE: "The vendor's endorsements could not be had. See that the "
    "vendor's service can be reached, or take in a signed bundle with `ostiary collateral`.",
    Reason.COLLATERAL_MALFORMED: "The collateral is not in the form that the vendor publishes: "
    "fetch it again and pass it on byte for byte.",
    Reason.COLLATERAL_SIGNATURE: "The collateral is not signed by the vendor: throw it away and "
    "fetch it from another place.",
    Reason.COLLATERAL_EXPIRED: "The collateral's time is over: fetch it anew, and see that the "
    "judging machine's clock, or --at, is right.",
    Reason.COLLATERAL_NOT_YET_VALID: "The collateral is from the future: see that the judging "
    "machine's clock, or --at, is right.",
    Reason.COLLATERAL_MISMATCH: "The collateral is for another platform or another use: fetch it "
    "for the FMSPC, PCEID and CA that the evidence's own certificate names.",
    Reason.COLLATERAL_TOO_OLD: "The collateral is older than the policy or an earlier verdict "
    "allows: fetch it anew, or lower `tdx.min_tcb_evaluation_number` "
    "(`sgx.min_tcb_evaluation_number`) and accept that recovered flaws go unseen.",
    Reason.CRL_MISSING: "Give the vendor's revocation list. Without one nobody can tell whether "
    "the machine's certificate was revoked; only `ostiary verify snp --no-crl` "
    "goes on, and says so.",
    Reason.CRL_INVALID: "The revocation list is not the issuer's, or not well formed: fetch it "
    "from the vendor again.",
    Reason.CRL_EXPIRED: "The revocation list's time is over: fetch a new one, and see that the "
    "judging machine's clock, or --at, is right.",
    Reason.CERTIFICATE_REVOKED: "The vendor revoked a certificate of this machine: take the "
    "machine out of service and ask its vendor or cloud why. No policy admits it.",
    Reason.CERTIFICATE_EXPIRED: "A certificate's time is over or has not begun: have the machine "
    "certified anew, and see that the judging machine's clock, or --at, is right.",
    Reason.CERTIFICATE_INVALID: "A certificate is not of the form that the vendor issues: fetch "
    "the machine's certificates again from the vendor.",
    Reason.CHAIN_INVALID: "The certificates do not follow from one another: give the whole chain "
    "of this very machine and product, each certificate with its own issuer.",
    Reason.ROOT_UNKNOWN: "The chain ends at a root that is not the vendor's. If the machine is "
    "simulated, it is admitted only by a broker set up with simulated roots; otherwise the "
    "evidence is forged or its chain is of another product.",
    Reason.RIM_EXPIRED: "The certificates that signed NVIDIA's reference manifest have ended: "
    "fetch it again, for NVIDIA signs manifests anew; or admit this very document by its SHA-256 "
    "in `gpu.expired_rims`, and believe an old signature.",
    Reason.CERTIFICATE_HOLD: "NVIDIA has put a certificate on hold: wait until it is lifted. For "
    "signers of reference manifests, and never for devices, `gpu.allow_hold_rim` admits it.",
    Reason.REVOCATION_MISSING: "Nobody says whether a certificate was revoked: fetch OCSP answers "
    "with `ostiary collateral`. Without `gpu.require_revocation` a revoked device can pass.",
    Reason.REVOCATION_INVALID: "An OCSP answer or revocation list is not NVIDIA's, or not for this "
    "certificate and time: fetch it again, and see that the judging machine's clock is right.",
    Reason.REVOCATION_EXPIRED: "An OCSP answer or revocation list is over: fetch it anew. "
    "`gpu.ocsp_grace` admits good OCSP answers for some seconds more, in which a revocation is "
    "not seen.",
    Reason.NRAS_REFUSED: "NVIDIA's remote attestation service does not call the devices good, and "
    "was asked for a second opinion: see what it says; no policy overrules it while it is asked.",
}

_GENUINE: Final = {
    Reason.SIGNATURE_INVALID: "The evidence was changed after it was signed, or is signed by "
    "another key: take it from the machine again; if that does not help, treat it as forged.",
    Reason.QE_REPORT_INVALID: "Intel's quoting enclave does not vouch for the key that signed the "
    "quote: take a new quote; if that does not help, treat it as forged.",
    Reason.QE_IDENTITY_MISMATCH: "The quote was made by another quoting enclave than the "
    "collateral names: update the host's quoting service, and fetch collateral of the same TEE.",
    Reason.TDX_MODULE_MISMATCH: "The TDX module is not one that Intel's TCB info names: update the "
    "host's TDX module (firmware), then fetch the collateral anew.",
    Reason.PRODUCT_MISMATCH: "Report and certificates are of different processor products: give "
    "VEK, ASK and ARK of the product that made the report.",
    Reason.CHIP_ID_MISMATCH: "The VEK certificate is of another chip: fetch it for the CHIP_ID "
    "that stands in the report.",
    Reason.TCB_MISMATCH: "Report and VEK certificate name different firmware, or the report's own "
    "versions contradict one another: fetch the VEK for the report's REPORTED_TCB.",
}

_TCB: Final = {
    Reason.TCB_NOT_SUPPORTED: "Intel's TCB info has no level for this platform: fetch the "
    "collateral anew for its FMSPC, and update the host's firmware.",
    Reason.TCB_STATUS: "Update the host's firmware and microcode. If you know and bear the flaws, "
    "list the advisories in `tdx.advisories_allowed`, the status in `tdx.tcb_statuses`, or give "
    "`tdx.out_of_date_grace` (for SGX the same names under `sgx`).",
    Reason.TCB_REVOKED: "Intel declares this platform's TCB broken: update firmware and microcode. "
    "No policy admits it.",
    Reason.TCB_BELOW_MINIMUM: "Firmware or guest is older than the policy's floor: update it, or "
    "lower `snp.min_tcb`, `snp.min_guest_svn` or, for an enclave, `reference.min_isvsvn`.",
    Reason.TCB_PROVISIONAL: "The host runs firmware that it can still roll back: have its operator "
    "commit it, or set `snp.allow_provisional_firmware` and bear the rollback.",
}

_WORKLOAD: Final = {
    Reason.DEBUG_ENABLED: "The host can read this machine's memory: launch it without debug. "
    "`tdx.allow_debug`, `snp.allow_debug` and `sgx.allow_debug` are for tests without secrets.",
    Reason.ATTRIBUTES_REFUSED: "The launch switched on what the policy refuses: launch with the "
    "attributes that were expected, or see `tdx.require_sept_ve_disable`, `tdx.allow_perfmon` and "
    "`sgx.allow_provisioning`. Reserved bits are admitted by no policy.",
    Reason.MIGRATION_ALLOWED: "The machine may be moved to a host that nobody appraised: launch it "
    "without migration, or set `tdx.allow_migratable` or `snp.allow_migration_agent`.",
    Reason.SERVICE_TD: "A service TD is bound to this one and can act on it: launch without, or "
    "list its measurement in `tdx.service_tds` after reviewing it.",
    Reason.VMPL: "The report was asked for from a less privileged level of the guest: ask for it "
    "at VMPL 0, or raise `snp.max_vmpl` if a paravisor above your guest is known.",
    Reason.GUEST_POLICY: "The guest was launched with another GUEST_POLICY than the policy asks "
    "for: launch it with the bits that were expected, or change the rule of that name, such as "
    "`snp.allow_smt`, `snp.allow_cxl`, `snp.require_single_socket` or `snp.min_abi_major`.",
    Reason.PLATFORM_INFO: "The host's firmware does not have a protection that the policy needs: "
    "update it or switch it on, or change `snp.require_alias_check`, `snp.require_rapl_dis`, "
    "`snp.require_ciphertext_hiding` or `snp.required_mitigations`.",
    Reason.PLATFORM_NOT_ALLOWED: "This machine, product or signing key is not one that the policy "
    "lists: add it to `tdx.ppids`, `sgx.ppids`, `snp.chip_ids`, `snp.products` or "
    "`snp.signing_keys`, or use a machine that is listed.",
    Reason.CHIP_ID_MASKED: "The host hides its CHIP_ID, so that nobody can tell which machine it "
    "is: have its operator show it, or set `snp.allow_masked_chip_id`.",
    Reason.CSP_NOT_ALLOWED: "A cloud's key (VLEK) signed the report: add the cloud to `snp.csps` "
    "if you trust it with that, or use a machine that signs with its VCEK.",
    Reason.REPORT_VERSION_NOT_ALLOWED: "The firmware writes another report version than the policy "
    "lists: update the host's firmware, or add the version to `snp.report_versions`.",
    Reason.MEASUREMENT_UNKNOWN: "Another image, firmware or configuration runs there than any "
    "reference names. Start the image that was reviewed, or review this one and add a whole "
    "`[[reference]]` for it (`ostiary policy capture` drafts it).",
    Reason.NO_REFERENCE_VALUES: "The policy has no `[[reference]]` for this kind of evidence: add "
    "one for an image that was reviewed (`ostiary policy capture` drafts it).",
    Reason.REPORT_DATA_MISMATCH: "The evidence was made for another challenge, key or tenant, or "
    "is replayed: ask for a new challenge and make the evidence for it.",
    Reason.KIND_MISMATCH: "Evidence and endorsements, or evidence and what was asked for, are of "
    "different TEEs: name the kind that the machine really is.",
    Reason.GPU_EVIDENCE_MISSING: "The policy wants GPUs to prove themselves and no evidence of "
    "them came: send it, or set `gpu.count` to 0 and trust no GPU.",
    Reason.GPU_UNSUPPORTED: "A GPU is genuine but of a kind, or reports in a form, that this "
    "version cannot appraise in full: use one that it can, or a newer version.",
    Reason.GPU_COUNT: "More or fewer devices prove themselves than the policy asks for: send the "
    "evidence of every GPU and switch of the machine, or set `gpu.count` and `gpu.switches`.",
    Reason.GPU_DUPLICATE: "One device stands in the set twice: send the evidence of each device "
    "once.",
    Reason.GPU_SET_MIXED: "The devices of a set differ in chip, driver, mode or nonce: ask all of "
    "one machine with one nonce, after setting them up alike.",
    Reason.GPU_MODE: "A GPU is not in a confidential mode that the policy admits, or contradicts "
    "itself about it: set the machine's mode and reboot it, or see `gpu.modes`.",
    Reason.GPU_TOPOLOGY: "GPUs and switches are not wired to one another: a protected-PCIe set is "
    "8 GPUs and the 4 locked switches of the same board, each naming the others.",
    Reason.GPU_FWID: "The firmware that signed the report is not the one that the device's "
    "certificate names, or the report does not say: update the driver, or if it is an old one "
    "that cannot tell, see `gpu.require_fwid`.",
    Reason.GPU_MEASUREMENT: "A device runs firmware or a driver with other measurements than "
    "NVIDIA's reference manifests (RIM) give: reset it, and look at the indices that differ; if "
    "NVIDIA issued the manifest anew, fetch it.",
    Reason.SIMULATED: "The evidence is SIMULATED and proves nothing: use real hardware, or a "
    "broker that was set up for the demo.",
}

_MEASURED: Final = {
    Reason.SIGNATURE_MISSING: "A quote without its signature proves nothing: hand in the signature "
    "that the TPM gave with it.",
    Reason.NONCE_MISSING: "Without the challenge's nonce a quote may be old: give --nonce; "
    "--no-nonce goes on, and says that freshness was not judged.",
    Reason.NONCE_MISMATCH: "The quote answers another challenge, or is replayed: take a new quote "
    "over the nonce that was asked for.",
    Reason.HASH_NOT_ALLOWED: "The quote uses a hash that is too weak: quote the bank in "
    "`tpm.bank`, or set `tpm.allow_sha1` and bear forged measurements.",
    Reason.PCR_MISSING: "The quote lacks a PCR, or its value was not handed in: quote all of "
    "`tpm.pcrs` in `tpm.bank`, and send their values.",
    Reason.PCR_NOT_ALLOWED: "A PCR is quoted that software can reset, so that it proves nothing: "
    "leave it out of `tpm.pcrs`, or set `tpm.allow_resettable`.",
    Reason.PCR_DIGEST_MISMATCH: "The PCR values are not those that were quoted: read values and "
    "quote at the same moment, and send them unchanged.",
    Reason.AK_REFUSED: "The attestation key is missing or of a form that can sign anything: make a "
    "restricted signing key in the TPM and quote with it.",
    Reason.AK_NOT_CERTIFIED: "Nobody vouches for the attestation key: give its certificate with "
    "the chain of a maker in `tpm.makers`; only without `tpm.require_ak_certificate` does a bare "
    "key count, as vouched for by whoever named it.",
    Reason.TPM_QUOTE_MISSING: "The hardware's report stands alone, so that neither freshness nor "
    "the guest's boot is proven: send the vTPM's quote, its signature and PCR values with it. "
    "Without `azure.require_tpm_quote`, or `gcp.require_tpm`, the report alone is admitted.",
    Reason.HARDWARE_REPORT_MISSING: "A vTPM is its host's and proves nothing without the "
    "hardware: send the TD quote or SNP report from configfs-tsm, taken over the same report data.",
    Reason.VM_CONFIGURATION: "The VM was created with other settings than the policy asks for: "
    "create it with those, or see `azure.require_secure_boot`, `azure.require_tpm_enabled` and "
    "`azure.allow_console`.",
    Reason.USER_DATA_MISMATCH: "The evidence was made for other user data, or is replayed: have "
    "the machine make it anew over what `azure.user_data` says, or change that.",
    Reason.EVENT_LOG_MISSING: "A reference names what an event log must prove, and no log that "
    "replays was given: send the machine's log, or take out `reference.boot`.",
    Reason.EVENT_LOG_MISMATCH: "The event log does not replay to the quoted registers: read log "
    "and quote at the same moment, from the same machine; else the log was changed.",
    Reason.EVENT_LOG_REFUSED: "The event log replays, but its events contradict themselves or the "
    "digests that they claim: treat what it says as forged, or update what writes it.",
}

_PROVENANCE: Final = {
    Reason.PROVENANCE_MISSING: "The policy wants to know who built what was measured: give the "
    "Sigstore bundle about that very digest (`--provenance`), and the log that proves the digest; "
    "or take out `provenance.subject` and trust the references alone.",
    Reason.PROVENANCE_ROOT: "The trusted root is not one that the policy pins, or cannot be read: "
    "give the file whose SHA-256 stands in `provenance.trusted_roots`, or review the new one and "
    "add it there.",
    Reason.PROVENANCE_INVALID: "The bundle is not genuine under this trusted root: take it from "
    "whoever published it again, byte for byte; if that does not help, treat it as forged.",
    Reason.PROVENANCE_IDENTITY: "The bundle is genuine, but somebody else signed it, or from "
    "another source or as something else: find out who built this, or change "
    "`provenance.identity`, `provenance.issuer`, `provenance.repository`, `provenance.ref` or "
    "`provenance.predicate_type`.",
    Reason.PROVENANCE_UNAVAILABLE: "This installation cannot verify Sigstore bundles: install "
    "the extra `provenance`. Nothing that demands them is accepted without it.",
}

_TOKENS: Final = {
    Reason.TOKEN_KEY_UNKNOWN: "The token is signed by a key that is not in the set that was given: "
    "fetch the issuer's current keys, and take the token from where you meant to.",
    Reason.TOKEN_ISSUER: "Somebody else issued the token than was expected: name the right issuer "
    "(`maa.issuers`, or --issuer), or treat the token as foreign.",
    Reason.TOKEN_AUDIENCE: "The token was made for somebody else: ask for one in your own name.",
    Reason.TOKEN_EXPIRED: "The token, or what it rests on, is over: ask for a new one, and see "
    "that the judging machine's clock, or --at, is right.",
    Reason.TOKEN_NOT_YET_VALID: "The token is from the future: see that the judging machine's "
    "clock, or --at, is right.",
    Reason.MAA_NOT_ALLOWED: "The policy does not admit Microsoft's word for the hardware's: "
    "appraise the machine's own evidence, or list the instance of Azure Attestation that you "
    "trust in `maa.issuers`.",
    Reason.MAA_NOT_COMPLIANT: "Azure Attestation does not call the machine a compliant "
    "confidential VM: see why in Azure; no policy overrules it.",
}

_DOCUMENTS: Final = {
    Reason.DOCUMENT_SIGNATURE: "The document is not signed by enough of the expected signers, or "
    "is of another type: have it signed anew by enrolled keys.",
    Reason.LOG_PROOF: "The proof does not lead from this leaf to this checkpoint: fetch leaf, "
    "receipt and checkpoint again; if that does not help, the log was changed, so raise it.",
    Reason.LOG_ORIGIN: "The checkpoint is of another log: name the origin that your genesis gives.",
    Reason.LOG_SIGNATURE: "The checkpoint is not signed by the key in your genesis: fetch it "
    "again; if that does not help, the broker is not the one that you enrolled with.",
}

ADVICE: Final[Mapping[Reason, str]] = MappingProxyType(
    _READING
    | _CHAINS
    | _GENUINE
    | _TCB
    | _WORKLOAD
    | _MEASURED
    | _PROVENANCE
    | _TOKENS
    | _DOCUMENTS
)
"""What to do, by reason."""

STOPS: Final = frozenset(_READING | _CHAINS | _GENUINE) - {
    Reason.TCB_MISMATCH,  # of the report's own versions: judged with everything else
    Reason.COLLATERAL_TOO_OLD,  # a floor of the policy
}
"""Reasons for which evidence is not genuine; nothing after them was looked at."""
