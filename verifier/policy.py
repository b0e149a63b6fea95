"""Appraisal policy for evidence: what genuine evidence must also be to be acceptable.

Guarantees: every rule has a strict default, so an empty policy refuses whatever a rule can refuse,
and unknown fields are errors. Reference values are whole tuples: one image's launch measurement
cannot be mixed with another's boot chain. Does not say which keys a result opens; that part of a
signed release policy is the broker's (`broker/policies`), which embeds this one.
"""

from __future__ import annotations

import tomllib
from typing import Any, Literal, TypeAlias, final

import msgspec

from verifier.errors import Reason, VerifierError
from verifier.result import TcbStatus
from verifier.wire import canonical
from verifier.wire.canonical import Hex, Struct, require_id
from verifier.wire.documents import Release
from verifier.wire.messages import KeyRef

MAX_POLICY = 256 * 1024
"""Largest policy in bytes, authored or canonical."""


_U16 = 1 << 16
_PCR_NAMES = frozenset(map(str, range(24)))


def _require_length(value: Hex | None, length: int, what: str) -> None:
    if value is not None and len(value) != length:
        raise ValueError(f"{what} has {len(value)} bytes, {length} expected")


@final
class BootReference(Struct, frozen=True):
    """What an event log must prove (see verifier/eventlog/boot.py); each part given, all together.

    Digests are of the log's bank: SHA-384 for CCEL. `boot_applications` are all of them, in order.
    `kernel_cmdline` may be proven as text or as the Linux EFI stub's digest of it. `runtime` are
    events that dstack names, by name, and their payloads; `images` are the digests that containers
    may come from (`sha256:...`), at least one of which was pulled.
    """

    secure_boot: bool | None = None
    dbx_present: bool | None = None
    boot_applications: tuple[Hex, ...] | None = None
    uki_digest: Hex | None = None
    kernel_cmdline: str | None = None
    initrd_digest: Hex | None = None
    verity_root_hash: Hex | None = None
    runtime: dict[str, Hex] | None = None
    images: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not any(
            getattr(self, name) not in (None, (), {}, "") for name in self.__struct_fields__
        ):
            raise ValueError("a boot reference names at least one value")


@final
class TdxReference(Struct, frozen=True, tag="tdx", tag_field="kind"):
    """One TD that is known good: each value that is given must be equal, all of them together.

    `mr_td` and the four RTMRs are 48 bytes each (TDX module ABI, TDINFO). RTMR 3 is extended at run
    time and may be left out; everything else is required, so that a launch measurement never goes
    with a boot chain that nobody named.
    """

    name: str
    mr_td: Hex
    rtmr0: Hex
    rtmr1: Hex
    rtmr2: Hex
    rtmr3: Hex | None = None
    mr_config_id: Hex | None = None
    mr_owner: Hex | None = None
    mr_owner_config: Hex | None = None
    mr_seam: Hex | None = None
    boot: BootReference | None = None

    def __post_init__(self) -> None:
        for what in self.__struct_fields__[1:-1]:
            _require_length(getattr(self, what), 48, what)


@final
class SnpReference(Struct, frozen=True, tag="snp", tag_field="kind"):
    """One SNP guest that is known good (AMD 56860, ATTESTATION_REPORT)."""

    name: str
    measurement: Hex
    host_data: Hex | None = None
    id_key_digest: Hex | None = None
    author_key_digest: Hex | None = None
    family_id: Hex | None = None
    image_id: Hex | None = None

    def __post_init__(self) -> None:
        sizes = (48, 32, 48, 48, 16, 16)
        for what, size in zip(self.__struct_fields__[1:], sizes, strict=True):
            _require_length(getattr(self, what), size, what)


@final
class SgxReference(Struct, frozen=True, tag="sgx", tag_field="kind"):
    """One enclave that is known good: by its very code, or by who signed which product of theirs.

    Each value that is given must be equal, all of them together, and ISVSVN must reach `min_isvsvn`
    (Intel SGX SDM, REPORT). `mrenclave` alone names code; a signer alone names nothing, so that
    without it `mrsigner` and `isvprodid` are both required.
    """

    name: str
    mrenclave: Hex | None = None
    mrsigner: Hex | None = None
    isvprodid: int | None = None
    min_isvsvn: int = 0

    def __post_init__(self) -> None:
        _require_length(self.mrenclave, 32, "mrenclave")
        _require_length(self.mrsigner, 32, "mrsigner")
        if self.mrenclave is None and (self.mrsigner is None or self.isvprodid is None):
            raise ValueError("mrenclave, or mrsigner with isvprodid, is required")
        if not (0 <= (self.isvprodid or 0) < _U16 and 0 <= self.min_isvsvn < _U16):
            raise ValueError("isvprodid and min_isvsvn are from 0 to 65535")


