"""Tries the forbidden on one key, and reads what the token says of it.

Guarantees: each `check_…` returns only if every attempt was refused and what must work did. The
attempts are real calls with right arguments: for each, tests make a key on which it succeeds. Knows
nothing of which keys there are; `selftest.py` does.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, Literal, final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from pkcs11 import MGF, Attribute, KeyType, Mechanism, ObjectClass
from pkcs11 import _pkcs11 as native
from pkcs11.exceptions import PKCS11Error
from pkcs11.types import Session

from broker.hsm import keys
from broker.hsm.errors import HsmError, HsmReason

Oaep = Literal["sha1", "sha256"]

OAEP: Final[dict[Oaep, tuple[Mechanism, MGF, None]]] = {
    "sha256": (Mechanism.SHA256, MGF.SHA256, None),
    "sha1": (Mechanism.SHA_1, MGF.SHA1, None),
}
"""PKCS#11 parameters for each OAEP hash, the better one first. No label: SoftHSM takes none."""

_TEXT: Final = b"ostiary/self-test/v1"


_NATIVE: Any = native  # its classes are not in the library's stubs

# Keys asked for what their attributes forbid: python-pkcs11 gives a key those methods alone that
# its attributes promise, so that trying the others needs a class of our own.
_ForcedSecret: Any = type(
    "_ForcedSecret",
    (_NATIVE.SecretKey, _NATIVE.EncryptMixin, _NATIVE.DecryptMixin, _NATIVE.Object),
    {},
)
_ForcedPrivate: Any = type(
    "_ForcedPrivate",
    (_NATIVE.PrivateKey, _NATIVE.DecryptMixin, _NATIVE.SignMixin, _NATIVE.Object),
    {},
)


def check_kek(
    kek: Any,  # noqa: ANN401 - a secret key; its methods depend on its attributes
    dek: Any,  # noqa: ANN401 - same
    thief: Any,  # noqa: ANN401 - same
    name: str,
    *,
    change: bool = False,
) -> list[str]:
    """Try the forbidden on a KEK; `change` also tries to weaken it, which no real key risks.

    Raises:
        HsmError: `self_test`.
    """
    checks = _Checks(name)
    blob = checks.works("wraps a DEK", lambda: kek.wrap_key(dek, mechanism=Mechanism.AES_KEY_WRAP))
    checks.works("unwraps it again", lambda: _unwrap_kw(kek, blob, keys.DEK_TEMPLATE).destroy())
    for weaker in _weaker():
        checks.forbidden(f"unwrap with {_say(weaker)}", partial(_unwrap_kw, kek, blob, weaker))
    checks.forbidden("read CKA_VALUE", lambda: kek[Attribute.VALUE])
    forced = _ForcedSecret(kek.wrapper)
    checks.forbidden(
        "decrypt a blob", lambda: forced.decrypt(blob[:32], mechanism=Mechanism.AES_ECB)
    )
    checks.forbidden("encrypt", lambda: forced.encrypt(bytes(32), mechanism=Mechanism.AES_ECB))
    checks.forbidden("wrap it out", lambda: thief.wrap_key(kek, mechanism=Mechanism.AES_KEY_WRAP))
    checks.forbidden(
        "wrap it under itself", lambda: kek.wrap_key(kek, mechanism=Mechanism.AES_KEY_WRAP)
    )
    if change:
        checks.weakening(kek)
    return checks.lines()


