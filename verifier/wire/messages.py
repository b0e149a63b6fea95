"""What runtime and broker say to each other. Field order is the wire order; see SPEC.md.

Guarantees: a message that `canonical.decode` returned has sizes and identifiers within bounds
(checked in `__post_init__`, so no other instance exists). Does not check signatures or freshness.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, final

from verifier.errors import Reason, VerifierError
from verifier.wire import framing
from verifier.wire.canonical import B64, Hex, Struct, require_id

Purpose: TypeAlias = Literal["release", "renew"]
Kind: TypeAlias = Literal["tdx", "snp", "azure-snp", "azure-tdx", "gcp-tdx", "gcp-snp"]
"""What evidence a release can rest on. A TPM by itself is none: its host can say anything."""

WRAP_RSA: Final = "rsa-oaep-3072"
"""Recipient key that the DEK is wrapped to: RSA, 3072 bits, e = 65537 (SPKI DER)."""
INSTANCE: Final = "instance-ed25519"
"""The runtime's per-boot signing key (SPKI DER); it signs renewals and registry requests."""
HPKE: Final = "hpke-mlkem768-x25519"
"""The slot of the outer post-quantum layer. Named so that it is refused by name for now."""

MAX_KEYS = 16
MAX_RECIPIENTS = 4
MAX_GPUS = 64
MAX_DEVICE = 16 * 1024
"""Most bytes of a device's report, and of its chain: a driver gives 8 KiB and 5 KiB at most."""
MAX_PCRS = 96
MAX_BUNDLES = 32
MAX_PROVENANCE = 4 << 20
"""Largest `ProvenanceSet` in bytes, as it is sent and stored."""
MAX_CERTIFICATES = 10
DIGEST = 32


def bounded(value: bytes, low: int, high: int, what: str) -> None:
    """Raise `malformed` unless `value` has `low` to `high` bytes."""
    if not low <= len(value) <= high:
        raise VerifierError(Reason.MALFORMED, f"{what} has {len(value)} bytes, not {low}..{high}")


@final
class KeyRef(Struct, frozen=True, order=True):
    """One version of one key: one DEK per model version."""

    id: str
    version: int

    def __post_init__(self) -> None:
        require_id(self.id, "key id")
        if not 1 <= self.version < 1 << 32:
            raise VerifierError(Reason.MALFORMED, "key version out of range")

    def label(self) -> bytes:
        """Return the form that is hashed and shown, `id/version`."""
        return f"{self.id}/{self.version}".encode()


@final
class Recipient(Struct, frozen=True):
    """A public key born inside the workload, and what it is for."""

    alg: Literal["rsa-oaep-3072", "instance-ed25519", "hpke-mlkem768-x25519"]
    key: B64

    def __post_init__(self) -> None:
        bounded(self.key, 32, 2048, "recipient key")


@final
class GpuEvidence(Struct, frozen=True):
    """One device's report and certificate chain as it sent them. `kind`: 1 GPU, 2 NVSwitch."""

    kind: Literal[1, 2]
    report: B64
    chain: B64

    def __post_init__(self) -> None:
        bounded(self.report, 1, MAX_DEVICE, "device report")
        bounded(self.chain, 1, MAX_DEVICE, "device chain")


@final
class Pcr(Struct, frozen=True, order=True):
    """One PCR's value as the machine reports it; it counts if the quote covers it."""

    bank: Literal["sha1", "sha256", "sha384", "sha512"]
    index: int
    value: Hex

    def __post_init__(self) -> None:
        if not 0 <= self.index < 24 or len(self.value) != _PCR_SIZES[self.bank]:  # noqa: PLR2004 - PCRs of a PC client TPM
            raise VerifierError(Reason.MALFORMED, f"PCR {self.bank} {self.index}")


_PCR_SIZES: Final = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}


