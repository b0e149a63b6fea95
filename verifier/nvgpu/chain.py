"""The five certificates of a device: attestation key, BROM, two intermediates and NVIDIA's root.

Guarantees: `load` returns only a chain of exactly that shape whose every link is signed, ECDSA
P-384 with SHA-384 throughout, ending in a key that signs reports and no certificates, and that
names the firmware which holds it (FWID). What is kept in a cache has passed all of that, under the
SHA-256 of the exact bytes; root and dates are judged at every call. Does not look at revocation.

Source: NVIDIA's chains; RFC 5280; TCG DICE Attestation Architecture §6 (CompositeDeviceID,
DiceTcbInfo).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, final

from cryptography import x509 as certificates
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from verifier import x509
from verifier.anchors import Anchors
from verifier.cache import Cache
from verifier.der import SEQUENCE, Der
from verifier.errors import Reason, VerifierError
from verifier.nvgpu import identity
from verifier.nvgpu.identity import Identity
from verifier.x509.certificate import key_usage

FWID_SIZE: Final = 48
"""Bytes of an FWID: SHA-384 of the firmware that holds the attestation key."""

_NAMES: Final = ("leaf", "BROM", "provisioner ICA", "identity CA", "root")
_COMPOSITE: Final = "2.23.133.5.4.1"
"""CompositeDeviceID, on Hopper and LS10."""
_TCB_INFO: Final = "2.23.133.5.4.1.1"
"""DiceTcbInfo, from Blackwell on."""
_FWIDS: Final = 0xA6
_SHA384: Final = "2.16.840.1.101.3.4.2.2"

Subjects = tuple[tuple[certificates.Certificate, certificates.Certificate], ...]


def _error(message: str) -> VerifierError:
    return VerifierError(Reason.CHAIN_INVALID, f"device chain: {message}")


def _spki(certificate: certificates.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _p384(certificate: certificates.Certificate, what: str) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _error(f"{what}: a P-384 key expected")
    return key


@final
@dataclass(frozen=True, slots=True)
class _Issuers:
    """Provisioner ICA, identity CA and root, each signed by the next; the root by itself."""

    certificates: tuple[certificates.Certificate, ...]


@final
@dataclass(frozen=True, slots=True)
class DeviceChain:
    """A chain whose links hold. `root_spki` is SHA-256 of the root's key, not yet believed.

    `windows` are first and last second (unix) of each certificate, in order.
    """

    certificates: tuple[certificates.Certificate, ...]
    key: ec.EllipticCurvePublicKey
    fwid: bytes
    identity: Identity
    root_spki: bytes
    windows: tuple[tuple[int, int], ...]

    @property
    def subjects(self) -> Subjects:
        """BROM, ICA and identity CA, each with its issuer: what must not be revoked.

        Not the leaf, which no one but the device itself issues and revokes.
        """
        return tuple(zip(self.certificates[1:-1], self.certificates[2:], strict=True))

    def check_root(self, anchors: Anchors) -> None:
        """Refuse a root whose key is not pinned.

        Raises:
            VerifierError: `root_unknown`.
        """
        if self.root_spki not in anchors.nvidia_device:
            raise VerifierError(
                Reason.ROOT_UNKNOWN,
                f"device chain: root key {self.root_spki.hex()} is not pinned",
            )

    def check_dates(self, now: int) -> int:
        """Check that all five are valid at `now` (unix seconds); return when the first one ends.

        Raises:
            VerifierError: `certificate_expired` or `certificate_invalid`.
        """
        for certificate, (start, end), name in zip(
            self.certificates, self.windows, _NAMES, strict=True
        ):
            if not start <= now <= end:
                x509.check_window(certificate, now, f"device chain: {name}")
        return min(end for _, end in self.windows)


def load(pem: bytes, cache: Cache | None = None) -> DeviceChain:
    """Return the chain in a device's PEM text, leaf first, once every link is signed.

    Raises:
        VerifierError: `too_large`, `certificate_invalid`, `chain_invalid`.
    """
    if cache is None:
        return _load(pem, None)
    return cache.recall(DeviceChain, hashlib.sha256(pem).digest(), lambda: _load(pem, cache))


def _load(pem: bytes, cache: Cache | None) -> DeviceChain:
    ders = x509.split_pem(pem, "device chain", limit=len(_NAMES))
    if len(ders) != len(_NAMES):
        raise _error(f"{len(_NAMES)} certificates expected, {len(ders)} seen")
    leaf, brom = (_read(der, name) for der, name in zip(ders[:2], _NAMES[:2], strict=True))
    digest = hashlib.sha256(b"".join(hashlib.sha256(der).digest() for der in ders[2:])).digest()
    above = (
        _issuers(ders[2:])
        if cache is None
        else cache.recall(_Issuers, digest, lambda: _issuers(ders[2:]))
    ).certificates
    x509.check_ca(brom, path_length=0, what="device chain: BROM")
    x509.check_issued_by(brom, above[0], "device chain: BROM")
    _check_leaf(leaf)
    x509.check_issued_by(leaf, brom, "device chain: leaf")
    chain = (leaf, brom, *above)
    return DeviceChain(
        certificates=chain,
        key=_p384(leaf, "leaf"),
        fwid=_fwid(leaf, brom),
        identity=identity.read(leaf, brom),
        root_spki=hashlib.sha256(_spki(chain[-1])).digest(),
        windows=tuple((x509.not_before(each), x509.not_after(each)) for each in chain),
    )


def _read(der: bytes, name: str) -> certificates.Certificate:
    certificate = x509.load_der(der, f"device chain: {name}")
    _p384(certificate, name)
    return certificate


def _issuers(ders: tuple[bytes, ...]) -> _Issuers:
    names = _NAMES[2:]
    chain = tuple(_read(der, name) for der, name in zip(ders, names, strict=True))
    for place, (certificate, name) in enumerate(zip(chain, names, strict=True)):
        what = f"device chain: {name}"
        x509.check_ca(certificate, path_length=place + 1, what=what)
        x509.check_issued_by(certificate, chain[min(place + 1, len(chain) - 1)], what)
    return _Issuers(chain)


def _check_leaf(leaf: certificates.Certificate) -> None:
    """Check that the leaf signs, and nothing but reports: BROM's own certificate is no leaf."""
    x509.check_end_entity(leaf, "device chain: leaf")
    if key_usage(leaf) is None:
        raise _error("leaf: key usage digitalSignature expected, none seen")


