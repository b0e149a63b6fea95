"""One sealed file: Tink's streaming AEAD AES256-GCM-HKDF with 1 MiB segments, byte for byte.

Guarantees: a segment opens only at its own place in the file that it was sealed for, with its own
last flag, under its own data key and associated data. Does not commit to the bytes: whoever holds
the data key can make another file that opens; the digest in the manifest is what forbids that.
Source: developers.google.com/tink/streaming-aead/aes_gcm_hkdf_streaming; SPEC.md §3.
"""

from __future__ import annotations

import secrets
from typing import Self, final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from inference_runtime.errors import Fault, RuntimeFault
from inference_runtime.sealed.layout import HEADER, PREFIX, SALT, TAG
from inference_runtime.sealed.secret import KEY_SIZE, SecretKey

CONTEXT = b"ostiary/sealed/v1"


def lp(value: bytes) -> bytes:
    """Return `value` with its length before it, a big-endian u64."""
    return len(value).to_bytes(8) + value


def associated_data(model_version_id: bytes, path: str) -> bytes:
    """Return what ties a sealed file to its model version and its place in it (SPEC.md §3.2)."""
    return CONTEXT + lp(model_version_id) + lp(path.encode())


@final
class SegmentCipher:
    """Seals and opens the segments of one file. Safe to use from several threads at once."""

    __slots__ = ("_aead", "_name", "_prefix", "header")

    def __init__(self, dek: SecretKey, header: bytes, associated: bytes, name: str) -> None:
        """Derive the file's own key.

        Args:
            dek: the data key of the model version.
            header: the 40 bytes that a sealed file starts with.
            associated: see `associated_data`.
            name: the file's path, for messages.

        Raises:
            RuntimeFault: `sealed_header` or `key_wiped`.
        """
        if len(header) != HEADER or header[0] != HEADER:
            raise RuntimeFault(Fault.SEALED_HEADER, f"{name}: not the header of a sealed file")
        self.header = header
        self._name = name
        self._prefix = header[1 + SALT :]
        derived = bytearray(KEY_SIZE)
        salt = header[1 : 1 + SALT]
        HKDF(SHA256(), KEY_SIZE, salt, info=associated).derive_into(dek.view(), derived)
        self._aead = AESGCM(derived)
        derived[:] = bytes(KEY_SIZE)

    @classmethod
    def fresh(cls, dek: SecretKey, associated: bytes, name: str) -> Self:
        """Return a cipher for a new file, with random salt and nonce prefix.

        Raises:
            RuntimeFault: `key_wiped`.
        """
        return cls(dek, bytes([HEADER]) + secrets.token_bytes(SALT + PREFIX), associated, name)

    def seal(self, index: int, plain: memoryview, out: memoryview, *, last: bool) -> None:
        """Encrypt segment `index` into `out`, which is 16 bytes longer than `plain`."""
        self._aead.encrypt_into(self._nonce(index, last=last), plain, b"", out)

    def open(self, index: int, sealed: memoryview, out: memoryview, *, last: bool) -> None:
        """Decrypt segment `index` into `out`, which is 16 bytes shorter than `sealed`.

        Raises:
            RuntimeFault: `sealed_segment`; `out` is zeros then.
        """
        try:
            self._aead.decrypt_into(self._nonce(index, last=last), sealed, b"", out)
        except InvalidTag as error:
            out[:] = bytes(len(out))  # OpenSSL leaves unauthenticated plaintext behind
            raise RuntimeFault(
                Fault.SEALED_SEGMENT, f"{self._name}: segment {index} is not authentic"
            ) from error

    def _nonce(self, index: int, *, last: bool) -> bytes:
        return self._prefix + index.to_bytes(4) + bytes([last])


def split(sealed: memoryview, index: int) -> memoryview:
    """Return the encrypted part of segment `index`: the first one carries the header before it."""
    return sealed[HEADER:] if index == 0 else sealed


__all__ = ["CONTEXT", "TAG", "SegmentCipher", "associated_data", "lp", "split"]