@final
class Vtpm(Struct, frozen=True):
    """What a virtual TPM says: its quote over the exchange, and what goes with it.

    `message` (TPMS_ATTEST) is signed by `signature` (TPMT_SIGNATURE, or the bare RSA signature);
    `certificates` are the attestation key's own and its issuers', the root last, DER; `event_log`
    is the TPM's. `hcl_report` is Azure's NV index 0x01400001, empty elsewhere.
    """

    message: B64
    signature: B64
    pcrs: tuple[Pcr, ...]
    certificates: tuple[B64, ...] = ()
    event_log: B64 = B64()
    hcl_report: B64 = B64()

    def __post_init__(self) -> None:
        bounded(self.message, 1, 4096, "TPM message")
        bounded(self.signature, 1, 1024, "TPM signature")
        bounded(self.event_log, 0, 256 * 1024, "TPM event log")
        bounded(self.hcl_report, 0, 16 * 1024, "HCL report")
        names = [(pcr.bank, pcr.index) for pcr in self.pcrs]
        if len(names) > MAX_PCRS or names != sorted(set(names)):
            raise VerifierError(Reason.MALFORMED, "PCRs are at most 96, sorted, each once")
        if len(self.certificates) > MAX_CERTIFICATES:
            raise VerifierError(Reason.MALFORMED, "too many certificates")
        for certificate in self.certificates:
            bounded(certificate, 1, 8 * 1024, "AK certificate")


@final
class Evidence(Struct, frozen=True):
    """Evidence as the devices gave it. Its kind stands in the challenge, never here.

    `cpu` is the TD quote or SNP report; it is empty for `azure-snp`, which has it in the HCL
    report, and so never without `vtpm`. `event_log` is the boot log that goes with it,
    `runtime_log` an AAEL, `endorsements` certificates that the platform handed over, `ak` the
    vTPM's public key, to which report data is bound. All but `cpu` may be empty.
    """

    cpu: B64
    event_log: B64 = B64()
    runtime_log: B64 = B64()
    endorsements: B64 = B64()
    ak: B64 = B64()
    gpus: tuple[GpuEvidence, ...] = ()
    vtpm: Vtpm | None = None

    def __post_init__(self) -> None:
        bounded(self.cpu, 1 if self.vtpm is None else 0, 128 * 1024, "CPU evidence")
        bounded(self.runtime_log, 0, 256 * 1024, "runtime log")
        bounded(self.ak, 0, 2048, "AK")
        if len(self.gpus) > MAX_GPUS:
            raise VerifierError(Reason.MALFORMED, "too many devices")


@final
class ChallengeRequest(Struct, frozen=True):
    """Asks for a challenge. `caller` is the SHA-256 of the instance key's SPKI."""

    v: Literal[1]
    tenant: str
    purpose: Purpose
    kind: Kind
    caller: Hex

    def __post_init__(self) -> None:
        require_id(self.tenant, "tenant")
        bounded(self.caller, DIGEST, DIGEST, "caller")


@final
class ChallengeAnswer(Struct, frozen=True):
    """A challenge and who gave it. `expires` is unix seconds.

    `document` is the tenant's signed genesis (DSSE). Whoever asks compares its digest, and the
    broker named in it, with the anchor that its launch measured; nothing here is trusted before.
    """

    v: Literal[1]
    challenge: B64
    expires: int
    document: B64


@final
class ReleaseRequest(Struct, frozen=True):
    """Asks for keys. `claims` are the runtime's own claims, hashed as sent."""

    v: Literal[1]
    challenge: B64
    keys: tuple[KeyRef, ...]
    recipients: tuple[Recipient, ...]
    evidence: Evidence
    claims: B64

    def __post_init__(self) -> None:
        _check_common(self.challenge, self.keys, self.recipients, self.claims)


@final
class RenewRequest(Struct, frozen=True):
    """Asks to prolong a lease with fresh evidence, signed by the instance key. Returns no key."""

    v: Literal[1]
    challenge: B64
    lease: str
    keys: tuple[KeyRef, ...]
    recipients: tuple[Recipient, ...]
    evidence: Evidence
    claims: B64
    signature: B64

    def __post_init__(self) -> None:
        require_id(self.lease, "lease")
        bounded(self.signature, 64, 64, "signature")
        _check_common(self.challenge, self.keys, self.recipients, self.claims)


