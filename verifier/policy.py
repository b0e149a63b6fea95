"""Appraisal policy for evidence: what genuine evidence must also be to be acceptable.

Guarantees: every rule has a strict default, so an empty policy refuses whatever a rule can refuse,
and unknown fields are errors. Reference values are whole tuples: one image's launch measurement
cannot be mixed with another's boot chain. Does not say which keys a result opens; that part of a
signed release policy is the broker's (`broker/policies`), which embeds this one.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, TypeVar, final

import msgspec

from verifier.errors import Reason, VerifierError
from verifier.references import ReferenceIndex, Valued
from verifier.result import TcbStatus
from verifier.wire import canonical
from verifier.wire.canonical import Hex, Struct, require_id
from verifier.wire.documents import Release
from verifier.wire.messages import KeyRef

MAX_POLICY = 256 * 1024
"""Largest policy in bytes, authored or canonical."""


MAX_GPUS = 64
"""Most GPUs, and most switches, of one machine."""

DRIVER_VERSION = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6}){1,3}", re.ASCII)
"""A driver's version as NVIDIA writes it; parts are decimal."""
VBIOS_VERSION = re.compile(r"[0-9A-F]{2}(\.[0-9A-F]{2}){4}", re.ASCII)
"""A VBIOS version as NVIDIA writes it; parts are hexadecimal."""

ISSUER = re.compile(r"https://[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63}){1,8}(:[0-9]{1,5})?", re.ASCII)
"""An instance of Azure Attestation, as it stands in `iss`: no path, no slash at the end."""

R = TypeVar("R", bound=Valued)
_U16 = 1 << 16
_PCR_NAMES = frozenset(map(str, range(24)))


def _given(reference: msgspec.Struct, names: tuple[str, ...]) -> dict[str, Any]:
    values = ((name, getattr(reference, name)) for name in names)
    return {name: value for name, value in values if value is not None}


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

    def values(self) -> dict[str, Hex]:
        """Return the measurements that are given, by the name of the TD report's field."""
        return _given(self, self.__struct_fields__[1:-1])


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

    def values(self) -> dict[str, Hex]:
        """Return the values that are given, by the name of the report's field."""
        return _given(self, self.__struct_fields__[1:])


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

    def values(self) -> dict[str, Hex | int]:
        """Return the values that must be equal, by the name of the enclave report's field."""
        return _given(self, ("mrenclave", "mrsigner", "isvprodid"))


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

    def values(self) -> dict[str, Hex]:
        """Return the PCR values that are given, by index; the log's part is not among them."""
        return self.pcrs


@final
class MaaReference(Struct, frozen=True, tag="maa", tag_field="kind"):
    """One confidential VM that is known good, as Azure Attestation tells of it.

    `attestation_type` says which of the values there are: for `sevsnpvm` `launch_measurement` and
    what follows from it, for `tdxvm` `mr_td` and the RTMRs; each that is given must be equal.
    """

    name: str
    attestation_type: Literal["sevsnpvm", "tdxvm"]
    launch_measurement: Hex | None = None
    host_data: Hex | None = None
    id_key_digest: Hex | None = None
    mr_td: Hex | None = None
    rtmr0: Hex | None = None
    rtmr1: Hex | None = None
    rtmr2: Hex | None = None
    rtmr3: Hex | None = None

    def __post_init__(self) -> None:
        for what in self.__struct_fields__[2:]:
            _require_length(getattr(self, what), 32 if what == "host_data" else 48, what)
        amd = self.attestation_type == "sevsnpvm"
        foreign = self.__struct_fields__[5:] if amd else self.__struct_fields__[2:5]
        if (self.launch_measurement if amd else self.mr_td) is None:
            raise ValueError("launch_measurement (sevsnpvm) or mr_td (tdxvm) is required")
        if any(getattr(self, what) is not None for what in foreign):
            raise ValueError("values of the other attestation type")

    def values(self) -> dict[str, Hex]:
        """Return the values that are given, by our names of them."""
        return _given(self, self.__struct_fields__[2:])


Reference: TypeAlias = TdxReference | SnpReference | SgxReference | TpmReference | MaaReference


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
class GcpRules(Struct, frozen=True):
    """Rules for Google's confidential VMs, beside those of their hardware (see verifier/gcp).

    The vTPM is the host's, so that it proves nothing the host would not like: it is shown, and a
    bad quote denies. With `require_tpm` one must be there, and fit a tpm reference; that narrows
    what the hardware report admits, and replaces nothing of it.
    """

    require_tpm: bool = False


@final
class MaaRules(Struct, frozen=True):
    """Whether Azure Attestation's word may stand for the hardware's (see verifier/maa).

    `issuers` are the instances that are believed, by their exact URL; none are, unless listed:
    Microsoft then vouches for hardware and TCB, and nobody sees their evidence.
    """

    issuers: tuple[str, ...] = ()
    attestation_types: tuple[Literal["sevsnpvm", "tdxvm"], ...] = ("sevsnpvm", "tdxvm")
    require_secure_boot: bool = True
    allow_debug: bool = False

    def __post_init__(self) -> None:
        for issuer in self.issuers:
            if ISSUER.fullmatch(issuer) is None:
                raise ValueError("issuers are URLs like https://name.region.attest.azure.net")


