"""What a token of Azure Attestation says, each claim of its type or not there.

Guarantees: times are integers; every value that is judged is looked up with its type, and one of
another type counts as absent, which is refused wherever it matters; digests are hexadecimal of
their length. The two forms are told apart by `x-ms-attestation-type`: `azurevm` is guest
attestation, with the hardware's part in `x-ms-isolation-tee`; for `sevsnpvm` and `tdxvm` that part
is on top.
Claims that policy does not know are shown and not acted on.

Source: Azure Attestation, "Claims sets" and "EAT profile for Intel TDX".
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, final

from cryptography.hazmat.primitives import serialization

from verifier import jose
from verifier.errors import Reason, VerifierError
from verifier.maa.keys import rsa_key

AttestationType: TypeAlias = Literal["sevsnpvm", "tdxvm"]

GUEST: Final = "azurevm"
COMPLIANT: Final = "azure-compliant-cvm"
_MAX_KEYS: Final = 16
_YEAR_10000: Final = 253_402_300_800
_KINDS: Final[Mapping[str, AttestationType]] = {"sevsnpvm": "sevsnpvm", "tdxvm": "tdxvm"}
_FIELDS: Final[Mapping[str, Mapping[str, tuple[str, int]]]] = {
    "sevsnpvm": {
        "launch_measurement": ("x-ms-sevsnpvm-launchmeasurement", 48),
        "host_data": ("x-ms-sevsnpvm-hostdata", 32),
        "id_key_digest": ("x-ms-sevsnpvm-idkeydigest", 48),
        "report_data": ("x-ms-sevsnpvm-reportdata", 64),
    },
    "tdxvm": {
        "mr_td": ("tdx_mrtd", 48),
        "rtmr0": ("tdx_rtmr0", 48),
        "rtmr1": ("tdx_rtmr1", 48),
        "rtmr2": ("tdx_rtmr2", 48),
        "rtmr3": ("tdx_rtmr3", 48),
        "report_data": ("tdx_report_data", 64),
    },
}
"""Our names of values, by attestation type: the claim, and its length in bytes."""


@final
@dataclass(frozen=True, slots=True)
class MaaClaims:
    """A token's claims. `tee` is the hardware's part, `values` its digests by our names."""

    told: Mapping[str, Any]
    tee: Mapping[str, Any]
    kind: AttestationType
    guest: bool
    issuer: str
    issued: int
    not_before: int
    expires: int
    values: Mapping[str, bytes]
    keys: Mapping[str, str | None]

    def flag(self, name: str) -> bool | None:
        """Return a boolean of the hardware's part; None if it is absent or something else."""
        return _boolean(self.tee.get(name))

    def guest_flag(self, name: str) -> bool | None:
        """Return a boolean of the token's top."""
        return _boolean(self.told.get(name))

    def number(self, name: str) -> int | None:
        """Return a number of the hardware's part; None if it is absent or something else."""
        value = self.tee.get(name)
        return value if type(value) is int else None

    def secure_boot(self) -> bool | None:
        """Return whether Secure Boot is on, by every claim that says so; None if none does."""
        configuration = _object(_object(self.tee, "x-ms-runtime"), "vm-configuration")
        said = [_boolean(configuration.get("secure-boot"))]
        if self.guest:
            said.append(self.guest_flag("secureboot"))
        return None if None in said else all(said)

    def nonces(self) -> tuple[bytes | None, ...]:
        """Return each nonce that the token carries: what the client sent, and what was asked."""
        payload = _object(_object(self.told, "x-ms-runtime"), "client-payload")
        found: list[bytes | None] = []
        if "nonce" in payload:
            found.append(_base64(payload["nonce"]))
        if "nonce" in self.told:
            asked = self.told["nonce"]
            found.append(asked.encode() if isinstance(asked, str) else None)
        return tuple(found)


def parse(raw: bytes) -> MaaClaims:
    """Return the claims in a token's payload.

    Raises:
        VerifierError: `malformed`, or `unsupported` for another attestation type.
    """
    told = jose.loads(raw, "MAA token")
    issuer = told.get("iss")
    if not isinstance(issuer, str):
        raise VerifierError(Reason.MALFORMED, "MAA token: iss expected")
    guest = told.get("x-ms-attestation-type") == GUEST
    tee = _object(told, "x-ms-isolation-tee") if guest else told
    kind = _KINDS.get(str(tee.get("x-ms-attestation-type")))
    if kind is None:
        raise VerifierError(
            Reason.UNSUPPORTED,
            "MAA token: of a confidential VM expected, "
            f"{tee.get('x-ms-attestation-type')!a:.80} seen",
        )
    return MaaClaims(
        told=told,
        tee=tee,
        kind=kind,
        guest=guest,
        issuer=issuer,
        issued=_time(told, "iat"),
        not_before=_time(told, "nbf"),
        expires=_time(told, "exp"),
        values=_values(tee, _FIELDS[kind]),
        keys=_keys(_object(told, "x-ms-runtime").get("keys", [])),
    )


def _time(told: Mapping[str, Any], name: str) -> int:
    value = told.get(name)
    if type(value) is not int or not 0 <= value < _YEAR_10000:
        raise VerifierError(Reason.MALFORMED, f"MAA token: {name}: unix seconds expected")
    return value


def _values(tee: Mapping[str, Any], fields: Mapping[str, tuple[str, int]]) -> dict[str, bytes]:
    """Return the digests that are there; one that is not hexadecimal of its length is refused."""
    found = {}
    for name, (claim, length) in fields.items():
        if claim not in tee:
            continue
        text = tee[claim]
        try:
            raw = bytes.fromhex(text) if isinstance(text, str) else b""
        except ValueError:
            raw = b""
        if len(raw) != length or len(text) != 2 * length:
            raise VerifierError(
                Reason.MALFORMED, f"MAA token: {claim}: {length} bytes of hexadecimal expected"
            )
        found[name] = raw
    return found


def _keys(told: object) -> dict[str, str | None]:
    """Return what the token names as the machine's keys: `kid`, and the SHA-256 of RSA SPKIs."""
    if not isinstance(told, list) or len(told) > _MAX_KEYS:
        raise VerifierError(Reason.MALFORMED, f"MAA token: at most {_MAX_KEYS} keys expected")
    found: dict[str, str | None] = {}
    for key in told:
        kid = key.get("kid") if isinstance(key, dict) else None
        if not isinstance(kid, str) or kid in found:
            raise VerifierError(Reason.MALFORMED, "MAA token: keys, each with a kid, expected")
        found[kid] = None
        if key.get("kty") == "RSA":
            spki = rsa_key(key).public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            found[kid] = hashlib.sha256(spki).hexdigest()
    return found


def _object(told: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = told.get(name)
    return value if isinstance(value, dict) else {}


def _boolean(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _base64(text: object) -> bytes | None:
    """Return the bytes of standard base64 in its one spelling, or None."""
    try:
        raw = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except ValueError:
        return None
    return raw if base64.b64encode(raw).decode() == text else None