def check_import(
    pair: Any,  # noqa: ANN401 - a private key; its methods depend on its attributes
    thief: Any,  # noqa: ANN401 - a secret key
    oaep: Oaep,
    name: str,
    *,
    change: bool = False,
) -> list[str]:
    """Try the forbidden on an import key's private half.

    Raises:
        HsmError: `self_test`.
    """
    checks = _Checks(name)
    public = serialization.load_der_public_key(keys.rsa_spki(pair))
    if not isinstance(public, RSAPublicKey):
        raise HsmError(HsmReason.SELF_TEST, f"{name} is not RSA")
    secret = secrets.token_bytes(32)
    hashed = {"sha1": hashes.SHA1, "sha256": hashes.SHA256}[oaep]()
    sealed = public.encrypt(secret, padding.OAEP(padding.MGF1(hashed), hashed, None))
    old = public.encrypt(secret, padding.PKCS1v15())
    checks.works(
        "unwraps a DEK", lambda: unwrap_oaep(pair, sealed, oaep, keys.DEK_TEMPLATE).destroy()
    )
    for weaker in _weaker():
        checks.forbidden(
            f"unwrap with {_say(weaker)}",
            partial(unwrap_oaep, pair, sealed, oaep, weaker),
        )
    checks.forbidden("read the private exponent", lambda: pair[Attribute.PRIVATE_EXPONENT])
    forced = _ForcedPrivate(pair.wrapper)
    checks.forbidden(
        "decrypt",
        lambda: forced.decrypt(
            sealed, mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=OAEP[oaep]
        ),
    )
    checks.forbidden(
        "decrypt by PKCS#1 v1.5", lambda: forced.decrypt(old, mechanism=Mechanism.RSA_PKCS)
    )
    checks.forbidden("sign", lambda: forced.sign(_TEXT, mechanism=Mechanism.SHA256_RSA_PKCS))
    checks.forbidden(
        "unwrap by PKCS#1 v1.5",
        lambda: pair.unwrap_key(
            ObjectClass.SECRET_KEY,
            KeyType.AES,
            old,
            mechanism=Mechanism.RSA_PKCS,
            capabilities=0,
            template=keys.DEK_TEMPLATE,
        ),
    )
    checks.forbidden("wrap it out", lambda: thief.wrap_key(pair, mechanism=Mechanism.AES_KEY_WRAP))
    if change:
        checks.weakening(pair)
    return checks.lines()


def check_signer(
    session: Session,
    private: Any,  # noqa: ANN401 - a private key; its methods depend on its attributes
    thief: Any,  # noqa: ANN401 - a secret key
    key_id: bytes,
    name: str,
) -> list[str]:
    """Try the forbidden on a signing key, and that its two halves belong together.

    Raises:
        HsmError: `self_test`.
    """
    checks = _Checks(name)
    public = keys.find_one(session, ObjectClass.PUBLIC_KEY, key_id)
    raw = keys.ed25519_raw(public)
    signature = checks.works("signs", lambda: private.sign(_TEXT, mechanism=Mechanism.EDDSA))
    try:
        Ed25519PublicKey.from_public_bytes(raw).verify(signature, _TEXT)
    except InvalidSignature as error:
        raise HsmError(HsmReason.SELF_TEST, f"{name}: its two halves do not match") from error
    checks.forbidden(
        "wrap it out", lambda: thief.wrap_key(private, mechanism=Mechanism.AES_KEY_WRAP)
    )
    checks.forbidden("read CKA_VALUE", lambda: private[Attribute.VALUE])
    return checks.lines()


