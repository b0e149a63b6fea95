"""Bundles across an air gap: signed, whole, current, and never a step back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit import vendors
from tests.kit.collateral import DAY, crl_part, tcb_part
from tests.kit.vendors import NOW
from verifier import dsse
from verifier.anchors import PINNED
from verifier.collateral import bundle
from verifier.collateral.bundle import Bundle, BundledPart
from verifier.collateral.parts import Part
from verifier.collateral.store import Dates, Store
from verifier.errors import Reason, VerifierError
from verifier.wire import canonical
from verifier.wire.canonical import B64

KEY = Ed25519PrivateKey.from_private_bytes(b"\7" * 32)
SIGNER = dsse.spki(KEY.public_key())
STRANGER = Ed25519PrivateKey.from_private_bytes(b"\x08" * 32)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Give an empty store."""
    return Store(tmp_path / "store", vendors.anchors())


def carried(raw: bytes, now: int = NOW) -> list[Part]:
    """Return what the other side reads."""
    return bundle.parts_of(bundle.opened(raw, [SIGNER]), vendors.anchors(), now=now)


def refused(raw: bytes, *reasons: Reason, now: int = NOW) -> None:
    """Check that the other side refuses for one of these reasons."""
    with pytest.raises(VerifierError) as caught:
        carried(raw, now)

    assert caught.value.reason in reasons, caught.value


def told(raw: bytes) -> Bundle:
    """Return what a bundle says."""
    return bundle.opened(raw, [SIGNER])


def signed(document: Bundle, key: Ed25519PrivateKey = KEY) -> bytes:
    """Return a bundle that says so."""
    return dsse.sign(bundle.PAYLOAD_TYPE, canonical.encode(document), key)


def test_what_is_written_is_read(store: Store) -> None:
    """All parts, their bytes and their dates."""
    parts = [tcb_part(), crl_part()]
    raw = bundle.write(parts, KEY, made=NOW)

    assert {part.name: part for part in carried(raw)} == {part.name: part for part in parts}
    bundle.take_in(store, carried(raw))
    assert {store.get(part.name) for part in parts} == set(parts)
    bundle.take_in(store, carried(raw))


def test_its_type_and_dates_stand_in_it() -> None:
    """The file says what it is, and what of it ends when, in plain JSON."""
    envelope = json.loads(bundle.write([crl_part()], KEY, made=NOW))
    (part,) = told(bundle.write([crl_part()], KEY, made=NOW)).parts

    assert envelope["payloadType"] == "application/vnd.ostiary.collateral.v1+json"
    assert {d.end for d in part.dates} == {w.end for w in crl_part().windows.each}


def test_signers_are_pinned() -> None:
    """Nobody else's signature counts, and as many as asked must be there."""
    raw = bundle.write([tcb_part()], STRANGER, made=NOW)
    refused(raw, Reason.DOCUMENT_SIGNATURE)
    good = bundle.write([tcb_part()], KEY, made=NOW)
    for signers, threshold in (([], 1), ([SIGNER, dsse.spki(STRANGER.public_key())], 2)):
        with pytest.raises(VerifierError) as caught:
            bundle.opened(good, signers, threshold=threshold)
        assert caught.value.reason is Reason.DOCUMENT_SIGNATURE


def test_another_document_of_the_same_signer() -> None:
    """A policy that the same key signed is no bundle."""
    payload = canonical.encode(told(bundle.write([tcb_part()], KEY, made=NOW)))
    refused(
        dsse.sign("application/vnd.ostiary.policy.v1+json", payload, KEY), Reason.DOCUMENT_SIGNATURE
    )


@settings(max_examples=60)
@given(st.data())
def test_any_flipped_bit_is_refused(data: st.DataObject) -> None:
    """Of the file as it is carried."""
    raw = bundle.write([_CRL], KEY, made=NOW)
    at = data.draw(st.integers(0, 8 * len(raw) - 1))
    bent = bytearray(raw)
    bent[at // 8] ^= 1 << at % 8
    refused(bytes(bent), Reason.DOCUMENT_SIGNATURE, Reason.MALFORMED)


_CRL = crl_part()


@given(st.binary(max_size=100))
def test_any_bytes(raw: bytes) -> None:
    """Nothing but our error comes out."""
    refused(raw, Reason.MALFORMED)


def test_dates_that_are_not_the_signed_ones() -> None:
    """The bundle's signer cannot lengthen what a vendor signed."""
    honest = told(bundle.write([_CRL], KEY, made=NOW))
    (part,) = honest.parts
    longer = tuple(Dates(d.what, d.start, d.end + DAY) for d in part.dates)
    for change in ({"dates": longer}, {"number": 9}, {"issued": NOW}):
        fields = {name: getattr(part, name) for name in BundledPart.__struct_fields__} | change
        refused(signed(Bundle(1, NOW, (BundledPart(**fields),))), Reason.COLLATERAL_MISMATCH)


def test_parts_that_a_vendor_did_not_sign() -> None:
    """The bundle's signature makes nothing true."""
    (part,) = told(bundle.write([_CRL], KEY, made=NOW)).parts
    fields = {name: getattr(part, name) for name in BundledPart.__struct_fields__}
    bent = bytearray(part.body)
    bent[-1] ^= 1
    lied = BundledPart(**fields | {"body": B64(bytes(bent))})
    refused(signed(Bundle(1, NOW, (lied,))), Reason.CRL_INVALID)
    with pytest.raises(VerifierError) as caught:
        bundle.parts_of(Bundle(1, NOW, (part,)), PINNED, now=NOW)

    assert caught.value.reason is Reason.ROOT_UNKNOWN


def test_shapes_of_bundles_that_are_none() -> None:
    """One version, each part once, in order."""
    both = told(bundle.write([tcb_part(), _CRL], KEY, made=NOW)).parts
    for document in (
        Bundle(2, NOW, both),
        Bundle(1, NOW, both[::-1]),
        Bundle(1, NOW, (both[0], both[0])),
    ):
        refused(signed(document), Reason.MALFORMED)


def test_the_last_second(store: Store) -> None:
    """What has ended is refused on import, and not written on export."""
    raw = bundle.write([_CRL], KEY, made=NOW)
    end = _CRL.windows.end

    assert carried(raw, end)
    refused(raw, Reason.CRL_EXPIRED, now=end + 1)
    refused(raw, Reason.COLLATERAL_NOT_YET_VALID, now=NOW - 1)
    with pytest.raises(VerifierError):
        bundle.write([_CRL], KEY, made=end + 1)
    with pytest.raises(VerifierError):
        bundle.write([], KEY, made=NOW)
    assert store.names() == []


@pytest.mark.parametrize(
    ("held", "offered"),
    [
        (tcb_part(19), tcb_part(18)),
        (tcb_part(18, NOW), tcb_part(18)),
        (crl_part(NOW), crl_part()),
    ],
)
def test_no_rollback(store: Store, held: Part, offered: Part) -> None:
    """Older than what is there is refused as a whole, unless somebody says so."""
    store.put(held)
    other = crl_part(NOW) if "tcb" in held.name.text else tcb_part()
    raw = bundle.write([offered, other], KEY, made=NOW)
    with pytest.raises(VerifierError) as caught:
        bundle.take_in(store, carried(raw))
    assert caught.value.reason is Reason.COLLATERAL_TOO_OLD
    assert store.names() == [held.name]
    bundle.take_in(store, carried(raw), allow_older=True)

    assert store.get(held.name) == offered
    assert store.get(other.name) == other
