"""The SGX extension of PCK certificates, and the platform whose key such a certificate names.

Guarantees: the extension has Intel's field order and types (Intel SGX PCK Certificate and CRL
Profile Specification); a `Platform` holds everything that its quoting enclave needs to sign quotes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, final

from cryptography.hazmat.primitives.asymmetric import ec

from ostiary.simulator import certificates, der

SGX_EXTENSION: Final = "1.2.840.113741.1.13.1"
CaRole = Literal["platform_ca", "processor_ca"]
"""Platform CA certifies multi-package platforms (every TDX one), Processor CA single processors."""


@final
@dataclass(frozen=True, slots=True)
class SgxExtension:
    """What a PCK certificate says of its platform."""

    ppid: bytes
    components: tuple[int, ...]
    pcesvn: int
    fmspc: bytes
    pceid: bytes = bytes(2)
    cpusvn: bytes | None = None
    """None: the components as bytes, as on every platform seen."""
    sgx_type: int = 1
    """0 standard, 1 scalable, 2 scalable with integrity."""
    platform_instance_id: bytes | None = None
    """16 bytes; None leaves out this field and the configuration, as Processor CA does."""
    configuration: tuple[bool, bool, bool] = (True, True, True)
    """Dynamic platform, cached keys, SMT enabled."""

    def encode(self) -> bytes:
        """Return the extension's value (DER)."""
        cpusvn = bytes(c & 0xFF for c in self.components) if self.cpusvn is None else self.cpusvn
        tcb = [
            *(_field(f"2.{i}", der.integer(svn)) for i, svn in enumerate(self.components, 1)),
            _field("2.17", der.integer(self.pcesvn)),
            _field("2.18", der.octets(cpusvn)),
        ]
        fields = [
            _field("1", der.octets(self.ppid)),
            _field("2", der.sequence(*tcb)),
            _field("3", der.octets(self.pceid)),
            _field("4", der.octets(self.fmspc)),
            _field("5", der.enumerated(self.sgx_type)),
        ]
        if self.platform_instance_id is not None:
            flags = (
                _field(f"7.{i}", der.boolean(flag)) for i, flag in enumerate(self.configuration, 1)
            )
            fields += [
                _field("6", der.octets(self.platform_instance_id)),
                _field("7", der.sequence(*flags)),
            ]
        return der.sequence(*fields)


def _field(arc: str, value: bytes) -> bytes:
    return der.sequence(der.oid(f"{SGX_EXTENSION}.{arc}"), value)


@final
@dataclass(frozen=True, slots=True, repr=False)
class Platform:
    """A simulated Intel machine: its PCK, its quoting enclave's attestation key, its chain."""

    sgx: SgxExtension
    pck_key: ec.EllipticCurvePrivateKey
    attestation_key: ec.EllipticCurvePrivateKey
    chain: tuple[bytes, ...]
    """PCK certificate, its CA, the root (DER)."""

    @property
    def chain_pem(self) -> bytes:
        """The chain as a quote carries it: PEM with a zero byte after it."""
        return certificates.pem(*self.chain).encode() + b"\x00"


def pck_extensions(
    *, ca_spki: bytes, spki: bytes, ca: CaRole, sgx: bytes
) -> tuple[certificates.Extension, ...]:
    """Return a PCK certificate's extensions, in Intel's order."""
    name = ca.removesuffix("_ca")
    uri = (
        f"https://api.trustedservices.intel.com/sgx/certification/v4/pckcrl?ca={name}&encoding=der"
    )
    return (
        certificates.authority_key_id(ca_spki),
        certificates.crl_distribution_point(uri),
        certificates.subject_key_id(spki),
        certificates.key_usage(certificates.DIGITAL_SIGNATURE, certificates.NON_REPUDIATION),
        certificates.basic_constraints(ca=False),
        certificates.Extension(SGX_EXTENSION, sgx),
    )
