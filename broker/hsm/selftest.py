"""Tries what must be impossible, at every start, before anything is served.

Guarantees: `run` returns only if the token has every mechanism that we need, refused every
forbidden operation on a throwaway key of each kind and on every real one, and says of every real
key what it should. Tokens differ: NSS softokn wraps a non-extractable KEK out (shown), and a key
made without its unwrap template lets a DEK out in the clear. Does not prove the absence of other
holes, nor of anything the token does for who holds its PIN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, final

from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.exceptions import PKCS11Error
from pkcs11.types import Session

from broker.hsm import keys
from broker.hsm.errors import HsmError, HsmReason
from broker.hsm.forbidden import (
    OAEP,
    Oaep,
    check_attributes,
    check_import,
    check_kek,
    check_result_key,
    check_signer,
    unwrap_oaep,
)

NEEDED: Final = (
    Mechanism.AES_KEY_GEN,
    Mechanism.AES_KEY_WRAP,
    Mechanism.AES_ECB,  # tells a DEK of 32 bytes from a shorter one (token.py)
    Mechanism.RSA_PKCS_KEY_PAIR_GEN,
    Mechanism.RSA_PKCS_OAEP,
    Mechanism.EC_EDWARDS_KEY_PAIR_GEN,
    Mechanism.EDDSA,
    Mechanism.EC_KEY_PAIR_GEN,
    Mechanism.ECDSA,
)

THROWAWAY_BITS: Final = 2048
"""The throwaway import key has the real ones' attributes, but is small: each start makes one."""


@final
@dataclass(frozen=True, slots=True)
class Passed:
    """What the self-test found: the OAEP hash, mechanism names and a line for each check."""

    oaep: Oaep
    mechanisms: tuple[str, ...]
    checks: tuple[str, ...]


def run(session: Session) -> Passed:
    """Test the token and every key in it.

    Raises:
        HsmError: `unsupported`, naming a missing mechanism; `self_test`, naming what was possible.
    """
    mechanisms = _probe(session)
    checks = [f"mechanisms: all {len(NEEDED)} needed are there"]
    dek = session.generate_key(
        KeyType.AES,
        keys.KEK_BITS,
        store=False,
        capabilities=MechanismFlag(0),
        template={**keys.DEK_TEMPLATE},
    )
    thief = session.generate_key(
        KeyType.AES,
        keys.KEK_BITS,
        store=False,
        capabilities=MechanismFlag.WRAP,
        template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False},
    )
    bench = _Bench(session, dek, thief)
    try:
        checks += _throwaway_kek(bench)
        oaep, lines = _throwaway_import(bench)
        checks += lines
        checks += _every_real_key(bench, oaep)
    finally:
        thief.destroy()
        dek.destroy()
    return Passed(oaep, mechanisms, tuple(checks))


@final
@dataclass(frozen=True, slots=True)
class _Bench:
    """A session, a DEK to steal, and a key that would wrap anything."""

    session: Session
    dek: Any
    thief: Any


def _probe(session: Session) -> tuple[str, ...]:
    there = session.token.slot.get_mechanisms()
    missing = [mechanism.name for mechanism in NEEDED if mechanism not in there]
    if missing:
        raise HsmError(
            HsmReason.UNSUPPORTED, "the token lacks " + ", ".join(f"CKM_{m}" for m in missing)
        )
    return tuple(sorted(_mechanism_name(m) for m in there))


def _mechanism_name(mechanism: int) -> str:
    """Name a mechanism; python-pkcs11 gives plain numbers for those that it does not know."""
    return mechanism.name if isinstance(mechanism, Mechanism) else f"0x{mechanism:x}"


def _throwaway_kek(bench: _Bench) -> list[str]:
    kek = keys.make_kek(bench.session, keys.Wanted(b"throwaway", "self-test", store=False))
    try:
        return check_kek(kek, bench.dek, bench.thief, "throwaway KEK", change=True)
    finally:
        kek.destroy()


def _throwaway_import(bench: _Bench) -> tuple[Oaep, list[str]]:
    wanted = keys.Wanted(b"throwaway", "self-test", store=False)
    pair = keys.make_import_pair(bench.session, wanted, THROWAWAY_BITS)
    try:
        oaep = _probe_oaep(bench, pair)
        lines = [f"RSA-OAEP: {oaep}"]
        lines += check_import(pair, bench.thief, oaep, "throwaway import key", change=True)
        return oaep, lines
    finally:
        pair.destroy()


def _probe_oaep(bench: _Bench, pair: Any) -> Oaep:  # noqa: ANN401 - a private key that unwraps
    """Return the best hash with which the token both wraps and unwraps."""
    public = _public_object(bench.session, pair)
    try:
        for name, parameters in OAEP.items():
            try:
                wrapped = public.wrap_key(
                    bench.dek,
                    mechanism=Mechanism.RSA_PKCS_OAEP,
                    mechanism_param=parameters,
                )
                unwrap_oaep(pair, wrapped, name, keys.DEK_TEMPLATE).destroy()
            except PKCS11Error:
                continue
            return name
    finally:
        public.destroy()
    raise HsmError(HsmReason.UNSUPPORTED, "the token has RSA-OAEP with neither SHA-256 nor SHA-1")


def _every_real_key(bench: _Bench, oaep: Oaep) -> list[str]:
    """Read what the token says of each key that it keeps, and try the forbidden on each."""
    lines: list[str] = []
    for kind in (ObjectClass.SECRET_KEY, ObjectClass.PRIVATE_KEY):
        wanted = {Attribute.CLASS: kind, Attribute.TOKEN: True}
        for key in list(bench.session.get_objects(wanted)):
            key_id: bytes = key[Attribute.ID]
            name = f"key {key_id.hex()}"
            said = check_attributes(key, key_id, name)
            match key_id[:3]:
                case keys.KEK:
                    found = check_kek(key, bench.dek, bench.thief, name)
                case keys.IMPORT:
                    found = check_import(key, bench.thief, oaep, name)
                case keys.RESULT:
                    found = check_result_key(bench.session, key, bench.thief, key_id, name)
                case _:
                    found = check_signer(bench.session, key, bench.thief, key_id, name)
            lines += [said, *found]
    return lines


def _public_object(session: Session, pair: Any) -> Any:  # noqa: ANN401 - keys
    return session.create_object(
        {
            Attribute.CLASS: ObjectClass.PUBLIC_KEY,
            Attribute.KEY_TYPE: KeyType.RSA,
            Attribute.TOKEN: False,
            Attribute.PRIVATE: False,
            Attribute.WRAP: True,
            Attribute.MODULUS: pair[Attribute.MODULUS],
            Attribute.PUBLIC_EXPONENT: keys.F4.to_bytes(3),
        }
    )
