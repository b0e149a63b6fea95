"""Quotes: nonce, selection, digest, banks, and that nothing else of the input is believed."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from tests.kit.measured import NONCE, PCRS, attest, bitmap, ec_key, rsa_key, sign
from verifier.errors import Reason, VerifierError
from verifier.result import Appraisal, Verdict
from verifier.tpm import attest as attests
from verifier.tpm.attest import Attest, Selection
from verifier.tpm.keys import from_public_key
from verifier.tpm.quote import Quote, appraise_quote

AK = from_public_key(rsa_key().public_key())


def judged(
    told: Attest,
    pcrs: dict[str, dict[int, bytes]] | None = None,
    nonce: bytes | None = NONCE,
    **options: Any,
) -> tuple[Quote, tuple[Reason, ...]]:
    raw = attests.encode(told)
    appraisal = Appraisal("tpm")
    banks = {"sha256": PCRS} if pcrs is None else pcrs
    quote = appraise_quote(appraisal, raw, sign(raw), AK, banks, nonce, **options)
    result = appraisal.result()
    assert (result.verdict is Verdict.ACCEPT) == (not result.reasons)
    return quote, result.reasons


def refused(reason: Reason, *arguments: Any, **options: Any) -> None:
    with pytest.raises(VerifierError) as caught:
        judged(*arguments, **options)
    assert caught.value.reason is reason, caught.value


def test_a_good_quote() -> None:
    """Signature, nonce, digest and PCRs are as asked."""
    quote, reasons = judged(attest(), required=(0, 7))

    assert reasons == ()
    assert quote.pcrs == PCRS


@pytest.mark.parametrize(
    "nonce", [b"", NONCE[:-1], NONCE + b"\0", b"other", NONCE[:8], bytes(len(NONCE))]
)
def test_nonces(nonce: bytes) -> None:
    """The nonce is compared whole: no prefix, no padding, never empty."""
    assert judged(attest(), nonce=nonce)[1] == (Reason.NONCE_MISMATCH,)


def test_an_empty_nonce() -> None:
    """A quote without a nonce is never fresh, not even where none is asked for."""
    for nonce in (None, b""):
        assert judged(attest(nonce=b""), nonce=nonce)[1] == (Reason.NONCE_MISMATCH,)
    assert judged(attest(), nonce=None)[1] == ()


def test_a_tampered_quote() -> None:
    """Any flipped bit of the signed bytes is refused."""
    raw = attests.encode(attest())
    signature = sign(raw)
    for place in range(len(raw)):
        bent = raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]
        with pytest.raises(VerifierError):
            appraise_quote(Appraisal("tpm"), bent, signature, AK, {"sha256": PCRS}, NONCE)


def test_only_selected_pcrs_are_believed() -> None:
    """PCRs outside the signed selection are dropped, whatever was reported."""
    some = {index: PCRS[index] for index in (0, 4, 7)}
    told = PCRS | {8: b"x" * 32}
    quote, reasons = judged(attest({"sha256": some}), {"sha256": told, "sha384": {0: bytes(48)}})

    assert reasons == ()
    assert quote.pcrs == some


def test_a_pcr_in_anothers_place() -> None:
    """A value moved to another index or bank does not give the digest of its selection."""
    moved = PCRS | {16: PCRS[17], 17: PCRS[16]}
    refused(Reason.PCR_DIGEST_MISMATCH, attest(), {"sha256": moved})
    one = {"sha256": {16: PCRS[16]}}
    refused(Reason.PCR_MISSING, attest({"sha256": {17: PCRS[16]}}), one)


def test_required_pcrs() -> None:
    """A bank or PCR that the caller needs and the quote lacks is a refusal."""
    some = attest({"sha256": {index: PCRS[index] for index in range(8)}})
    assert judged(some, required=(7, 8))[1] == (Reason.PCR_MISSING,)
    assert judged(some, bank="sha384")[1] == (Reason.PCR_MISSING,)
    assert judged(attest({}))[1] == (Reason.HASH_NOT_ALLOWED, Reason.PCR_MISSING)


def test_values_of_another_length() -> None:
    """A digest is over whole values: lengths of another bank are refused."""
    told = {"sha256": PCRS | {0: PCRS[0] + b"x"}}
    refused(Reason.MALFORMED, attest(told), told)


def test_several_banks() -> None:
    """The digest runs over the banks in the selection's order."""
    wide = {index: hashlib.sha384(bytes([index])).digest() for index in (1, 2)}
    banks = {"sha384": wide, "sha256": {0: PCRS[0]}}
    quote, reasons = judged(attest(banks), banks, bank="sha384", required=(1, 2))

    assert reasons == ()
    assert quote.pcrs == wide
    reverse = attest(banks)
    swapped = Attest(
        **{name: getattr(reverse, name) for name in Attest.__dataclass_fields__}
        | {"selections": reverse.selections[::-1]}
    )
    refused(Reason.PCR_DIGEST_MISMATCH, swapped, banks)


def test_an_empty_selection_covers_nothing() -> None:
    """A bank that is selected without PCRs proves none."""
    told = attest(
        selections=(Selection("sha256", bitmap(())),), pcr_digest=hashlib.sha256().digest()
    )
    quote, reasons = judged(told)

    assert quote.pcrs == {}
    assert Reason.PCR_MISSING in reasons


def test_sha1() -> None:
    """SHA-1 alone, or asked for, is refused unless it is allowed; beside another it is unused."""
    old = {index: hashlib.new("sha1", bytes([index])).digest() for index in range(24)}  # noqa: S324 - the bank
    alone = {"sha1": old}
    assert judged(attest(alone), alone, bank="sha1")[1] == (Reason.HASH_NOT_ALLOWED,)
    assert judged(attest(alone), alone, bank="sha1", allow_sha1=True)[1] == ()
    both = {"sha1": old, "sha256": PCRS}
    assert judged(attest(both), both)[1] == ()
    assert judged(attest(both), both, bank="sha1")[1] == (Reason.HASH_NOT_ALLOWED,)


@pytest.mark.parametrize("index", [16, 23])
def test_resettable_pcrs(index: int) -> None:
    """PCR 16 and 23 can be reset, so that they are no evidence unless the caller knows."""
    assert judged(attest(), required=(0, index))[1] == (Reason.PCR_NOT_ALLOWED,)
    assert judged(attest(), required=(0, index), allow_resettable=True)[1] == ()


@pytest.mark.parametrize("curve", ["secp256r1", "secp384r1"])
def test_elliptic_keys(curve: str) -> None:
    """An ECC key signs with its own hash, which makes the PCR digest too."""
    key = ec_key(curve)
    ak = from_public_key(key.public_key())
    raw = attests.encode(attest(digest_hash=ak.hash))
    quote = appraise_quote(
        Appraisal("tpm"), raw, sign(raw, key), ak, {"sha256": PCRS}, NONCE, required=(0,)
    )

    assert quote.pcrs == PCRS