def check_result_key(
    session: Session,
    private: Any,  # noqa: ANN401 - a private key; its methods depend on its attributes
    thief: Any,  # noqa: ANN401 - a secret key
    key_id: bytes,
    name: str,
) -> list[str]:
    """Try the forbidden on the key that signs results, and that its two halves belong together.

    Raises:
        HsmError: `self_test`.
    """
    checks = _Checks(name)
    spki = keys.p256_spki(keys.find_one(session, ObjectClass.PUBLIC_KEY, key_id))
    public = serialization.load_der_public_key(spki)
    if not isinstance(public, EllipticCurvePublicKey):
        raise HsmError(HsmReason.SELF_TEST, f"{name} is not P-256")
    digest = hashlib.sha256(_TEXT).digest()
    raw = checks.works("signs", lambda: private.sign(digest, mechanism=Mechanism.ECDSA))
    signature = encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
    try:
        public.verify(signature, _TEXT, ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise HsmError(HsmReason.SELF_TEST, f"{name}: its two halves do not match") from error
    checks.forbidden(
        "wrap it out", lambda: thief.wrap_key(private, mechanism=Mechanism.AES_KEY_WRAP)
    )
    checks.forbidden("read CKA_VALUE", lambda: private[Attribute.VALUE])
    return checks.lines()


def check_attributes(key: Any, key_id: bytes, name: str) -> str:  # noqa: ANN401 - any key
    """Compare what the token says of a key with what its kind must be.

    Raises:
        HsmError: `self_test` for an attribute that differs, or a key that is none of ours.
    """
    must = keys.MUST.get(key_id[:3])
    if must is None:
        raise HsmError(HsmReason.SELF_TEST, f"{name} in the token is none of ours")
    for attribute, value in must.items():
        try:
            seen = key[attribute]
        except PKCS11Error as error:
            raise HsmError(
                HsmReason.SELF_TEST,
                f"{name}: CKA_{attribute.name} cannot be read ({type(error).__name__})",
            ) from error
        if seen != value:
            raise HsmError(
                HsmReason.SELF_TEST,
                f"{name}: CKA_{attribute.name} is {seen!r}, must be {value!r}",
            )
    return f"{name}: {len(must)} attributes are as they must be"


@final
class _Checks:
    """Counts what was tried on one key; raises at the first thing that should not be."""

    __slots__ = ("_name", "_tried")

    def __init__(self, name: str) -> None:
        self._name = name
        self._tried: list[str] = []

    def works(self, what: str, attempt: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever it returns
        try:
            return attempt()
        except (PKCS11Error, AttributeError) as error:
            raise HsmError(
                HsmReason.SELF_TEST, f"{self._name}: {what} failed ({type(error).__name__})"
            ) from error

    def forbidden(self, what: str, attempt: Callable[[], Any]) -> None:
        try:
            attempt()
        except PKCS11Error:
            self._tried.append(what)
            return
        raise HsmError(
            HsmReason.SELF_TEST,
            f"{self._name}: the token let us {what}. Nothing is served from it",
        )

    def weakening(self, key: Any) -> None:  # noqa: ANN401 - any key
        for attribute, value in (
            (Attribute.EXTRACTABLE, True),
            (Attribute.SENSITIVE, False),
            (Attribute.DECRYPT, True),
        ):
            self.forbidden(
                f"set CKA_{attribute.name} to {value}",
                partial(key.__setitem__, attribute, value),
            )
        self.forbidden(
            "copy it as extractable",
            lambda: key.copy({Attribute.TOKEN: False, Attribute.EXTRACTABLE: True}),
        )

    def lines(self) -> list[str]:
        return [f"{self._name}: refused to {', '.join(self._tried)}"]


def _weaker() -> Iterable[dict[Attribute, bool]]:
    yield {**keys.DEK_TEMPLATE, Attribute.SENSITIVE: False}
    yield {Attribute.EXTRACTABLE: True, Attribute.SENSITIVE: False, Attribute.PRIVATE: False}


def _say(template: dict[Attribute, bool]) -> str:
    return " and ".join(f"CKA_{key.name}={value}" for key, value in template.items() if not value)


def _unwrap_kw(kek: Any, blob: bytes, template: dict[Attribute, bool]) -> Any:  # noqa: ANN401 - keys
    return kek.unwrap_key(
        ObjectClass.SECRET_KEY,
        KeyType.AES,
        blob,
        mechanism=Mechanism.AES_KEY_WRAP,
        capabilities=0,
        template=template,
    )


def unwrap_oaep(pair: Any, sealed: bytes, oaep: Oaep, template: dict[Attribute, bool]) -> Any:  # noqa: ANN401 - keys
    """Unwrap by an import pair, with this hash and template; raises what the token raises."""
    return pair.unwrap_key(
        ObjectClass.SECRET_KEY,
        KeyType.AES,
        sealed,
        mechanism=Mechanism.RSA_PKCS_OAEP,
        mechanism_param=OAEP[oaep],
        capabilities=0,
        template=template,
    )
