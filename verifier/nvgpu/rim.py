"""NVIDIA's reference integrity manifests (RIMs): whose they are, and the golden values in them.

Guarantees: `verify` returns a RIM only if its chain ends in a pinned root key, every certificate of
it is current at `now` (or the caller admits this very document although its signer's time is over),
and the golden values were read from the very tree whose signature held. The service's name for a
document is not in the document: of it only what `Rim.id` says is signed, so product and version are
compared with the report's, and boards are told apart by digest (`pins`) or not at all.
There is no protection against an old document of the same name: NVIDIA has signed two that differ.
`find` takes the one issued last of those that it is given; a pin names one for good.
Does not look at revocation: `revocation` does, for `Rim.certificates`.

Source: TCG Reference Integrity Manifest Information Model 1.01, ISO/IEC 19770-2:2015 (SWID).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, final

from cryptography import x509 as c_x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from verifier import x509
from verifier.anchors import Anchors
from verifier.cache import Cache
from verifier.errors import Reason, VerifierError
from verifier.nvgpu import swid, xmldsig
from verifier.nvgpu.endorsements import MAX_RIM
from verifier.nvgpu.swid import MEASUREMENT_SIZE, Golden, Kind

__all__ = [
    "MEASUREMENT_SIZE",
    "Golden",
    "Kind",
    "Rim",
    "check_id",
    "driver_id",
    "find",
    "is_about",
    "may_be",
    "read",
    "switch_id",
    "vbios_id",
    "verify",
]

_CHAIN: Final = 4
_ID: Final = re.compile(r"[A-Z0-9][A-Z0-9_.]{0,127}", re.ASCII)


@final
@dataclass(frozen=True, slots=True)
class Rim:
    """A RIM whose signature held.

    `id` is as much of the service's name as the document says: all of it for a driver, for firmware
    a `*` stands for board and SKU. `golden` is by index, counted from 0: index i is of the report's
    block i + 1. `certificates` are signer, L3, CA and root. `issued` is the signer's notBefore; the
    documents have no date of their own. `expires` is the earliest notAfter that is not yet past;
    `expired` the one that is past, of a document that was admitted all the same.
    """

    kind: Kind
    id: str
    product: str
    version: str
    tag_id: str
    golden: Mapping[int, Golden]
    certificates: tuple[c_x509.Certificate, ...]
    issued: int
    expires: int
    expired: int | None
    simulated: bool
    sha256: bytes

    @property
    def subjects(self) -> tuple[tuple[c_x509.Certificate, c_x509.Certificate], ...]:
        """Return signer, L3 and CA, each with its issuer: what must not be revoked."""
        return tuple(zip(self.certificates, self.certificates[1:], strict=False))

    def is_of(self, kind: Kind, product: str, version: str) -> bool:
        """Tell whether this is about what a report names; letters of either case are the same."""
        wanted = (product.upper(), version.upper())
        return (self.kind, self.product, self.version) == (kind, *wanted)

    def claims(self) -> dict[str, str | int | bool]:
        """Return what a result says of the document."""
        return {
            "id": self.id,
            "version": self.version,
            "sha256": self.sha256.hex(),
            "issued": self.issued,
            "signer_expired": self.expired is not None,
        }


@final
@dataclass(frozen=True, slots=True)
class _Signed:
    """What of a RIM depends on its bytes alone."""

    rim: Rim
    root_spki: bytes
    starts: int
    ends: tuple[int, ...]


def driver_id(chip: str, driver_version: str, chip_info: str | None = None) -> str:
    """Return the service's name of a driver's RIM.

    Hopper's is by chip. A name of that form for Blackwell gives a signed document with the wrong
    values, so that Blackwell's is by CHIP_INFO, or GB100 where the report has none.

    Raises:
        VerifierError: `malformed` if the parts make no name.
    """
    if chip.upper().startswith("GH"):
        return check_id(f"NV_GPU_DRIVER_{chip}_{driver_version}")
    return check_id(f"NV_GPU_CC_DRIVER_{chip_info or 'GB100'}_{driver_version}")


def vbios_id(project: str, project_sku: str, chip_sku: str, vbios_version: str) -> str:
    """Return the service's name of a VBIOS's RIM.

    Raises:
        VerifierError: `malformed` if the parts make no name.
    """
    version = vbios_version.replace(".", "")
    return check_id(f"NV_GPU_VBIOS_{project}_{project_sku}_{chip_sku}_{version}")


def switch_id(bios_version: str) -> str:
    """Return the service's name of an LS10 BIOS's RIM.

    Raises:
        VerifierError: `malformed` if the version makes no name.
    """
    return check_id(f"NV_SWITCH_BIOS_5612_0002_890_{bios_version.replace('.', '')}")


def check_id(text: str) -> str:
    """Return a name in upper case; it goes into URLs and paths.

    Raises:
        VerifierError: `malformed`.
    """
    name = text.upper()
    if not text.isascii() or _ID.fullmatch(name) is None:
        raise VerifierError(Reason.MALFORMED, f"{text[:200]!r} is not the id of a RIM")
    return name


def may_be(rim: Rim, rim_id: str) -> bool:
    """Tell whether nothing in a document speaks against this being its name at the service."""
    if rim.kind == "driver":
        return rim_id in {rim.id, rim.id.replace("NV_GPU_DRIVER_", "NV_GPU_CC_DRIVER_")}
    before, _, after = rim.id.partition("*")
    return rim_id.startswith(before) and rim_id.endswith(after)


def verify(
    raw: bytes,
    *,
    now: int,
    anchors: Anchors,
    cache: Cache | None = None,
    pinned_expired: frozenset[bytes] = frozenset(),
) -> Rim:
    """Return the RIM in `raw`, which NVIDIA signed, current at `now` (unix seconds).

    Args:
        raw: the signed document.
        now: unix seconds.
        anchors: the pinned RIM root keys.
        cache: what was checked before, by the document's bytes.
        pinned_expired: SHA-256 of documents that are admitted after their signer's time; the
            result then says so in `expired`.

    Raises:
        VerifierError: `too_large`, `collateral_malformed`, `collateral_signature`,
            `chain_invalid`, `certificate_invalid`, `root_unknown`, `rim_expired`.
    """
    if len(raw) > MAX_RIM:
        raise VerifierError(Reason.TOO_LARGE, f"RIM: {len(raw)} bytes, at most {MAX_RIM} expected")
    sha256 = hashlib.sha256(raw).digest()
    if cache is None:
        signed = _read(raw, sha256)
    else:
        signed = cache.recall(_Signed, sha256, lambda: _read(raw, sha256))
    rim = signed.rim
    if signed.root_spki not in anchors.nvidia_rim:
        raise VerifierError(
            Reason.ROOT_UNKNOWN, f"RIM {rim.id}: root key {signed.root_spki.hex()} is not pinned"
        )
    rim = replace(rim, simulated=anchors.is_simulated(signed.root_spki))
    if now < signed.starts:
        raise VerifierError(
            Reason.COLLATERAL_NOT_YET_VALID,
            f"RIM {rim.id}: its chain is valid from {x509.rfc3339(signed.starts)}, "
            f"at {x509.rfc3339(now)}",
        )
    ended = min(signed.ends)
    if now <= ended:
        return replace(rim, expires=ended)
    if sha256 not in pinned_expired:
        raise VerifierError(
            Reason.RIM_EXPIRED,
            f"RIM {rim.id}, SHA-256 {sha256.hex()}: its signers were valid until "
            f"{x509.rfc3339(ended)}, at {x509.rfc3339(now)}",
        )
    later = [end for end in signed.ends if end >= now]
    if not later:
        raise VerifierError(Reason.RIM_EXPIRED, f"RIM {rim.id}: its root's time is over, too")
    return replace(rim, expires=min(later), expired=ended)


def read(raw: bytes) -> tuple[Rim, bytes]:
    """Return the RIM in `raw`, whose signature holds under a root that may be anybody's.

    Returns:
        The RIM, without a judgement of dates, and the SHA-256 of its root's key.

    Raises:
        VerifierError: as `verify`, without those of roots and dates.
    """
    if len(raw) > MAX_RIM:
        raise VerifierError(Reason.TOO_LARGE, f"RIM: {len(raw)} bytes, at most {MAX_RIM} expected")
    signed = _read(raw, hashlib.sha256(raw).digest())
    return signed.rim, signed.root_spki


def find(
    raws: Iterable[bytes],
    kind: Kind,
    product: str,
    version: str,
    *,
    now: int,
    anchors: Anchors,
    cache: Cache | None = None,
    pinned_expired: frozenset[bytes] = frozenset(),
    pins: frozenset[bytes] = frozenset(),
) -> Rim:
    """Return the RIM for what a report names: of the documents that hold, the one issued last.

    Documents about something else are passed over. With `pins` (SHA-256) only those count.

    Raises:
        VerifierError: `collateral_missing` if none is about it; else why the first such one does
            not hold; `collateral_mismatch` if two that were issued at once differ in values, or
            if none of those that hold is pinned.
    """
    what = f"{kind} RIM of {product} {version}"
    failed: VerifierError | None = None
    held: list[Rim] = []
    for raw in raws:
        try:
            rim = verify(raw, now=now, anchors=anchors, cache=cache, pinned_expired=pinned_expired)
        except VerifierError as error:
            if failed is None and is_about(raw, kind, product, version):
                failed = error
            continue
        if rim.is_of(kind, product, version):
            held.append(rim)
    if not held:
        raise failed or VerifierError(Reason.COLLATERAL_MISSING, f"{what}: none given")
    if pins:
        held = [rim for rim in held if rim.sha256 in pins]
        if not held:
            raise VerifierError(Reason.COLLATERAL_MISMATCH, f"{what}: none of the pinned ones")
    held.sort(key=lambda rim: rim.issued)
    newest = held[-1]
    if any(r.issued == newest.issued and r.golden != newest.golden for r in held):
        raise VerifierError(
            Reason.COLLATERAL_MISMATCH,
            f"{what}: two with different values, issued at once: pin one by its SHA-256",
        )
    return newest


def is_about(raw: bytes, kind: Kind, product: str, version: str) -> bool:
    """Tell whether a document that may be anybody's says that it is about this."""
    try:
        found = swid.read(xmldsig.read(raw, "RIM", limit=MAX_RIM).root)
    except VerifierError:
        return False
    said = (found.kind, found.product, found.version)
    return said == (kind, product.upper(), version.upper())