def _fwid(leaf: certificates.Certificate, brom: certificates.Certificate) -> bytes:
    """Return the FWID of the firmware that holds the leaf's key."""
    found = {
        extension.oid.dotted_string: extension.value.public_bytes()
        for extension in leaf.extensions
        if extension.oid.dotted_string in {_COMPOSITE, _TCB_INFO}
    }
    if len(found) != 1:
        raise _error(f"leaf: one extension with an FWID expected, {len(found)} seen")
    ((oid, value),) = found.items()
    try:
        return _composite(value, brom) if oid == _COMPOSITE else _tcb_info(value)
    except VerifierError as error:
        raise _error(f"leaf: FWID: {error}") from error


def _composite(value: bytes, brom: certificates.Certificate) -> bytes:
    """Read a CompositeDeviceID: version, the key of the device (BROM's), FWID."""
    outer = Der(value, "CompositeDeviceID")
    parts = outer.sequence()
    outer.end()
    parts.integer(below=2)
    if parts.element(SEQUENCE) != _spki(brom):
        raise _error("leaf: its device key is not BROM's")
    fwid = _one_fwid(parts.sequence())
    parts.end()
    return fwid


def _tcb_info(value: bytes) -> bytes:
    """Read the first FWID of a DiceTcbInfo; the second is of firmware that came later."""
    outer = Der(value, "DiceTcbInfo")
    parts = outer.sequence()
    outer.end()
    while not parts.next_is(_FWIDS):
        parts.any()
    return _one_fwid(parts.inside(_FWIDS).sequence())


def _one_fwid(parts: Der) -> bytes:
    algorithm = parts.oid()
    fwid = parts.octets(FWID_SIZE)
    parts.end()
    if algorithm != _SHA384:
        raise _error(f"leaf: an FWID by SHA-384 expected, {algorithm} seen")
    return fwid