@final
class TpmReference(Struct, frozen=True, tag="tpm", tag_field="kind"):
    """One machine that is known good by its TPM: PCR values of the policy's bank, by index."""

    name: str
    pcrs: dict[str, Hex] = {}  # noqa: RUF012 - msgspec copies defaults
    boot: BootReference | None = None

    def __post_init__(self) -> None:
        if not self.pcrs and self.boot is None:
            raise ValueError("pcrs or boot is required")
        if not self.pcrs.keys() <= _PCR_NAMES:
            raise ValueError("pcrs are named 0 to 23")


Reference: TypeAlias = TdxReference | SnpReference | SgxReference | TpmReference


@final
class TdxRules(Struct, frozen=True):
    """Rules for Intel quotes (reference: Intel QVL and TDX module ABI; see verifier/tdx).

    `tcb_statuses` are admitted as they are; `advisories_allowed` admits SWHardeningNeeded,
    ConfigurationNeeded and both together only where every advisory of the result is in it.
    `out_of_date_grace` is seconds from tcbDate for which OutOfDate is still admitted; 0 is never.
    `ppids` (16 bytes each), where given, are the only platforms admitted.
    """

    tcb_statuses: tuple[TcbStatus, ...] = (TcbStatus.UP_TO_DATE,)
    advisories_allowed: tuple[str, ...] = ()
    out_of_date_grace: int = 0
    min_tcb_evaluation_number: int = 0
    allow_debug: bool = False
    require_sept_ve_disable: bool = True
    allow_migratable: bool = False
    allow_perfmon: bool = False
    service_tds: tuple[Hex, ...] = ()
    ppids: tuple[Hex, ...] = ()


@final
class SgxRules(Struct, frozen=True):
    """Rules for SGX quotes (Intel SGX SDM, ATTRIBUTES); the TCB ones as in `TdxRules`.

    `allow_provisioning` admits enclaves that may ask for the platform's provisioning keys or hold
    the launch key: PROVISIONKEY and EINITTOKEN_KEY, which Intel's own architectural enclaves have.
    """

    tcb_statuses: tuple[TcbStatus, ...] = (TcbStatus.UP_TO_DATE,)
    advisories_allowed: tuple[str, ...] = ()
    out_of_date_grace: int = 0
    min_tcb_evaluation_number: int = 0
    allow_debug: bool = False
    allow_provisioning: bool = False
    ppids: tuple[Hex, ...] = ()


@final
class SnpTcb(Struct, frozen=True):
    """A floor for each part of an SNP TCB version; compared part by part, never as one number."""

    bootloader: int = 0
    tee: int = 0
    snp: int = 0
    microcode: int = 0
    fmc: int = 0


@final
class SnpRules(Struct, frozen=True):
    """Rules for SEV-SNP reports (AMD 56860 GUEST_POLICY, PLATFORM_INFO, TCB_VERSION).

    `required_mitigations` is a mask: each of its bits must be set in both mitigation vectors, that
    of the launch and the current one. Reports before version 5 have none, so a mask refuses them.
    """

    report_versions: tuple[int, ...] = (3, 4, 5)
    products: tuple[Literal["Milan", "Genoa", "Turin"], ...] = ("Milan", "Genoa", "Turin")
    signing_keys: tuple[Literal["VCEK", "VLEK"], ...] = ("VCEK",)
    csps: tuple[str, ...] = ()
    max_vmpl: int = 0
    allow_debug: bool = False
    allow_migration_agent: bool = False
    allow_smt: bool = True
    require_single_socket: bool = False
    allow_cxl: bool = False
    require_mem_aes_256_xts: bool = False
    require_rapl_dis: bool = False
    require_ciphertext_hiding: bool = False
    require_page_swap_disable: bool = False
    min_abi_major: int = 0
    min_abi_minor: int = 0
    require_alias_check: bool = True
    allow_provisional_firmware: bool = False
    allow_masked_chip_id: bool = False
    chip_ids: tuple[Hex, ...] = ()
    min_guest_svn: int = 0
    required_mitigations: int = 0
    min_tcb: dict[Literal["Milan", "Genoa", "Turin"], SnpTcb] = {}  # noqa: RUF012 - msgspec copies defaults


