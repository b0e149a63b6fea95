"""How every key in the token is made, named and found.

Guarantees: a key is found by CKA_ID and CKA_CLASS and there is exactly one, else nothing is done;
every key made here is sensitive, never extractable, not modifiable, not copyable, and can do the
one thing that its kind is for. Whether the token keeps to that, `selftest.py` tries.

CKA_ID, kind by kind:
    KEK          "kek" || genesis digest || u32 version || u8 simulated
    import pair  "imp" || genesis digest || 16 random bytes
    log key      "log" || tree id
    broker key   "brk" || u8 simulated
    result key   "ear" || u8 simulated
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.types import Key, PrivateKey, SecretKey, Session

from broker.hsm.errors import HsmError, HsmReason
from verifier.wire.framing import u8, u32

KEK: Final = b"kek"
IMPORT: Final = b"imp"
LOG: Final = b"log"
BROKER: Final = b"brk"
RESULT: Final = b"ear"
PUBLIC: Final = ObjectClass.PUBLIC_KEY

KEK_BITS: Final = 256
IMPORT_BITS: Final = 4096
F4: Final = 65537

_EDWARDS25519: Final = b"\x13\x0cedwards25519"  # PrintableString, as PKCS#11 3.0 §2.3.5 allows
_POINT: Final = b"\x04\x20"  # DER OCTET STRING of 32 bytes
_P256: Final = bytes.fromhex("06082a8648ce3d030107")  # OBJECT IDENTIFIER prime256v1
_P256_POINT: Final = b"\x04\x41"  # DER OCTET STRING of an uncompressed point

UNWRAP_TEMPLATE: Final = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: True}
"""What the token forces on every key that a KEK or import key unwraps. Without it, whoever has the
session unwraps a blob as readable and reads it (measured)."""

DEK_TEMPLATE: Final = {**UNWRAP_TEMPLATE, Attribute.PRIVATE: True}
"""What we ask for; a token with the template above wants it repeated in full."""

_SEALED: Final = {
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.MODIFIABLE: False,
    Attribute.COPYABLE: False,
}

MUST: Final[Mapping[bytes, Mapping[Attribute, Any]]] = {
    kind: {
        **_SEALED,
        Attribute.ALWAYS_SENSITIVE: True,
        Attribute.NEVER_EXTRACTABLE: True,
        Attribute.LOCAL: True,
        Attribute.DECRYPT: False,
        Attribute.DERIVE: False,
        Attribute.SIGN: kind in {LOG, BROKER, RESULT},
        Attribute.UNWRAP: kind in {KEK, IMPORT},
        **extra,
    }
    for kind, extra in (
        (
            KEK,
            {
                Attribute.CLASS: ObjectClass.SECRET_KEY,
                Attribute.KEY_TYPE: KeyType.AES,
                Attribute.WRAP: True,
                Attribute.ENCRYPT: False,
                Attribute.VERIFY: False,
                Attribute.ALLOWED_MECHANISMS: (int(Mechanism.AES_KEY_WRAP),),
            },
        ),
        (
            IMPORT,
            {
                Attribute.CLASS: ObjectClass.PRIVATE_KEY,
                Attribute.KEY_TYPE: KeyType.RSA,
                Attribute.SIGN_RECOVER: False,
                Attribute.ALLOWED_MECHANISMS: (int(Mechanism.RSA_PKCS_OAEP),),
            },
        ),
        (LOG, {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.KEY_TYPE: KeyType.EC_EDWARDS}),
        (
            BROKER,
            {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.KEY_TYPE: KeyType.EC_EDWARDS},
        ),
        (
            RESULT,
            {
                Attribute.CLASS: ObjectClass.PRIVATE_KEY,
                Attribute.KEY_TYPE: KeyType.EC,
                Attribute.ALLOWED_MECHANISMS: (int(Mechanism.ECDSA),),
            },
        ),
    )
}
"""What the token must say of the secret half of each kind; read from it at every start."""


def kek_id(g: bytes, version: int, *, simulated: bool) -> bytes:
    """Return the CKA_ID of a tenant's KEK."""
    return KEK + g + u32(version) + u8(simulated)


def import_id(g: bytes, nonce: bytes) -> bytes:
    """Return the CKA_ID of an import pair."""
    return IMPORT + g + nonce


def log_id(tree: bytes) -> bytes:
    """Return the CKA_ID of a log key."""
    return LOG + tree


def broker_id(*, simulated: bool) -> bytes:
    """Return the CKA_ID of the broker's signing key."""
    return BROKER + u8(simulated)


def result_id(*, simulated: bool) -> bytes:
    """Return the CKA_ID of the key that signs attestation results."""
    return RESULT + u8(simulated)


@final
@dataclass(frozen=True, slots=True)
class Wanted:
    """How to make a key: its CKA_ID, the label that people see, and whether it is to stay."""

    id: bytes
    label: str
    store: bool = True


def make_kek(session: Session, wanted: Wanted, **changes: Any) -> SecretKey:  # noqa: ANN401 - attribute values
    """Make an AES-256 KEK that wraps and unwraps and nothing else.

    `changes` replace attributes by name; the self-test's own tests make bad keys with them.
    """
    template = {
        **_SEALED,
        Attribute.UNWRAP_TEMPLATE: UNWRAP_TEMPLATE,
        Attribute.ALLOWED_MECHANISMS: (Mechanism.AES_KEY_WRAP,),
        **_named(changes),
    }
    return session.generate_key(
        KeyType.AES,
        KEK_BITS,
        id=wanted.id,
        label=wanted.label,
        store=wanted.store,
        capabilities=MechanismFlag.WRAP | MechanismFlag.UNWRAP,
        template=_given(template),
    )


