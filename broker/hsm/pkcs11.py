"""Loads a PKCS#11 module so that threads are safe, and fills python-pkcs11's gaps.

Guarantees: C_Initialize is called with CKF_OS_LOCKING_OK (python-pkcs11 0.10 passes NULL, SoftHSM
then drops its mutexes, and two threads crash the process: measured). PINs go to C_Login, C_InitPIN
and C_InitToken from buffers that the caller wipes, never as Python strings. Does not retry or cache
anything; `token.py` does. Nothing outside `broker/hsm` may import it: whoever loads the module
holds DEKs in its pages.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, final

from pkcs11 import Attribute
from pkcs11._pkcs11 import lib
from pkcs11.attributes import AttributeMapper
from pkcs11.exceptions import PKCS11Error
from pkcs11.types import Session

from broker.hsm.errors import HsmError, HsmReason

MODULES: Final = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
)
"""Where distributions put SoftHSM."""

CKU_SO: Final = 0
CKU_USER: Final = 1
LABEL_BYTES: Final = 32

_CKF_OS_LOCKING_OK: Final = 2
_CKR_ALREADY_INITIALIZED: Final = 0x191
_CKR_PIN: Final = {0xA0: "the PIN is wrong", 0xA4: "the PIN is locked"}

# Positions in CK_FUNCTION_LIST (PKCS#11 2.40, pkcs11f.h). The list starts with a two-byte version,
# so the first pointer stands one pointer's size in.
_INITIALIZE, _FINALIZE, _INIT_TOKEN, _INIT_PIN, _LOGIN, _LOGOUT = 0, 1, 9, 10, 18, 19


class _InitializeArgs(ctypes.Structure):
    """CK_C_INITIALIZE_ARGS."""

    _fields_ = (
        ("create_mutex", ctypes.c_void_p),
        ("destroy_mutex", ctypes.c_void_p),
        ("lock_mutex", ctypes.c_void_p),
        ("unlock_mutex", ctypes.c_void_p),
        ("flags", ctypes.c_ulong),
        ("reserved", ctypes.c_void_p),
    )


class _Attribute(ctypes.Structure):
    """CK_ATTRIBUTE."""

    _fields_ = (
        ("type", ctypes.c_ulong),
        ("value", ctypes.c_void_p),
        ("length", ctypes.c_ulong),
    )


def find_module(explicit: str = "") -> str:
    """Return the path of the PKCS#11 module: `explicit`, or SoftHSM where distributions put it.

    Raises:
        HsmError: `unsupported`, saying what to install.
    """
    if explicit:
        if not Path(explicit).is_file():
            raise HsmError(HsmReason.UNSUPPORTED, f"no PKCS#11 module at {explicit}")
        return explicit
    for path in MODULES:
        if Path(path).is_file():
            return path
    raise HsmError(
        HsmReason.UNSUPPORTED,
        "SoftHSM is not installed: `apt-get install softhsm2` (Debian, Ubuntu), or name your "
        "PKCS#11 module in the setting hsm_module; looked at " + ", ".join(MODULES),
    )


class _Lib(lib):
    """python-pkcs11's library object, initialised by us before it asks."""

    def initialize(self) -> None:
        """Do nothing: `Module` has called C_Initialize, with locking."""


