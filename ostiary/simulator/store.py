"""Keeps simulated keys and certificates in a folder, so that several processes share one vendor.

Guarantees: key files are 0600 and folders 0700 from their first byte on, and nothing that exists is
overwritten. The keys are unencrypted: whoever reads the folder is the vendor. Crash: a half-written
folder is refused on load (a missing file), and must be deleted by hand.
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class SimulatorError(Exception):
    """The simulated hardware cannot do what it was asked for; the text says why."""


def make_folder(folder: Path) -> None:
    """Make a private folder (0700) and its parents.

    Raises:
        SimulatorError: it cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SimulatorError(f"cannot make {folder}: {error.strerror}") from error


def write_new(path: Path, data: bytes) -> None:
    """Write a new file with mode 0600.

    Raises:
        SimulatorError: it exists already, or cannot be written.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as out:
            out.write(data)
    except FileExistsError as error:
        raise SimulatorError(f"{path} exists already: a vendor is never overwritten") from error
    except OSError as error:
        raise SimulatorError(f"cannot write {path}: {error.strerror}") from error


def read(path: Path) -> bytes:
    """Return a file's bytes.

    Raises:
        SimulatorError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise SimulatorError(f"cannot read {path}: {error.strerror}") from error


def write_key(path: Path, key: PrivateKey) -> None:
    """Write a private key as unencrypted PKCS#8 PEM, 0600.

    Raises:
        SimulatorError: as `write_new`.
    """
    write_new(
        path,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def _load(path: Path) -> object:
    try:
        return serialization.load_pem_private_key(read(path), password=None)
    except (ValueError, TypeError) as error:
        raise SimulatorError(f"{path} is not a PEM private key") from error


def read_ec_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return an EC private key.

    Raises:
        SimulatorError: the file cannot be read or holds something else.
    """
    key = _load(path)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise SimulatorError(f"{path} is not an EC key")
    return key


def read_rsa_key(path: Path) -> rsa.RSAPrivateKey:
    """Return an RSA private key.

    Raises:
        SimulatorError: the file cannot be read or holds something else.
    """
    key = _load(path)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise SimulatorError(f"{path} is not an RSA key")
    return key
