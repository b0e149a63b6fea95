"""SEV-SNP attestation report: bytes to fields and back.

Guarantees: `SnpReport.parse` accepts only reports of exactly 1,184 bytes, version 2 to 5, ECDSA
P-384, with every must-be-zero range zero, and `to_bytes` prints the very bytes that were parsed.
Does not say that a report is genuine (`verify`) or acceptable (`validate`), and leaves the spare
bytes of TCB versions to `product`, because their layout depends on the chip's generation.

Source: AMD 56860 (SEV-SNP firmware ABI), ATTESTATION_REPORT, GUEST_POLICY, TCB_VERSION.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, final

from verifier.errors import Reason, VerifierError

REPORT_SIZE: Final = 0x4A0
"""Size of a report in bytes."""

SIGNED_SIZE: Final = 0x2A0
"""The signature covers this many bytes from the start."""

VERSIONS: Final = (2, 3, 4, 5)
"""Report versions whose layout is known. Which of them are welcome is policy."""

_ECDSA_P384_SHA384: Final = 1
_INTEGER_SIZE: Final = 72
_PAD_SIZE: Final = 24
_SCALAR_SIZE: Final = _INTEGER_SIZE - _PAD_SIZE

_LAYOUT: Final = struct.Struct(
    "<"
    "IIQ"  # 0x000 version, guest_svn, policy
    "16s16s"  # 0x010 family_id, image_id
    "II"  # 0x030 vmpl, signature_algo
    "8sQ"  # 0x038 current_tcb, platform_info
    "I4s"  # 0x048 signer_info, reserved
    "64s48s32s"  # 0x050 report_data, measurement, host_data
    "48s48s"  # 0x0E0 id_key_digest, author_key_digest
    "32s32s"  # 0x140 report_id, report_id_ma
    "8s"  # 0x180 reported_tcb
    "BBB21s"  # 0x188 CPUID family, model, stepping (v3 and later), reserved
    "64s8s"  # 0x1A0 chip_id, committed_tcb
    "BBBBBBBB"  # 0x1E8 current build, minor, major, reserved; committed likewise
    "8s"  # 0x1F0 launch_tcb
    "QQ152s"  # 0x1F8 launch and current mitigation vector (v5), reserved
    "72s72s368s"  # 0x2A0 signature r, signature s, reserved
)

KEY_VCEK: Final = 0
KEY_VLEK: Final = 1
KEY_NONE: Final = 7
_KEY_NAMES: Final = {KEY_VCEK: "VCEK", KEY_VLEK: "VLEK", KEY_NONE: "none"}

_FIRST_WITH_CPUID: Final = 3
_FIRST_WITH_MITIGATIONS: Final = 5


def _zero(value: bytes | int, offset: int) -> None:
    """Refuse a must-be-zero range that is not zero."""
    if value if isinstance(value, int) else any(value):
        raise VerifierError(
            Reason.MALFORMED, f"report: reserved bytes at {offset:#x} are not all zero"
        )


def _scalar(field: bytes, offset: int) -> int:
    """Return a signature integer: 72 bytes little endian, of which the top 24 are zero."""
    _zero(field[_SCALAR_SIZE:], offset + _SCALAR_SIZE)
    return int.from_bytes(field, "little")


@final
@dataclass(frozen=True, slots=True)
class SnpReport:
    """One report. TCB versions stay raw (8 bytes); `product.Generation.decode_tcb` reads them.

    CPUID fields are 0 before version 3, mitigation vectors before version 5. Firmware versions are
    (major, minor, build). `signature_r` and `signature_s` are below 2**384 and otherwise unchecked.
    """

    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    current_tcb: bytes
    platform_info: int
    signer_info: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: bytes
    cpuid_fam: int
    cpuid_mod: int
    cpuid_step: int
    chip_id: bytes
    committed_tcb: bytes
    current_version: tuple[int, int, int]
    committed_version: tuple[int, int, int]
    launch_tcb: bytes
    launch_mit_vector: int
    current_mit_vector: int
    signature_r: int
    signature_s: int

    @classmethod
    def parse(cls, raw: bytes) -> SnpReport:
        """Return the report in `raw`.

        Raises:
            VerifierError: `malformed`, `trailing_data`, or `report_version_not_allowed` for a
                version whose layout is not known.
        """
        if len(raw) < REPORT_SIZE:
            raise VerifierError(
                Reason.MALFORMED, f"report of {len(raw)} bytes, {REPORT_SIZE} expected"
            )
        if len(raw) > REPORT_SIZE:
            raise VerifierError(
                Reason.TRAILING_DATA, f"report of {len(raw)} bytes, {REPORT_SIZE} expected"
            )
        (
            version,
            guest_svn,
            policy,
            family_id,
            image_id,
            vmpl,
            algorithm,
            current_tcb,
            platform_info,
            signer_info,
            reserved_4c,
            report_data,
            measurement,
            host_data,
            id_key_digest,
            author_key_digest,
            report_id,
            report_id_ma,
            reported_tcb,
            family,
            model,
            stepping,
            reserved_18b,
            chip_id,
            committed_tcb,
            build,
            minor,
            major,
            reserved_1eb,
            com_build,
            com_minor,
            com_major,
            reserved_1ef,
            launch_tcb,
            launch_mitigations,
            current_mitigations,
            reserved_208,
            field_r,
            field_s,
            reserved_330,
        ) = _LAYOUT.unpack(raw)  # fmt: skip - one name per field, in the manual's order
        if version not in VERSIONS:
            raise VerifierError(
                Reason.REPORT_VERSION_NOT_ALLOWED,
                f"report version {version}, one of {VERSIONS} expected",
            )
        if algorithm != _ECDSA_P384_SHA384:
            raise VerifierError(
                Reason.MALFORMED, f"report: SIGNATURE_ALGO {algorithm}, {_ECDSA_P384_SHA384} wanted"
            )
        _zero(reserved_4c, 0x4C)
        if version < _FIRST_WITH_CPUID:
            _zero(family | model | stepping, 0x188)
        _zero(reserved_18b, 0x18B)
        _zero(reserved_1eb, 0x1EB)
        _zero(reserved_1ef, 0x1EF)
        if version < _FIRST_WITH_MITIGATIONS:
            _zero(launch_mitigations | current_mitigations, 0x1F8)
        _zero(reserved_208, 0x208)
        _zero(reserved_330, 0x330)
        _zero(signer_info >> 5, 0x48)
        if (signer_info >> 2) & 7 not in _KEY_NAMES:
            raise VerifierError(
                Reason.MALFORMED, f"report: SIGNING_KEY {(signer_info >> 2) & 7} is reserved"
            )
        return cls(
            version=version,
            guest_svn=guest_svn,
            policy=policy,
            family_id=family_id,
            image_id=image_id,
            vmpl=vmpl,
            current_tcb=current_tcb,
            platform_info=platform_info,
            signer_info=signer_info,
            report_data=report_data,
            measurement=measurement,
            host_data=host_data,
            id_key_digest=id_key_digest,
            author_key_digest=author_key_digest,
            report_id=report_id,
            report_id_ma=report_id_ma,
            reported_tcb=reported_tcb,
            cpuid_fam=family,
            cpuid_mod=model,
            cpuid_step=stepping,
            chip_id=chip_id,
            committed_tcb=committed_tcb,
            current_version=(major, minor, build),
            committed_version=(com_major, com_minor, com_build),
            launch_tcb=launch_tcb,
            launch_mit_vector=launch_mitigations,
            current_mit_vector=current_mitigations,
            signature_r=_scalar(field_r, 0x2A0),
            signature_s=_scalar(field_s, 0x2E8),
        )

    def to_bytes(self) -> bytes:
        """Return the report's bytes: the inverse of `parse`."""
        return _LAYOUT.pack(
            self.version,
            self.guest_svn,
            self.policy,
            self.family_id,
            self.image_id,
            self.vmpl,
            _ECDSA_P384_SHA384,
            self.current_tcb,
            self.platform_info,
            self.signer_info,
            bytes(4),
            self.report_data,
            self.measurement,
            self.host_data,
            self.id_key_digest,
            self.author_key_digest,
            self.report_id,
            self.report_id_ma,
            self.reported_tcb,
            self.cpuid_fam,
            self.cpuid_mod,
            self.cpuid_step,
            bytes(21),
            self.chip_id,
            self.committed_tcb,
            *reversed(self.current_version),
            0,
            *reversed(self.committed_version),
            0,
            self.launch_tcb,
            self.launch_mit_vector,
            self.current_mit_vector,
            bytes(152),
            self.signature_r.to_bytes(_INTEGER_SIZE, "little"),
            self.signature_s.to_bytes(_INTEGER_SIZE, "little"),
            bytes(368),
        )

    @property
    def has_cpuid(self) -> bool:
        """Tell whether the report names its processor; version 2 does not."""
        return self.version >= _FIRST_WITH_CPUID

    @property
    def has_mitigations(self) -> bool:
        """Tell whether the report carries mitigation vectors; versions before 5 do not."""
        return self.version >= _FIRST_WITH_MITIGATIONS

    @property
    def author_key_en(self) -> bool:
        """Tell whether AUTHOR_KEY_DIGEST means anything (SIGNER_INFO bit 0)."""
        return bool(self.signer_info & 1)

    @property
    def mask_chip_key(self) -> bool:
        """Tell whether the platform's MaskChipKey setting is on (SIGNER_INFO bit 1)."""
        return bool(self.signer_info & 2)

    @property
    def signing_key(self) -> int:
        """Return SIGNING_KEY: `KEY_VCEK`, `KEY_VLEK` or `KEY_NONE` (SIGNER_INFO bits 4:2)."""
        return self.signer_info >> 2

    @property
    def signing_key_name(self) -> str:
        """Return SIGNING_KEY as people say it: VCEK, VLEK or none."""
        return _KEY_NAMES[self.signing_key]

    @property
    def chip_id_masked(self) -> bool:
        """Tell whether CHIP_ID is hidden: all zero, which must never count as an identity."""
        return not any(self.chip_id)