def _check_common(
    challenge: bytes, keys: tuple[KeyRef, ...], recipients: tuple[Recipient, ...], claims: bytes
) -> None:
    bounded(challenge, 1, 4096, "challenge")
    bounded(claims, 0, 16 * 1024, "claims")
    if not 1 <= len(keys) <= MAX_KEYS or list(keys) != sorted(set(keys)):
        raise VerifierError(Reason.MALFORMED, "keys are 1 to 16, sorted, each once")
    if not 1 <= len(recipients) <= MAX_RECIPIENTS:
        raise VerifierError(Reason.MALFORMED, "recipients are 1 to 4")
    if len({recipient.alg for recipient in recipients}) != len(recipients):
        raise VerifierError(Reason.MALFORMED, "two recipients for one algorithm")


def recipient(recipients: tuple[Recipient, ...], alg: str) -> bytes:
    """Return the key of the recipient with this algorithm.

    Raises:
        VerifierError: `malformed` if there is none.
    """
    for entry in recipients:
        if entry.alg == alg:
            return entry.key
    raise VerifierError(Reason.MALFORMED, f"no {alg} recipient")


@final
class Lease(Struct, frozen=True):
    """A release's span. Times are unix seconds; renew from `renew_after` on."""

    id: str
    not_after: int
    renew_after: int


@final
class WrappedKey(Struct, frozen=True):
    """One DEK wrapped to the recipient's RSA key. `alg` names the OAEP hash that the HSM has."""

    id: str
    version: int
    manifest: Hex
    alg: Literal["rsa-oaep-sha1", "rsa-oaep-sha256"]
    wrapped: B64


@final
class ReleaseAnswer(Struct, frozen=True, tag="release", tag_field="type"):
    """The payload of a release's DSSE envelope, signed by the broker's key in the HSM.

    `leaf` are the exact bytes in the log, `receipt` the C2SP tlog-proof for them (text), `result`
    the attestation result as JSON.
    """

    v: Literal[1]
    broker: Hex
    genesis: Hex
    challenge: Hex
    recipients: Hex
    policies: tuple[Hex, ...]
    keys: tuple[WrappedKey, ...]
    lease: Lease
    leaf: B64
    receipt: str
    result: B64


@final
class RenewalAnswer(Struct, frozen=True, tag="renewal", tag_field="type"):
    """The payload of a renewal's DSSE envelope: a longer lease and its leaf, no key."""

    v: Literal[1]
    broker: Hex
    genesis: Hex
    challenge: Hex
    recipients: Hex
    lease: Lease
    leaf: B64
    receipt: str
    result: B64


@final
class KeyImport(Struct, frozen=True):
    """A vendor hands in a DEK: its signed statement (DSSE) and the RSA-OAEP ciphertext."""

    v: Literal[1]
    statement: B64
    ciphertext: B64


@final
class ProvenanceSet(Struct, frozen=True):
    """A vendor hands in who built what a policy admits: Sigstore bundles and one trusted root.

    All are JSON documents as their makers wrote them. Nothing here is trusted by being sent: the
    policy pins the root, and bundles are signed.
    """

    v: Literal[1]
    trusted_root: B64
    bundles: tuple[B64, ...]

    def __post_init__(self) -> None:
        bounded(self.trusted_root, 1, MAX_PROVENANCE, "trusted root")
        if not 1 <= len(self.bundles) <= MAX_BUNDLES:
            raise VerifierError(Reason.MALFORMED, f"1 to {MAX_BUNDLES} bundles expected")
        for bundle in self.bundles:
            bounded(bundle, 1, MAX_PROVENANCE, "bundle")


ANSWER_TYPE: Final = "application/vnd.ostiary.answer.v1+json"
"""DSSE payload type of `ReleaseAnswer` and `RenewalAnswer`."""

RENEW_DOMAIN: Final = b"ostiary/renew/v1"


def renewal_message(report_data: bytes, lease: str) -> bytes:
    """Return what the instance key signs to renew: the lease and everything the report binds."""
    return RENEW_DOMAIN + framing.lp(lease.encode()) + framing.lp(report_data)
