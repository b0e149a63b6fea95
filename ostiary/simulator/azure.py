"""A simulated confidential VM in Azure: hardware that measures a paravisor, claims, and a vTPM.

Guarantees: the hardware report carries the SHA-256 of the claims that name the TPM's key, as
Azure's paravisor makes it, and nothing that a caller chooses; callers choose the TPM quote's
qualifying data alone. The paravisor's image is the simulator's own.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final, Literal, final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from ostiary.simulator.machine import PARTS, LaunchRequest
from ostiary.simulator.machines import SnpMachine, TdxMachine
from ostiary.simulator.quote import TdBody
from ostiary.simulator.tpm import FakeTpm
from ostiary.simulator.tpm import measure as boot
from verifier.azure import hcl
from verifier.azure.hcl import HclReport
from verifier.wire.messages import Vtpm

PARAVISOR: Final[Mapping[str, bytes]] = MappingProxyType(
    {part: f"ostiary simulated paravisor: {part}".encode() for part in PARTS}
)
"""What the hardware measures in place of the guest."""
_ANCHOR_PCR: Final = 8
_NV_SIZE: Final = 2600
_TD_FIELDS: Final = (
    "td_attributes",
    "xfam",
    "mr_td",
    "mr_config_id",
    "mr_owner",
    "mr_owner_config",
    "rtmr0",
    "rtmr1",
    "rtmr2",
    "rtmr3",
    "mr_service_td",
)


def paravisor(tee: str, *, debug: bool = False) -> LaunchRequest:
    """Return the launch of the paravisor on `tdx` or `snp`; its configuration is Azure's: zeros."""
    return LaunchRequest(bytes(48 if tee == "tdx" else 32), PARAVISOR, debug=debug)


def measure(tpm: FakeTpm, request: LaunchRequest) -> FakeTpm:
    """Return the TPM after the guest's boot, whose first stage extends PCR 8 with its anchor.

    Raises:
        SimulatorError: the image has other parts.
    """
    return boot(tpm, request).extended(_ANCHOR_PCR, request.config[:32])


def base64url(raw: bytes) -> str:
    """Return base64url without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def jwk(key: RSAPublicKey, kid: str = "HCLAkPub") -> dict[str, Any]:
    """Return a key as the paravisor writes it."""
    numbers = key.public_numbers()
    exponent, modulus = (
        number.to_bytes((number.bit_length() + 7) // 8, "big") for number in (numbers.e, numbers.n)
    )
    return {
        "kid": kid,
        "key_ops": ["sign"],
        "kty": "RSA",
        "e": base64url(exponent),
        "n": base64url(modulus),
    }


def runtime_claims(key: RSAPublicKey) -> dict[str, Any]:
    """Return claims that name this key as the TPM's, in the paravisor's order."""
    return {
        "keys": [jwk(key), jwk(key, "HCLEkPub") | {"key_ops": ["encrypt"]}],
        "vm-configuration": {
            "console-enabled": True,
            "secure-boot": True,
            "tpm-enabled": True,
            "vmUniqueId": "6332533D-5649-4D02-8AA7-8F64B7C3EE21",
        },
        "user-data": "00" * 64,
    }


def encoded(told: object) -> bytes:
    """Return claims as the bytes that the hardware report binds."""
    return json.dumps(told, separators=(",", ":")).encode()


def tdreport(body: TdBody) -> bytes:
    """Return the TDREPORT that a quote over this body is made of; its MAC is nobody's.

    Source: TDX Module ABI, TDREPORT_STRUCT.
    """
    raw = bytearray(1024)
    raw[0] = 0x81
    raw[128:192] = body.report_data
    info = body.tee_tcb_svn + body.mr_seam + body.mrsigner_seam + body.seam_attributes
    raw[256 : 256 + 8 + len(info)] = b"\xff\x01" + bytes(6) + info
    td = b"".join(getattr(body, name) for name in _TD_FIELDS)
    raw[512 : 512 + len(td)] = td
    return bytes(raw)


@final
@dataclass(frozen=True, slots=True, repr=False)
class AzureMachine:
    """A running VM: hardware that launched the paravisor, and a TPM that measured the guest."""

    hardware: TdxMachine | SnpMachine
    tpm: FakeTpm

    @property
    def kind(self) -> Literal["azure-tdx", "azure-snp"]:
        """The kind of evidence."""
        return "azure-tdx" if isinstance(self.hardware, TdxMachine) else "azure-snp"

    @property
    def ak(self) -> bytes:
        """The vTPM's public key (SPKI, DER)."""
        return self.tpm.ak

    @property
    def runtime_claims(self) -> bytes:
        """The claims of the HCL report."""
        return encoded(runtime_claims(self.tpm.key.public_key()))

    def report(self, report_data: bytes) -> tuple[bytes, bytes, bytes]:  # noqa: ARG002 - the hardware does not carry it here
        """Return the TD quote (nothing on AMD), no event log, and AMD's certificate table."""
        cpu, _, aux = self.hardware.report(self._bound())
        return (cpu if isinstance(self.hardware, TdxMachine) else b""), b"", aux

    def vtpm(self, report_data: bytes) -> Vtpm:
        """Return the TPM's quote for 64 bytes, and the HCL report."""
        return self.tpm.says(report_data, hcl_report=self.hcl_report())

    def hcl_report(self) -> bytes:
        """Return NV index 0x01400001, as long as it is."""
        bound = self._bound()
        if isinstance(self.hardware, TdxMachine):
            kind = hcl.TDX
            raw = tdreport(replace(self.hardware.body, report_data=bound))
        else:
            kind, raw = hcl.SNP, self.hardware.report(bound)[0]
        claims = self.runtime_claims
        return hcl.encode(HclReport(2, kind, raw, claims, _NV_SIZE - hcl.CLAIMS_AT - len(claims)))

    def claims(self) -> tuple[bytes, bytes]:
        """Return PCR 8, and the body or report that the hardware measured."""
        return self.tpm.pcrs[_ANCHOR_PCR], self.hardware.claims()[1]

    def _bound(self) -> bytes:
        return hashlib.sha256(self.runtime_claims).digest() + bytes(32)