@final
class TpmRules(Struct, frozen=True):
    """Rules for TPM 2.0 quotes (TCG TPM 2.0 Library; see verifier/tpm).

    `bank` and `pcrs` are what a quote must cover. `makers` are those whose roots may stand above an
    AK certificate; without `require_ak_certificate` a bare key counts as vouched for by the caller.
    """

    bank: Literal["sha1", "sha256", "sha384", "sha512"] = "sha256"
    pcrs: tuple[int, ...] = ()
    allow_sha1: bool = False
    allow_resettable: bool = False
    require_ak_certificate: bool = False
    makers: tuple[Literal["azure", "gce"], ...] = ("azure", "gce")


@final
class AzureRules(Struct, frozen=True):
    """Rules for Azure's confidential VMs, beside those of hardware and TPM (see verifier/azure).

    Without `require_tpm_quote` the hardware report and the claims alone are admitted: they prove
    Azure's paravisor and neither the guest's boot nor that any of it is fresh. `allow_console`
    admits a serial console, which Azure gives by default. `user_data`, where given, is what the
    claims must hold, all 64 bytes of it.
    """

    require_tpm_quote: bool = True
    require_secure_boot: bool = True
    require_tpm_enabled: bool = True
    allow_console: bool = True
    user_data: Hex | None = None

    def __post_init__(self) -> None:
        _require_length(self.user_data, 64, "user_data")


@final
class GpuRules(Struct, frozen=True):
    """How many GPUs must prove themselves. Their appraisal is not part of this version."""

    count: int = 0


@final
class AppraisalPolicy(Struct, frozen=True):
    """Rules and reference values. Kinds without a reference value are refused in a release."""

    tdx: TdxRules = TdxRules()
    snp: SnpRules = SnpRules()
    sgx: SgxRules = SgxRules()
    tpm: TpmRules = TpmRules()
    azure: AzureRules = AzureRules()
    gpu: GpuRules = GpuRules()
    reference: tuple[Reference, ...] = ()

    def references(self, kind: type[msgspec.Struct]) -> tuple[Any, ...]:
        """Return the reference values of one kind, in order."""
        return tuple(value for value in self.reference if isinstance(value, kind))


@final
class ReleasePolicy(Struct, frozen=True):
    """What a vendor signs: which keys these machines may have, and on what terms.

    `version` counts up from 1; `predecessor` is the SHA-256 of the previous version's payload (32
    zero bytes for the first). `manifests` are the model digests that the keys may open.
    """

    v: Literal[1]
    genesis: Hex
    name: str
    version: int
    predecessor: Hex
    keys: tuple[KeyRef, ...]
    manifests: tuple[Hex, ...]
    release: Release
    appraisal: AppraisalPolicy

    def __post_init__(self) -> None:
        require_id(self.name, "policy name")
        _require_length(self.genesis, 32, "genesis")
        _require_length(self.predecessor, 32, "predecessor")
        if self.version < 1 or (self.version == 1) != (not any(self.predecessor)):
            raise ValueError("version 1 has no predecessor, every later one has")
        if not self.keys or list(self.keys) != sorted(set(self.keys)):
            raise ValueError("keys are sorted, each once, at least one")
        if not self.manifests or list(self.manifests) != sorted(set(self.manifests)):
            raise ValueError("manifests are sorted, each once, at least one")


def from_mapping(data: object) -> AppraisalPolicy:
    """Return the policy in a parsed TOML or JSON mapping.

    Raises:
        VerifierError: `malformed`, with the path of the field that is wrong.
    """
    try:
        return msgspec.convert(data, AppraisalPolicy, strict=True, dec_hook=canonical.dec_hook)
    except (msgspec.MsgspecError, ValueError) as error:
        raise VerifierError(Reason.MALFORMED, f"policy: {error}") from error


def from_toml(raw: bytes) -> AppraisalPolicy:
    """Return the policy in authored TOML: a table for each kind of rules, and `[[reference]]`.

    Raises:
        VerifierError: `malformed` or `too_large`.
    """
    if len(raw) > MAX_POLICY:
        raise VerifierError(Reason.TOO_LARGE, f"policy of {len(raw)} bytes, limit {MAX_POLICY}")
    try:
        data = tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise VerifierError(Reason.MALFORMED, f"policy is not TOML: {error}") from error
    return from_mapping(data)
