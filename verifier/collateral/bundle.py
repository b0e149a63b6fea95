"""A signed bundle of parts: how collateral crosses an air gap.

Guarantees: `opened` returns a bundle only if enough pinned signers signed exactly these bytes;
`parts_of` its parts only if every part's own signatures hold, the dates that the bundle states are
those that the vendors signed, and all are current; `take_in` puts all of them into a store or none,
and never steps back to an older one unless told to. The signer says "this is what I fetched"; it
cannot make a vendor's statement, only choose which of them to bring, so the step back is refused.

Format: DSSE, payload type `application/vnd.ostiary.collateral.v1+json`, canonical JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, final

from verifier import dsse
from verifier.anchors import Anchors
from verifier.collateral.parts import Name, Part
from verifier.collateral.store import Dates, Store, dates_of
from verifier.collateral.vet import vet
from verifier.errors import Reason, VerifierError
from verifier.wire import canonical
from verifier.wire.canonical import B64

PAYLOAD_TYPE: Final = "application/vnd.ostiary.collateral.v1+json"
MAX_BUNDLE: Final = 64 * 1024 * 1024
"""Largest bundle in bytes."""
MAX_PARTS: Final = 10_000


@final
class BundledPart(canonical.Struct, frozen=True):
    """One part with its dates, which must be those in its bytes."""

    name: str
    fetched: int
    number: int
    issued: int
    dates: tuple[Dates, ...]
    chain: B64
    body: B64


@final
class Bundle(canonical.Struct, frozen=True):
    """What is signed: when it was made, and the parts, sorted by name, each once."""

    v: int
    made: int
    parts: tuple[BundledPart, ...]


def write(parts: Iterable[Part], key: dsse.PrivateKey, *, made: int) -> bytes:
    """Return a signed bundle of these parts, made at `made` (unix seconds).

    Raises:
        VerifierError: `collateral_missing` for no part at all, `collateral_expired` (or the part's
            own reason) for one that is not current: nobody could import it.
    """
    each = {part.name.text: part for part in parts}
    if not each:
        raise VerifierError(Reason.COLLATERAL_MISSING, "bundle: no parts to put into it")
    for part in each.values():
        part.check(made)
    bundle = Bundle(
        v=1,
        made=made,
        parts=tuple(
            BundledPart(
                name=name,
                fetched=part.fetched,
                number=part.number,
                issued=part.issued,
                dates=dates_of(part),
                chain=B64(part.chain),
                body=B64(part.body),
            )
            for name, part in sorted(each.items())
        ),
    )
    return dsse.sign(PAYLOAD_TYPE, canonical.encode(bundle), key)


def opened(raw: bytes, signers: Sequence[bytes], *, threshold: int = 1) -> Bundle:
    """Return a bundle that these signers signed; its parts are not looked at yet.

    Args:
        raw: the file.
        signers: SPKIs (DER) of the pinned signers.
        threshold: how many of them must have signed.

    Raises:
        VerifierError: `document_signature`, `malformed`, `too_large`.
    """
    payload = dsse.verify(raw, PAYLOAD_TYPE, signers, threshold, limit=MAX_BUNDLE)
    bundle = canonical.decode(payload, Bundle, limit=MAX_BUNDLE)
    names = [part.name for part in bundle.parts]
    if bundle.v != 1 or len(names) > MAX_PARTS or names != sorted(set(names)):
        raise VerifierError(
            Reason.MALFORMED, f"bundle: version 1, at most {MAX_PARTS} parts, sorted, each once"
        )
    return bundle


def parts_of(bundle: Bundle, anchors: Anchors, *, now: int) -> list[Part]:
    """Return a bundle's parts, each vetted and current at `now` (unix seconds).

    Raises:
        VerifierError: `collateral_mismatch` if a date stated is not the one signed; the reason why
            a part is not taken, or not current.
    """
    return [_part(told, anchors, now) for told in bundle.parts]


def _part(told: BundledPart, anchors: Anchors, now: int) -> Part:
    if told.fetched > now:
        raise VerifierError(Reason.COLLATERAL_NOT_YET_VALID, f"{told.name}: fetched in the future")
    part = vet(Name.parse(told.name), told.body, told.chain, anchors, fetched=told.fetched)
    if (told.number, told.issued, told.dates) != (part.number, part.issued, dates_of(part)):
        raise VerifierError(
            Reason.COLLATERAL_MISMATCH, f"{told.name}: the bundle states other dates than signed"
        )
    part.check(now)
    return part


def take_in(store: Store, parts: Sequence[Part], *, allow_older: bool = False) -> None:
    """Put a bundle's parts into a store: all of them, or none if one would be a step back.

    Raises:
        VerifierError: `collateral_too_old`; `collateral_unavailable` if the store cannot be
            written, and then the parts before that one are in it.
    """
    if not allow_older:
        for part in parts:
            store.check_not_older(part)
    for part in parts:
        store.put(part, allow_older=allow_older)