def _read(raw: bytes, sha256: bytes) -> _Signed:
    """Check chain and signature of a document, then read it; its root may be anybody's."""
    enveloped = xmldsig.read(raw, "RIM", limit=MAX_RIM)
    chain, key = _chain(enveloped.certificates)
    enveloped.verify(key)
    said = swid.read(enveloped.root)
    spki = chain[-1].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return _Signed(
        rim=Rim(
            kind=said.kind,
            id=said.id,
            product=said.product,
            version=said.version,
            tag_id=said.tag_id,
            golden=said.golden,
            certificates=chain,
            issued=x509.not_before(chain[0]),
            expires=0,  # and `expired`, `simulated`: judged at every call
            expired=None,
            simulated=False,
            sha256=sha256,
        ),
        root_spki=hashlib.sha256(spki).digest(),
        starts=max(map(x509.not_before, chain)),
        ends=tuple(map(x509.not_after, chain)),
    )


def _chain(
    ders: tuple[bytes, ...],
) -> tuple[tuple[c_x509.Certificate, ...], ec.EllipticCurvePublicKey]:
    """Return signer, L3, CA and root, each issued by the next, P-384 throughout; and whose key."""
    if len(ders) != _CHAIN:
        raise VerifierError(
            Reason.CHAIN_INVALID, f"RIM: {_CHAIN} certificates expected, {len(ders)} seen"
        )
    names = ("signer", "L3", "CA", "root")
    chain = tuple(x509.load_der(der, f"RIM: {n}") for der, n in zip(ders, names, strict=True))
    keys = [_p384(certificate, f"RIM: {n}") for certificate, n in zip(chain, names, strict=True)]
    for place, (certificate, name) in enumerate(zip(chain, names, strict=True)):
        what = f"RIM: {name}"
        x509.check_issued_by(certificate, chain[min(place + 1, _CHAIN - 1)], what)
        if place:
            x509.check_ca(certificate, path_length=place - 1, what=what)
    x509.check_end_entity(chain[0], "RIM: signer")
    return chain, keys[0]


def _p384(certificate: c_x509.Certificate, what: str) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise VerifierError(Reason.CHAIN_INVALID, f"{what}: a P-384 key expected")
    return key