def make_import_pair(
    session: Session,
    wanted: Wanted,
    bits: int = IMPORT_BITS,
    **changes: Any,  # noqa: ANN401 - attribute values
) -> PrivateKey:
    """Make an RSA pair that unwraps by OAEP and nothing else; return its private half.

    The public half is not kept: the SPKI is built from the private half's modulus.
    """
    template = {
        **_SEALED,
        Attribute.SIGN_RECOVER: False,
        Attribute.UNWRAP_TEMPLATE: UNWRAP_TEMPLATE,
        Attribute.ALLOWED_MECHANISMS: (Mechanism.RSA_PKCS_OAEP,),
        **_named(changes),
    }
    public, private = session.generate_keypair(
        KeyType.RSA,
        bits,
        id=wanted.id,
        label=wanted.label,
        store=wanted.store,
        capabilities=MechanismFlag.WRAP | MechanismFlag.UNWRAP,
        public_template={Attribute.TOKEN: False, Attribute.PRIVATE: False},
        private_template=_given(template),
    )
    public.destroy()
    return private


def make_signing_pair(session: Session, wanted: Wanted) -> PrivateKey:
    """Make an Ed25519 pair that signs and nothing else; return its private half."""
    domain = session.create_domain_parameters(
        KeyType.EC_EDWARDS, {Attribute.EC_PARAMS: _EDWARDS25519}, local=True
    )
    _, private = domain.generate_keypair(
        id=wanted.id,
        label=wanted.label,
        store=wanted.store,
        capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
        public_template={Attribute.PRIVATE: False},
        private_template=_SEALED,
    )
    return private


def make_result_pair(session: Session, wanted: Wanted) -> PrivateKey:
    """Make a P-256 pair that signs by ECDSA and nothing else; return its private half."""
    domain = session.create_domain_parameters(KeyType.EC, {Attribute.EC_PARAMS: _P256}, local=True)
    _, private = domain.generate_keypair(
        id=wanted.id,
        label=wanted.label,
        store=wanted.store,
        capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
        public_template={Attribute.PRIVATE: False},
        private_template={**_SEALED, Attribute.ALLOWED_MECHANISMS: (Mechanism.ECDSA,)},
    )
    return private


def find(session: Session, kind: ObjectClass, key_id: bytes) -> list[Any]:
    """List the objects of one class and CKA_ID. The search is always read to its end."""
    return list(session.get_objects({Attribute.CLASS: kind, Attribute.ID: key_id}))


def find_one(session: Session, kind: ObjectClass, key_id: bytes) -> Key:
    """Return the one object of this class and CKA_ID.

    Raises:
        HsmError: `token_missing` if there are none or several.
    """
    found = find(session, kind, key_id)
    if len(found) != 1:
        raise HsmError(
            HsmReason.TOKEN_MISSING,
            f"the token has {len(found)} {kind.name} objects with CKA_ID {key_id.hex()}, not one",
        )
    key: Key = found[0]
    return key


def destroy_all(session: Session, key_id: bytes) -> int:
    """Destroy whatever carries this CKA_ID; return how many objects that were."""
    found = [
        item
        for kind in (ObjectClass.SECRET_KEY, ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY)
        for item in find(session, kind, key_id)
    ]
    for item in found:
        item.destroy()
    return len(found)


def rsa_spki(private: PrivateKey) -> bytes:
    """Return the SPKI (DER) of the pair whose private half is given."""
    modulus = int.from_bytes(private[Attribute.MODULUS])
    return (
        RSAPublicNumbers(F4, modulus)
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def ed25519_raw(public: Key) -> bytes:
    """Return the 32 bytes of an Ed25519 public key object.

    Raises:
        HsmError: `token_missing` if it is something else.
    """
    point: bytes = public[Attribute.EC_POINT]
    raw = point.removeprefix(_POINT)
    if len(raw) != 32:  # noqa: PLR2004 - RFC 8032 §5.1.5
        raise HsmError(HsmReason.TOKEN_MISSING, "a signing key is not Ed25519")
    return raw


def p256_spki(public: Key) -> bytes:
    """Return the SPKI (DER) of a P-256 public key object.

    Raises:
        HsmError: `token_missing` if it is something else.
    """
    point: bytes = public[Attribute.EC_POINT]
    try:
        key = EllipticCurvePublicKey.from_encoded_point(
            SECP256R1(), point.removeprefix(_P256_POINT)
        )
    except ValueError as error:
        raise HsmError(HsmReason.TOKEN_MISSING, "the result key is not P-256") from error
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def ed25519_spki(raw: bytes) -> bytes:
    """Return the SPKI (DER) of a raw Ed25519 key."""
    return Ed25519PublicKey.from_public_bytes(raw).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def spki_digest(spki: bytes) -> bytes:
    """Return the SHA-256 by which a public key is named."""
    return hashlib.sha256(spki).digest()


def _named(changes: Mapping[str, Any]) -> dict[Attribute, Any]:
    return {Attribute[name.upper()]: value for name, value in changes.items()}


def _given(template: Mapping[Attribute, Any]) -> dict[Attribute, Any]:
    """Leave out what is None: an attribute that is not to be given at all."""
    return {key: value for key, value in template.items() if value is not None}
