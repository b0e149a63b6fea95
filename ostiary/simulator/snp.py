"""AMD SEV-SNP attestation reports, versions 2 to 5, signed like the real secure processor does.

Guarantees: layout as in AMD 56860 (ATTESTATION_REPORT), TCB bytes as the generation has them,
signature ECDSA P-384 with SHA-384 over the first 0x2A0 bytes, r and s little-endian in 72 bytes.
Checks nothing beyond field sizes: `encode` and `sign_report` make wrong reports as willingly.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from ostiary.simulator.store import SimulatorError

Product = Literal["Milan", "Genoa", "Turin"]
PRODUCTS: Final[tuple[Product, ...]] = ("Milan", "Genoa", "Turin")
REPORT_SIZE: Final = 0x4A0
SIGNED_SIZE: Final = 0x2A0
_CPUID_FROM: Final = 3
_VECTORS_FROM: Final = 5
_POLICY_RESERVED_ONE: Final = 1 << 17
_POLICY_SMT: Final = 1 << 16
_POLICY_DEBUG: Final = 1 << 19
_SIZES: Final = {
    "family_id": 16,
    "image_id": 16,
    "report_data": 64,
    "measurement": 48,
    "host_data": 32,
    "id_key_digest": 48,
    "author_key_digest": 48,
    "report_id": 32,
    "report_id_ma": 32,
    "chip_id": 64,
}


@final
@dataclass(frozen=True, slots=True)
class Tcb:
    """Security versions of the parts of one generation's firmware; `fmc` exists on Turin only."""

    bootloader: int
    tee: int
    snp: int
    microcode: int
    fmc: int = 0

    def encode(self, product: Product) -> bytes:
        """Return TCB_VERSION: Turin counts from the FMC, the others from the bootloader."""
        if product == "Turin":
            parts = (self.fmc, self.bootloader, self.tee, self.snp, 0, 0, 0, self.microcode)
        else:
            parts = (self.bootloader, self.tee, 0, 0, 0, 0, self.snp, self.microcode)
        return bytes(parts)


CURRENT_TCB: Final[dict[Product, Tcb]] = {
    "Milan": Tcb(bootloader=4, tee=0, snp=0x18, microcode=0xDB),
    "Genoa": Tcb(bootloader=10, tee=0, snp=0x17, microcode=0x54),
    "Turin": Tcb(fmc=1, bootloader=1, tee=1, snp=4, microcode=0x51),
}
_CPUID: Final[dict[Product, tuple[int, int, int]]] = {
    "Milan": (0x19, 0x01, 1),
    "Genoa": (0x19, 0x11, 1),
    "Turin": (0x1A, 0x02, 1),
}


