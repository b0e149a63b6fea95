"""The token, logged in: the few things that the worker does with keys, by CKA_ID.

Guarantees: one login for the process's life, and another only after the token was lost; key handles
are cached (a search is linear in the number of objects); DEKs are session objects that live for one
call; nothing here returns a DEK, the PIN or a key's value. Every failure is an `HsmError`. Does not
know tenants, leaves or permits: `service.py` decides what may be asked of it.

One thread calls it, save `make_import_pair`, which may run in another: it takes seconds, has a
session of its own, and never overlaps a reopening.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar, final

from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11 import exceptions as lost
from pkcs11.exceptions import PKCS11Error
from pkcs11.types import Session

from broker.hsm import keys, selftest, softhsm
from broker.hsm.errors import HsmError, HsmReason
from broker.hsm.forbidden import OAEP
from broker.hsm.home import HsmHome, opened_pin
from broker.hsm.pkcs11 import CKU_USER, Mapper, Module, handle_of

DEK_BYTES: Final = 32
BLOB_BYTES: Final = 40
"""A DEK under AES key wrap (RFC 3394): eight bytes more."""

_LOST: Final = (
    lost.SessionHandleInvalid,
    lost.SessionClosed,
    lost.UserNotLoggedIn,
    lost.DeviceRemoved,
    lost.DeviceError,
    lost.TokenNotPresent,
    lost.ObjectHandleInvalid,
    lost.KeyHandleInvalid,
    lost.WrappingKeyHandleInvalid,
    lost.UnwrappingKeyHandleInvalid,
)
"""After these the session is worth nothing, and a new one may work."""

T = TypeVar("T")


@final
class Token:
    """An open, logged-in, self-tested token. `passed` says what the self-test saw."""

    __slots__ = (
        "_cache",
        "_generating",
        "_home",
        "_label",
        "_mapper",
        "_module",
        "_session",
        "passed",
    )

    def __init__(self, home: HsmHome, module: str, label: str) -> None:
        """Open the token named `label`. The caller holds `home.locked()`.

        Raises:
            HsmError: `token_missing`, `unsupported`, `refused` (PIN) or `self_test`.
        """
        self._home = home
        self._label = label
        self._mapper = Mapper()
        self._cache: dict[tuple[ObjectClass, bytes], Any] = {}
        self._generating = threading.Lock()
        repaired = softhsm.restore_torn(home)
        softhsm.keep_copies(home)
        if not home.conf.is_file():
            raise HsmError(HsmReason.TOKEN_MISSING, f"{home.conf} is not there")
        self._module = Module(module, home.conf)
        try:
            self._session = self._open()
            passed = self._guarded(lambda: selftest.run(self._session))
        except BaseException:
            self._module.finalize()
            raise
        self.passed = selftest.Passed(passed.oaep, passed.mechanisms, (*repaired, *passed.checks))

    def close(self) -> None:
        """Log out and unload; the object is of no use afterwards."""
        with self._generating:
            self._cache.clear()
            self._module.finalize()

    def sign(self, key_id: bytes, message: bytes) -> bytes:
        """Return the Ed25519 signature of the pair `key_id`.

        Raises:
            HsmError: `token_missing`, `unavailable`.
        """
        signature: bytes = self._guarded(
            lambda: self._key(ObjectClass.PRIVATE_KEY, key_id).sign(
                message, mechanism=Mechanism.EDDSA
            )
        )
        return signature

    def sign_es256(self, key_id: bytes, message: bytes) -> bytes:
        """Return the ECDSA signature (r and s, 32 bytes each) over the SHA-256 of `message`.

        The digest is made here: not every token has ECDSA with the hash built in.

        Raises:
            HsmError: `token_missing`, `unavailable`.
        """
        digest = hashlib.sha256(message).digest()
        signature: bytes = self._guarded(
            lambda: self._key(ObjectClass.PRIVATE_KEY, key_id).sign(
                digest, mechanism=Mechanism.ECDSA
            )
        )
        return signature

    def public_p256(self, key_id: bytes) -> bytes:
        """Return the SPKI (DER) of the P-256 pair `key_id`.

        Raises:
            HsmError: `token_missing`, `unavailable`.
        """
        return self._guarded(lambda: keys.p256_spki(self._key(ObjectClass.PUBLIC_KEY, key_id)))

    def public(self, key_id: bytes) -> bytes:
        """Return the raw public half of the Ed25519 pair `key_id`.

        Raises:
            HsmError: `token_missing`, `unavailable`.
        """
        return self._guarded(lambda: keys.ed25519_raw(self._key(ObjectClass.PUBLIC_KEY, key_id)))

    def make_kek(self, key_id: bytes, label: str) -> None:
        """Make a KEK, in place of a half-made one; nothing was ever wrapped under that."""
        self._guarded(lambda: self._fresh(key_id, lambda w: keys.make_kek(self._session, w), label))

    def make_signing_pair(self, key_id: bytes, label: str) -> bytes:
        """Make an Ed25519 pair, in place of a half-made one; return its raw public half."""
        self._guarded(
            lambda: self._fresh(key_id, lambda w: keys.make_signing_pair(self._session, w), label)
        )
        return self.public(key_id)

    def make_import_pair(self, key_id: bytes, label: str) -> bytes:
        """Make an RSA-4096 import pair; return its SPKI. May run in a thread of its own."""
        with self._generating:
            try:
                session = self._session.token.open(rw=True, attribute_mapper=self._mapper)
                try:
                    return keys.rsa_spki(keys.make_import_pair(session, keys.Wanted(key_id, label)))
                finally:
                    session.close()
            except PKCS11Error as error:
                raise _unavailable(error) from error

    def destroy(self, key_id: bytes) -> int:
        """Destroy every object with this CKA_ID; return how many there were."""
        for kind in (ObjectClass.SECRET_KEY, ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):
            self._cache.pop((kind, key_id), None)
        return self._guarded(lambda: keys.destroy_all(self._session, key_id))

    def has(self, kind: ObjectClass, key_id: bytes) -> bool:
        """Tell whether the token has exactly one such object."""
        return self._guarded(lambda: len(keys.find(self._session, kind, key_id)) == 1)

    def import_dek(self, import_id: bytes, kek_id: bytes, ciphertext: bytes) -> bytes:
        """Unwrap a DEK by the import pair and return it under the KEK, 40 bytes.

        Raises:
            HsmError: `malformed` unless the ciphertext opens and holds exactly 32 bytes.
        """
        return self._guarded(lambda: self._import_dek(import_id, kek_id, ciphertext))

    def release(self, blobs: Sequence[tuple[bytes, bytes]], modulus: bytes) -> tuple[bytes, ...]:
        """Unwrap each blob and wrap it to an RSA key.

        Args:
            blobs: pairs of the KEK's CKA_ID and the blob.
            modulus: of the recipient's key, big-endian; its exponent is 65537.

        Raises:
            HsmError: `malformed` if a blob does not open under its KEK.
        """
        return self._guarded(lambda: self._release(blobs, modulus))

    def _import_dek(self, import_id: bytes, kek_id: bytes, ciphertext: bytes) -> bytes:
        pair = self._key(ObjectClass.PRIVATE_KEY, import_id)
        kek = self._key(ObjectClass.SECRET_KEY, kek_id)
        dek = _opened(
            lambda: pair.unwrap_key(
                ObjectClass.SECRET_KEY,
                KeyType.AES,
                ciphertext,
                mechanism=Mechanism.RSA_PKCS_OAEP,
                mechanism_param=OAEP[self.passed.oaep],
                capabilities=MechanismFlag.ENCRYPT,
                template=keys.DEK_TEMPLATE,
            ),
            "the ciphertext does not open under the import key",
        )
        try:
            # SoftHSM tells no length of an unwrapped secret, and wraps 25 to 31 bytes as if they
            # were 32, zeros behind them. AES takes 16, 24 and 32 bytes; the blob tells these apart.
            _opened(
                lambda: dek.encrypt(bytes(16), mechanism=Mechanism.AES_ECB),
                "the DEK is not 32 bytes",
            )
            blob: bytes = kek.wrap_key(dek, mechanism=Mechanism.AES_KEY_WRAP)
        finally:
            dek.destroy()
        if len(blob) != BLOB_BYTES:
            raise HsmError(HsmReason.MALFORMED, "the DEK is not 32 bytes")
        return blob

    def _release(self, blobs: Sequence[tuple[bytes, bytes]], modulus: bytes) -> tuple[bytes, ...]:
        recipient: Any = self._session.create_object(
            {
                Attribute.CLASS: ObjectClass.PUBLIC_KEY,
                Attribute.KEY_TYPE: KeyType.RSA,
                Attribute.TOKEN: False,
                Attribute.PRIVATE: False,
                Attribute.WRAP: True,
                Attribute.ENCRYPT: False,
                Attribute.VERIFY: False,
                Attribute.MODULUS: modulus,
                Attribute.PUBLIC_EXPONENT: keys.F4.to_bytes(3),
            }
        )
        try:
            return tuple(self._rewrap(kek_id, blob, recipient) for kek_id, blob in blobs)
        finally:
            recipient.destroy()

    def _rewrap(self, kek_id: bytes, blob: bytes, recipient: Any) -> bytes:  # noqa: ANN401 - a public key that wraps
        kek = self._key(ObjectClass.SECRET_KEY, kek_id)
        dek = _opened(
            lambda: kek.unwrap_key(
                ObjectClass.SECRET_KEY,
                KeyType.AES,
                blob,
                mechanism=Mechanism.AES_KEY_WRAP,
                capabilities=0,
                template=keys.DEK_TEMPLATE,
            ),
            "a blob does not open under its KEK",
        )
        try:
            wrapped: bytes = recipient.wrap_key(
                dek,
                mechanism=Mechanism.RSA_PKCS_OAEP,
                mechanism_param=OAEP[self.passed.oaep],
            )
        finally:
            dek.destroy()
        return wrapped

    def _key(self, kind: ObjectClass, key_id: bytes) -> Any:  # noqa: ANN401 - its methods depend on its attributes
        found = self._cache.get((kind, key_id))
        if found is None:
            found = keys.find_one(self._session, kind, key_id)
            self._cache[kind, key_id] = found
        return found

    def _fresh(self, key_id: bytes, make: Callable[[keys.Wanted], object], label: str) -> None:
        keys.destroy_all(self._session, key_id)
        make(keys.Wanted(key_id, label))

    def _guarded(self, attempt: Callable[[], T]) -> T:
        """Run `attempt`; where the token was lost, open it again and run it once more."""
        try:
            return attempt()
        except _LOST:
            self._reopen()
        except PKCS11Error as error:
            raise _unavailable(error) from error
        try:
            return attempt()
        except PKCS11Error as error:
            raise _unavailable(error) from error

    def _open(self) -> Session:
        try:
            slots = self._module.lib.get_slots(token_present=True)
            tokens = [slot.get_token() for slot in slots]
        except PKCS11Error as error:
            raise _unavailable(error) from error
        found = [token for token in tokens if token.label == self._label]
        if len(found) != 1:
            raise HsmError(
                HsmReason.TOKEN_MISSING,
                f"{len(found)} tokens are labelled {self._label!r}, not one; restore the token "
                "folder: making a new one would lose every key",
            )
        try:
            session = found[0].open(rw=True, attribute_mapper=self._mapper)
        except PKCS11Error as error:
            raise _unavailable(error) from error
        with opened_pin(self._home.pin) as pin:
            self._module.login(handle_of(session), CKU_USER, pin)
        return session

    def _reopen(self) -> None:
        with self._generating:  # C_Finalize under a running C_GenerateKeyPair would crash
            self._cache.clear()
            self._module.finalize()
            self._module.initialize()
            self._session = self._open()


def _opened(attempt: Callable[[], Any], otherwise: str) -> Any:  # noqa: ANN401 - whatever it returns
    """Run `attempt` on bytes from outside; what the token says of bad ones differs by token."""
    try:
        return attempt()
    except _LOST:
        raise
    except PKCS11Error as error:
        raise HsmError(HsmReason.MALFORMED, otherwise) from error


def _unavailable(error: PKCS11Error) -> HsmError:
    return HsmError(
        HsmReason.UNAVAILABLE, f"the token failed: {type(error).__name__} {error}"[:200]
    )