@final
class Module:
    """A loaded and initialised PKCS#11 module. One per process; `finalize` before the next."""

    __slots__ = ("_calls", "lib", "path")

    def __init__(self, path: str, conf: Path | None = None) -> None:
        """Load the module at `path`. SoftHSM reads the file `conf` when it is initialised.

        Raises:
            HsmError: `unsupported` if it does not load, `token_missing` if it does not start.
        """
        if conf is not None:
            os.putenv("SOFTHSM2_CONF", str(conf))  # read by the C library alone
        self.path = path
        try:
            loaded = ctypes.CDLL(path)
            functions = ctypes.c_void_p()
            if loaded.C_GetFunctionList(ctypes.byref(functions)) != 0 or functions.value is None:
                raise HsmError(HsmReason.UNSUPPORTED, f"{path} gives no PKCS#11 functions")
        except (OSError, AttributeError) as error:
            raise HsmError(HsmReason.UNSUPPORTED, f"{path} is no PKCS#11 module") from error
        self._calls = ctypes.cast(
            functions.value + ctypes.sizeof(ctypes.c_void_p), ctypes.POINTER(ctypes.c_void_p)
        )
        self.initialize()
        try:
            self.lib = _Lib(path)
        except PKCS11Error as error:
            raise HsmError(HsmReason.UNSUPPORTED, f"{path} does not start") from error

    def initialize(self) -> None:
        """Call C_Initialize with operating-system locking; again after `finalize`.

        Raises:
            HsmError: `token_missing` or `unavailable`.
        """
        args = _InitializeArgs()
        args.flags = _CKF_OS_LOCKING_OK
        rv = self._call(_INITIALIZE, ctypes.byref(args))
        if rv == _CKR_ALREADY_INITIALIZED:
            raise HsmError(HsmReason.UNAVAILABLE, "the PKCS#11 module is in use in this process")
        if rv != 0:
            raise HsmError(
                HsmReason.TOKEN_MISSING,
                f"C_Initialize: CKR 0x{rv:x}; is the token folder there, and whole?",
            )

    def finalize(self) -> None:
        """Call C_Finalize: every session, login and handle is gone."""
        self._call(_FINALIZE, None)

    def init_token(self, slot: int, so_pin: bytearray, label: str) -> None:
        """Make a token in `slot` (C_InitToken).

        Raises:
            HsmError: `refused`.
        """
        padded = ctypes.create_string_buffer(label.encode().ljust(LABEL_BYTES), LABEL_BYTES)
        pin = (ctypes.c_char * len(so_pin)).from_buffer(so_pin)
        rv = self._call(_INIT_TOKEN, ctypes.c_ulong(slot), pin, ctypes.c_ulong(len(pin)), padded)
        _require(rv, "C_InitToken")

    def init_pin(self, session: int, pin: bytearray) -> None:
        """Set the user PIN, as security officer (C_InitPIN).

        Raises:
            HsmError: `refused`.
        """
        raw = (ctypes.c_char * len(pin)).from_buffer(pin)
        rv = self._call(_INIT_PIN, ctypes.c_ulong(session), raw, ctypes.c_ulong(len(raw)))
        _require(rv, "C_InitPIN")

    def login(self, session: int, user: int, pin: bytearray) -> None:
        """Log the token in, for every session of this process (C_Login).

        Raises:
            HsmError: `refused`.
        """
        raw = (ctypes.c_char * len(pin)).from_buffer(pin)
        rv = self._call(
            _LOGIN, ctypes.c_ulong(session), ctypes.c_ulong(user), raw, ctypes.c_ulong(len(raw))
        )
        _require(rv, "C_Login")

    def logout(self, session: int) -> None:
        """Log the token out (C_Logout).

        Raises:
            HsmError: `refused`.
        """
        _require(self._call(_LOGOUT, ctypes.c_ulong(session)), "C_Logout")

    def _call(self, position: int, *arguments: object) -> int:
        function = ctypes.CFUNCTYPE(ctypes.c_ulong)(self._calls[position])
        return int(function(*arguments))


def _require(rv: int, name: str) -> None:
    if rv != 0:
        raise HsmError(HsmReason.REFUSED, f"{name}: {_CKR_PIN.get(rv, f'CKR 0x{rv:x}')}")


def handle_of(session: Session) -> int:
    """Return the CK_SESSION_HANDLE of a session; python-pkcs11's types leave it out."""
    handle: int = session.handle  # type: ignore[attr-defined]
    return handle


@final
class Mapper(AttributeMapper):
    """An attribute mapper that also knows nested templates and lists of mechanisms.

    The nested CK_ATTRIBUTE array holds addresses of its values, so they are kept alive here for as
    long as the mapper is; there are two different ones in a worker's life.
    """

    def __init__(self) -> None:
        super().__init__()
        self._alive: dict[bytes, tuple[ctypes.Array[_Attribute], list[ctypes.c_ubyte]]] = {}
        self.register_handler(Attribute.UNWRAP_TEMPLATE, self._pack_template, bytes)
        self.register_handler(Attribute.ALLOWED_MECHANISMS, _pack_mechanisms, _unpack_mechanisms)

    def _pack_template(self, template: Mapping[Attribute, bool]) -> bytes:
        name = repr(sorted((int(key), bool(value)) for key, value in template.items())).encode()
        if name not in self._alive:
            values = [ctypes.c_ubyte(bool(value)) for value in template.values()]
            array = (_Attribute * len(template))(
                *(
                    _Attribute(int(key), ctypes.addressof(value), 1)
                    for key, value in zip(template, values, strict=True)
                )
            )
            self._alive[name] = (array, values)
        return bytes(self._alive[name][0])


def _pack_mechanisms(mechanisms: Sequence[int]) -> bytes:
    return struct.pack(f"{len(mechanisms)}L", *mechanisms)


def _unpack_mechanisms(raw: bytes) -> Any:  # noqa: ANN401 - the library's own signature
    return tuple(number for (number,) in struct.iter_unpack("L", raw))
