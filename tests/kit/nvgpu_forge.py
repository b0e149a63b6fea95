"""Device chains that NVIDIA would not issue, under the simulated vendor's keys, part by part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from ostiary.simulator import certificates, der
from ostiary.simulator.certificates import Certificate, EcdsaSha384Signer, Extension, name, spki_of
from ostiary.simulator.nvidia.identity import FOREVER, fwid_extension
from ostiary.simulator.nvidia.pki import ICAS, SUBJECTS
from ostiary.simulator.nvidia.report import Block, Field, Report
from tests.kit import nvgpu
from verifier.nvgpu.device import DeviceEvidence, DeviceKind

FWID = b"\x07" * 48
SAN = "1.3.6.1.4.1.412.274.1"
COMPOSITE = "2.23.133.5.4.1"
TCB_INFO = "2.23.133.5.4.1.1"
SHA384 = "2.16.840.1.101.3.4.2.2"
SIGNS = certificates.key_usage(certificates.DIGITAL_SIGNATURE)
ISSUES = certificates.key_usage(certificates.KEY_CERT_SIGN)
CA = certificates.basic_constraints(ca=True)

FwidWriter = Callable[[bytes], Sequence[Extension]]


def names(text: str, kind: str = SAN) -> Extension:
    """Return subjectAltName with one otherName."""
    other = der.explicit(0, der.oid(kind), der.explicit(0, der.utf8(text)))
    return Extension("2.5.29.17", der.sequence(other))


def digest(fwid: bytes = FWID, algorithm: str = SHA384) -> bytes:
    return der.sequence(der.oid(algorithm), der.octets(fwid))


def composite(brom_spki: bytes) -> list[Extension]:
    """Return the FWID as Hopper has it."""
    return [fwid_extension(brom_spki, FWID)]


def tcb_info(_: bytes) -> list[Extension]:
    """Return the FWID as Blackwell has it: the first of two."""
    both = der.tlv(0xA6, digest(), digest(bytes(48)))
    value = der.sequence(der.tlv(0x80, b"NVIDIA"), both, der.tlv(0x89, b"\0"))
    return [Extension(TCB_INFO, value)]


@dataclass(frozen=True)
class Forged:
    """A device with a chain that was made to order."""

    key: ec.EllipticCurvePrivateKey
    ders: tuple[bytes, ...]

    @property
    def chain(self) -> bytes:
        return certificates.pem(*self.ders).encode()

    def evidence(
        self,
        blocks: Sequence[Block] = (),
        fields: Sequence[Field] = (),
        kind: DeviceKind = DeviceKind.GPU,
        nonce: bytes = nvgpu.NONCE,
    ) -> DeviceEvidence:
        report = Report(nonce, bytes(32), tuple(blocks), tuple(fields))
        return DeviceEvidence(kind, report.sign(self.key), self.chain)


def device(
    chip: str = "GH100",
    *,
    leaf_cn: str | None = None,
    brom_cn: str | None = None,
    alternative: Extension | None = None,
    fwid: FwidWriter = composite,
    usage: Sequence[Extension] = (SIGNS,),
    brom_usage: Sequence[Extension] = (CA, ISSUES),
    serial: int = 0x41_0123456789ABCDEF,
    leaf_spki: bytes | None = None,
    brom_spki: bytes | None = None,
    **leaf: Any,
) -> Forged:
    """Return a device; each argument is one thing to get wrong, the defaults are right."""
    vendor = nvgpu.vendor()
    rom = EcdsaSha384Signer(ec.generate_private_key(ec.SECP384R1()))
    key = ec.generate_private_key(ec.SECP384R1())
    brom = Certificate(
        subject=name(("CN", brom_cn or f"{chip} A01 GSP BROM")),
        issuer=SUBJECTS[ICAS["GH100"]],
        serial=serial,
        not_before=nvgpu.NOW - 1000,
        not_after=FOREVER,
        spki=brom_spki or rom.spki,
        extensions=tuple(brom_usage),
    )
    said = alternative or names(f"NVIDIA:{chip}:48B02D0123456789")
    first = Certificate(
        subject=name(("CN", leaf_cn or f"{chip} A01 GSP FMC LF")),
        issuer=brom.subject,
        serial=1,
        not_before=nvgpu.NOW - 1000,
        not_after=FOREVER,
        spki=leaf_spki or spki_of(key.public_key()),
        extensions=(*usage, said, *fwid(rom.spki)),
        **leaf,
    )
    above = tuple(vendor.certificates[role] for role in ("gh100_ica", "identity", "device_root"))
    ders = (first.issue(rom), brom.issue(vendor.signer("gh100_ica")), *above)
    return Forged(key, ders)