@final
@dataclass(frozen=True, slots=True)
class SnpReport:
    """Report fields. `report_for` gives the values of a current machine of a product."""

    product: Product
    reported_tcb: Tcb
    current_tcb: Tcb
    committed_tcb: Tcb
    launch_tcb: Tcb
    cpuid: tuple[int, int, int]
    chip_id: bytes
    version: int = 3
    guest_svn: int = 2
    policy: int = _POLICY_RESERVED_ONE | _POLICY_SMT | 0x1F
    family_id: bytes = bytes(16)
    image_id: bytes = bytes(16)
    vmpl: int = 0
    signature_algo: int = 1
    platform_info: int = 0x25
    signer_info: int = 0
    """Bit 0 AUTHOR_KEY_EN, bit 1 MASK_CHIP_KEY, bits 2 to 4 SIGNING_KEY (0 VCEK, 1 VLEK)."""
    report_data: bytes = bytes(64)
    measurement: bytes = bytes(48)
    host_data: bytes = bytes(32)
    id_key_digest: bytes = bytes(48)
    author_key_digest: bytes = bytes(48)
    report_id: bytes = hashlib.sha256(b"ostiary/simulated-report-id").digest()
    report_id_ma: bytes = b"\xff" * 32
    current_version: tuple[int, int, int] = (1, 55, 29)
    """Major, minor, build."""
    committed_version: tuple[int, int, int] = (1, 55, 29)
    launch_mit_vector: int = 0x3F
    current_mit_vector: int = 0x3F

    def __post_init__(self) -> None:
        for field, size in _SIZES.items():
            if len(getattr(self, field)) != size:
                raise ValueError(f"{field} has {size} bytes in an SNP report")

    def encode(self) -> bytes:
        """Return the part that is signed, 0x2A0 bytes."""
        vectors = self.version >= _VECTORS_FROM
        parts = (
            (0x00, self.version.to_bytes(4, "little")),
            (0x04, self.guest_svn.to_bytes(4, "little")),
            (0x08, self.policy.to_bytes(8, "little")),
            (0x10, self.family_id),
            (0x20, self.image_id),
            (0x30, self.vmpl.to_bytes(4, "little")),
            (0x34, self.signature_algo.to_bytes(4, "little")),
            (0x38, self.current_tcb.encode(self.product)),
            (0x40, self.platform_info.to_bytes(8, "little")),
            (0x48, self.signer_info.to_bytes(4, "little")),
            (0x50, self.report_data),
            (0x90, self.measurement),
            (0xC0, self.host_data),
            (0xE0, self.id_key_digest),
            (0x110, self.author_key_digest),
            (0x140, self.report_id),
            (0x160, self.report_id_ma),
            (0x180, self.reported_tcb.encode(self.product)),
            (0x188, bytes(self.cpuid) if self.version >= _CPUID_FROM else b""),
            (0x1A0, self.chip_id),
            (0x1E0, self.committed_tcb.encode(self.product)),
            (0x1E8, bytes(reversed(self.current_version))),
            (0x1EC, bytes(reversed(self.committed_version))),
            (0x1F0, self.launch_tcb.encode(self.product)),
            (0x1F8, self.launch_mit_vector.to_bytes(8, "little") if vectors else b""),
            (0x200, self.current_mit_vector.to_bytes(8, "little") if vectors else b""),
        )
        report = bytearray(SIGNED_SIZE)
        for offset, value in parts:
            report[offset : offset + len(value)] = value
        return bytes(report)


def new_chip_id(product: Product) -> bytes:
    """Return a random CHIP_ID: 64 bytes, of which Turin uses the first 8."""
    used = 8 if product == "Turin" else 64
    return secrets.token_bytes(used).ljust(64, b"\x00")


def require_product(product: str) -> Product:
    """Return the product's name as a type.

    Raises:
        SimulatorError: there is no such product.
    """
    for known in PRODUCTS:
        if known == product:
            return known
    raise SimulatorError(f"no product {product!r}; there are {', '.join(PRODUCTS)}")


def report_for(product: str, *, debug: bool = False, **changes: Any) -> SnpReport:  # noqa: ANN401 - SnpReport's fields
    """Return the report of a current machine of a product, with other fields as given.

    The version is 5 on Turin and 3 elsewhere unless `version` says otherwise.

    Raises:
        SimulatorError: there is no such product.
    """
    known = require_product(product)
    level = CURRENT_TCB[known]
    report = SnpReport(
        product=known,
        reported_tcb=level,
        current_tcb=level,
        committed_tcb=level,
        launch_tcb=level,
        cpuid=_CPUID[known],
        chip_id=new_chip_id(known),
        version=5 if known == "Turin" else 3,
    )
    if debug:
        report = replace(report, policy=report.policy | _POLICY_DEBUG)
    return replace(report, **changes)


def sign_bytes(signed: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a whole report: the signed part and its 512-byte signature block."""
    r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA384())))
    block = r.to_bytes(72, "little") + s.to_bytes(72, "little")
    return signed + block.ljust(REPORT_SIZE - SIGNED_SIZE, b"\x00")


def sign_report(report: SnpReport, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the report's bytes, signed by a VCEK or VLEK (0x4A0 bytes)."""
    return sign_bytes(report.encode(), key)