@final
class GpuRules(Struct, frozen=True):
    """Which NVIDIA GPUs and switches must prove themselves, and how good they must be.

    `count` and `switches` are exact; 0 says that there are none. `min_driver` is a version such as
    "550.90.07"; `min_vbios` has one by chip ("GH100", "LS10"), such as "96.00.9F.00.01".
    `device_ids` (9 bytes each: the serial number of a device's BROM certificate), where given, are
    the only devices admitted. `require_fwid` refuses GPUs whose old driver does not say which
    firmware reports; a wrong one is always refused.

    `rims` (SHA-256 each), where given, are the only reference manifests used; `expired_rims` are
    used though their signer's certificate has ended. `allow_hold_rim` admits a RIM signer that is
    on hold, `ocsp_grace` is seconds for which an OCSP answer counts after its end; 0 is never.
    """

    count: int = 0
    switches: int = 0
    archs: tuple[Literal["hopper", "blackwell"], ...] = ("hopper",)
    modes: tuple[Literal["spt", "mpt", "ppcie"], ...] = ("spt", "mpt", "ppcie")
    min_driver: str | None = None
    min_vbios: dict[str, str] = {}  # noqa: RUF012 - msgspec copies defaults
    device_ids: tuple[Hex, ...] = ()
    require_fwid: bool = True
    rims: tuple[Hex, ...] = ()
    expired_rims: tuple[Hex, ...] = ()
    require_revocation: bool = True
    allow_hold_rim: bool = False
    ocsp_grace: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.count <= MAX_GPUS and 0 <= self.switches <= MAX_GPUS):
            raise ValueError(f"count and switches are from 0 to {MAX_GPUS}")
        if self.switches and not self.count:
            raise ValueError("switches without GPUs prove nothing: count is required")
        if self.switches and "ppcie" not in self.modes:
            raise ValueError("switches are attested in mode ppcie only")
        if self.ocsp_grace < 0:
            raise ValueError("ocsp_grace is 0 or more seconds")
        for value in self.device_ids:
            _require_length(value, 9, "device id")
        for value in (*self.rims, *self.expired_rims):
            _require_length(value, 32, "RIM digest")
        if self.min_driver is not None and not DRIVER_VERSION.fullmatch(self.min_driver):
            raise ValueError("min_driver is a version such as 550.90.07")
        if not all(map(VBIOS_VERSION.fullmatch, self.min_vbios.values())):
            raise ValueError("min_vbios are versions such as 96.00.9F.00.01")


PROVENANCE_SUBJECTS = frozenset(
    {
        *("measurement", "mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrenclave"),
        *("uki_digest", "initrd_digest", "boot_applications", "verity_root_hashes", "images"),
    }
)
"""What provenance may be asked of, beside `runtime.NAME`."""


@final
class ProvenanceRules(Struct, frozen=True):
    """Who must have signed a measured digest, with Sigstore (see verifier/provenance).

    `subject` is a launch measurement or boot claim; of those that are several, each needs a bundle.
    `identity` is the certificate's name and `issuer` the OIDC issuer, both exact; `repository` and
    `ref` the source that a CI's token named. `predicate_type` admits in-toto statements of that
    type; without it only a signature over the artefact itself counts. `trusted_roots` are SHA-256
    of the trusted root files that the policy's author reviewed.
    """

    subject: str
    identity: str
    issuer: str
    trusted_roots: tuple[Hex, ...]
    predicate_type: str | None = None
    repository: str | None = None
    ref: str | None = None

    def __post_init__(self) -> None:
        kind, _, name = self.subject.partition(".")
        if self.subject not in PROVENANCE_SUBJECTS and not (kind == "runtime" and name):
            raise ValueError(f"provenance: subject {self.subject!r} is not known")
        if not self.identity or not self.issuer:
            raise ValueError("provenance: identity and issuer are required")
        if not self.trusted_roots:
            raise ValueError("provenance: at least one trusted root is required")
        for root in self.trusted_roots:
            _require_length(root, 32, "trusted_roots")


@final
class AppraisalPolicy(Struct, frozen=True, dict=True):
    """Rules and reference values. Kinds without a reference value are refused in a release."""

    tdx: TdxRules = TdxRules()
    snp: SnpRules = SnpRules()
    sgx: SgxRules = SgxRules()
    tpm: TpmRules = TpmRules()
    azure: AzureRules = AzureRules()
    gcp: GcpRules = GcpRules()
    maa: MaaRules = MaaRules()
    gpu: GpuRules = GpuRules()
    provenance: tuple[ProvenanceRules, ...] = ()
    reference: tuple[Reference, ...] = ()

    def references(self, kind: type[Any]) -> tuple[Any, ...]:
        """Return the reference values of one kind, in order."""
        return tuple(value for value in self.reference if isinstance(value, kind))

    def candidates(self, kind: type[R], seen: Callable[[str], object]) -> Sequence[R]:
        """Return the references of one kind that evidence may fit; see `verifier.references`."""
        index = self._indexes.get(kind)
        if index is None:
            index = self._indexes[kind] = ReferenceIndex(self.references(kind))
        return index.candidates(seen)

    @functools.cached_property
    def _indexes(self) -> dict[type, ReferenceIndex[Any]]:
        return {}


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
