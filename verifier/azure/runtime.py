"""The claims of an HCL report: the vTPM's keys, the VM's configuration, the guest's user data.

Guarantees: JSON without a key twice or a number that is no integer; exactly one HCLAkPub, an RSA
key of 2,048 bits with e = 65537 whose text has one reading; the three settings of the VM that
policy knows are there and are booleans; user data is 64 bytes of upper-case hex. Members without a
meaning here are shown, never acted on. Says nothing of truth: the claims are as good as the
hardware report that carries their hash.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Any, Final, Literal, NoReturn, final

import msgspec
from cryptography.hazmat.primitives.asymmetric import rsa

from verifier.errors import Reason, VerifierError
from verifier.tpm.keys import AttestationKey, from_public_key

AK: Final = "HCLAkPub"
USER_DATA_SIZE: Final = 64
MAX_CLAIMS: Final = 16 * 1024
_MAX_KEYS: Final = 8
_BITS: Final = 2048
_EXPONENT: Final = "AQAB"
_USER_DATA: Final = re.compile(r"[0-9A-F]{128}")
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]+")


@final
class _Jwk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """HCLAkPub: a JSON Web Key (RFC 7517) that signs, and nothing more."""

    kid: Literal["HCLAkPub"]
    key_ops: tuple[Literal["sign"]]
    kty: Literal["RSA"]
    e: str
    n: str


@final
class Configuration(msgspec.Struct, frozen=True):
    """`vm-configuration`: what Azure's paravisor set up. Other members come and go."""

    secure_boot: bool = msgspec.field(name="secure-boot")
    console_enabled: bool = msgspec.field(name="console-enabled")
    tpm_enabled: bool = msgspec.field(name="tpm-enabled")


@final
@dataclass(frozen=True, slots=True)
class RuntimeClaims:
    """What the claims say. `told` is the whole document but for the keys, `user_data` 64 bytes."""

    ak: AttestationKey
    key_ids: tuple[str, ...]
    configuration: Configuration
    user_data: bytes
    told: dict[str, Any]


def _refuse(message: str, reason: Reason = Reason.MALFORMED) -> VerifierError:
    return VerifierError(reason, f"runtime claims: {message}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text}: only integers expected")


def parse(raw: bytes) -> RuntimeClaims:
    """Return the claims in `raw`, the exact bytes of the HCL report.

    Raises:
        VerifierError: `malformed`, `too_large`, or `ak_refused` for a HCLAkPub that is missing,
            there twice, or not as above.
    """
    if len(raw) > MAX_CLAIMS:
        raise _refuse(f"{len(raw)} bytes, limit {MAX_CLAIMS}", Reason.TOO_LARGE)
    try:
        told = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_object,
            parse_float=_no_number,
            parse_constant=_no_number,
        )
        json.dumps(told, ensure_ascii=False).encode()  # half a surrogate pair has no UTF-8
    except (ValueError, RecursionError) as error:
        raise _refuse(f"not strict JSON: {type(error).__name__}") from error
    if not isinstance(told, dict) or not {"keys", "vm-configuration", "user-data"} <= told.keys():
        raise _refuse("an object with keys, vm-configuration and user-data expected")
    key_ids, jwk = _find(told["keys"])
    user_data = told["user-data"]
    if not isinstance(user_data, str) or _USER_DATA.fullmatch(user_data) is None:
        raise _refuse(f"user-data: {USER_DATA_SIZE} bytes of upper-case hex expected")
    try:
        configuration = msgspec.convert(told["vm-configuration"], Configuration, strict=True)
    except msgspec.ValidationError as error:
        raise _refuse(f"vm-configuration: {error}") from error
    return RuntimeClaims(
        ak=_key(jwk),
        key_ids=key_ids,
        configuration=configuration,
        user_data=bytes.fromhex(user_data),
        told={name: value for name, value in told.items() if name != "keys"},
    )


def _find(keys: object) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return the names of all keys, each there once, and the one named HCLAkPub."""
    if not isinstance(keys, list) or len(keys) > _MAX_KEYS:
        raise _refuse(f"keys: a list of at most {_MAX_KEYS} expected")
    found: dict[str, dict[str, Any]] = {}
    for key in keys:
        kid = key.get("kid") if isinstance(key, dict) else None
        if not isinstance(kid, str):
            raise _refuse("keys: objects with a kid expected")
        if kid in found:
            raise _refuse(f"keys: {kid!a} stands twice", Reason.AK_REFUSED)
        found[kid] = key
    if AK not in found:
        raise _refuse(f"keys: {AK} is missing", Reason.AK_REFUSED)
    return tuple(found), found[AK]


def _key(told: dict[str, Any]) -> AttestationKey:
    try:
        jwk = msgspec.convert(told, _Jwk, strict=True)
        modulus = _decode(jwk.n)
        number = int.from_bytes(modulus, "big")
        sized = 8 * len(modulus) == _BITS == number.bit_length()
        if jwk.e != _EXPONENT or not sized or not number & 1:
            raise _refuse(
                f"{AK}: an odd modulus of {_BITS} bits with e = {_EXPONENT} expected, "
                f"{number.bit_length()} bits in {len(modulus)} bytes with e = {jwk.e!a} seen",
                Reason.AK_REFUSED,
            )
        key = rsa.RSAPublicNumbers(65537, number).public_key()
    except (msgspec.ValidationError, ValueError) as error:
        raise _refuse(f"{AK}: {error}", Reason.AK_REFUSED) from error
    return from_public_key(key)


def _decode(text: str) -> bytes:
    """Return the bytes of base64url without padding (RFC 7515 §2), in its one spelling."""
    if _BASE64URL.fullmatch(text) is None:
        raise ValueError("base64url without padding expected")
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise ValueError("base64url of whole bytes expected") from error
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != text:
        raise ValueError("base64url with zeros in its spare bits expected")
    return raw
