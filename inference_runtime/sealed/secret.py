"""A key that can be wiped, and that does not slip into a log, a pickle or a copy.

Guarantees: `repr`, `str` and `format` show nothing of it, copying and pickling raise, and after
`wipe` the 32 bytes are zero. Does not guarantee that no other copy exists: whoever turns the view
into `bytes` makes one, and AES key schedules live inside OpenSSL until their objects are freed.
A key that is only forgotten is not wiped: a view may outlive it, and 32 zeros must never pass for
a key.
"""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn, Self, final

from inference_runtime.errors import Fault, RuntimeFault

KEY_SIZE = 32
"""Length of a data encryption key (DEK) in bytes: AES-256 and nothing else."""

_RANDOM = Path("/dev/urandom")


@final
class SecretKey:
    """A 32-byte data key. Use it as a context manager: it is wiped on the way out."""

    __slots__ = ("_material", "_wiped")

    def __init__(self, material: bytearray) -> None:
        """Take over `material`: the same buffer, so that wiping the key wipes the caller's bytes.

        Raises:
            RuntimeFault: `key_invalid` unless it is a bytearray of 32 bytes.
        """
        self._wiped = True
        if type(material) is not bytearray or len(material) != KEY_SIZE:
            raise RuntimeFault(Fault.KEY_INVALID, f"a data key is a bytearray of {KEY_SIZE} bytes")
        self._material = material
        self._wiped = False

    @classmethod
    def generate(cls) -> Self:
        """Return a fresh key from the kernel's generator, without a copy that cannot be wiped.

        Raises:
            RuntimeFault: `key_invalid` if the generator gave too few bytes.
        """
        material = bytearray(KEY_SIZE)
        # `os.urandom` would leave an immutable copy behind; the kernel fills our buffer instead.
        with _RANDOM.open("rb", buffering=0) as kernel:
            if kernel.readinto(material) != KEY_SIZE:
                raise RuntimeFault(Fault.KEY_INVALID, "the random generator gave too few bytes")
        return cls(material)

    def view(self) -> memoryview:
        """Return a read-only view of the key; it turns to zeros when the key is wiped.

        Raises:
            RuntimeFault: `key_wiped`.
        """
        if self._wiped:
            raise RuntimeFault(Fault.KEY_WIPED, "the data key was wiped")
        return memoryview(self._material).toreadonly()

    @property
    def wiped(self) -> bool:
        """Whether the key is gone."""
        return self._wiped

    def wipe(self) -> None:
        """Overwrite the key with zeros; a second call does nothing."""
        if not self._wiped:
            self._wiped = True
            self._material[:] = bytes(KEY_SIZE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()

    def __repr__(self) -> str:
        return "SecretKey(wiped)" if self._wiped else "SecretKey(...)"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a secret key is never copied and never pickled")
