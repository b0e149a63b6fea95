"""The one function: kinds, the cache, purity, and what a result says."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from ostiary.simulator.intel import FakeIntel
from tests.kit import vendors
from tests.kit.tdx import accepted, collateral, judge, refused, tcb_info
from tests.kit.vendors import NOW, good_collateral
from verifier import x509
from verifier.anchors import PINNED
from verifier.appraise import Evidence, appraise
from verifier.cache import Cache
from verifier.errors import Reason
from verifier.result import Verdict
from verifier.snp import SnpEndorsements
from verifier.tdx.collateral import VerifiedCollateral

GOOD = collateral()


def test_endorsements_of_another_kind_are_refused() -> None:
    """The kind comes from the caller; the wrong vendor's endorsements do not change it."""
    amd = SnpEndorsements(vek=b"", ask=b"", ark=b"", crl=None)
    tdx = appraise(
        Evidence("tdx", vendors.good_quote()), amd, policy=None, report_data=None, now=NOW
    )
    snp = appraise(Evidence("snp", b""), collateral(), policy=None, report_data=None, now=NOW)

    assert refused(tdx, Reason.KIND_MISMATCH)
    assert refused(snp, Reason.KIND_MISMATCH)


def test_a_quote_is_no_report() -> None:
    """Bytes of one kind given as the other are a reject, not a guess."""
    result = appraise(
        Evidence("snp", vendors.good_quote()), None, policy=None, report_data=None, now=NOW
    )

    assert result.verdict is Verdict.REJECT
    assert result.kind == "snp"


def test_simulated_evidence_says_so() -> None:
    """A result that rests on a simulator's root is marked."""
    assert judge().simulated


def test_results_are_json() -> None:
    """A result prints as JSON with the promised members."""
    told = json.loads(judge().to_json())

    assert {"verdict", "tcb_status", "advisory_ids", "reasons", "checks", "claims"} <= told.keys()
    assert all({"name", "ok", "expected", "seen"} <= check.keys() for check in told["checks"])


def test_the_cache_changes_nothing_but_the_time() -> None:
    """Cold and warm give the same result, byte for byte."""
    cache = Cache()
    cold = judge(quote=vendors.good_quote(), endorsements=GOOD)

    assert judge(quote=vendors.good_quote(), endorsements=GOOD, cache=cache).claims == cold.claims
    quote = vendors.good_quote(bytes(range(64)))
    first = judge(quote=quote, endorsements=GOOD, cache=cache)
    assert len(cache) > 0
    second = judge(quote=quote, endorsements=GOOD, cache=cache)
    assert first.to_json() == second.to_json() == judge(quote=quote, endorsements=GOOD).to_json()


def test_dates_are_judged_on_every_call() -> None:
    """What was current when it came into the cache is refused once it is not."""
    cache = Cache()
    first = judge(endorsements=GOOD, cache=cache)
    assert accepted(first)
    assert first.expires is not None

    assert accepted(judge(endorsements=GOOD, cache=cache, now=first.expires))
    assert judge(endorsements=GOOD, cache=cache, now=first.expires + 1).verdict is Verdict.REJECT
    assert judge(endorsements=GOOD, cache=cache, now=NOW - 86_401).verdict is Verdict.REJECT
    assert accepted(judge(endorsements=GOOD, cache=cache))


def test_revocation_is_judged_on_every_call() -> None:
    """A PCK chain in the cache is refused as soon as a CRL lists it."""
    cache = Cache()
    from_cache = judge(endorsements=GOOD, cache=cache)
    assert accepted(from_cache)

    pck = x509.load_der(vendors.platform().chain[0], "PCK")
    listed = good_collateral(revoked_pcks=[x509.serial_number(pck)])
    assert refused(judge(endorsements=listed, cache=cache), Reason.CERTIFICATE_REVOKED)


def test_roots_are_judged_on_every_call() -> None:
    """A cache that was filled under a simulator's root gives a real verifier nothing."""
    cache = Cache()
    quote = vendors.good_quote()
    assert accepted(judge(quote=quote, endorsements=GOOD, cache=cache))

    result = appraise(
        Evidence("tdx", quote),
        GOOD,
        policy=None,
        report_data=None,
        now=NOW,
        anchors=PINNED,
        cache=cache,
    )

    assert refused(result, Reason.ROOT_UNKNOWN)


def test_failures_are_not_kept() -> None:
    """Refused collateral and chains leave nothing in the cache, but for the parts that held."""
    cache = Cache()
    stranger = FakeIntel.create(NOW)
    bad = collateral({**good_collateral(), "tcb_info": "{}"})
    judge(endorsements=bad, cache=cache)
    assert cache.peek(VerifiedCollateral, bad.digest) is None
    assert len(cache) == 4  # TCB signer, PCK CA and both CRLs

    judge(machine=stranger.platform(), endorsements=GOOD, cache=cache)
    assert cache.peek(VerifiedCollateral, GOOD.digest) is not None
    assert len(cache) == 8  # two more CRLs, the QE identity and the whole


def test_what_serves_every_platform_is_remembered_by_itself() -> None:
    """Collateral of another model brings one new entry: the rest of it was seen before."""
    cache = Cache()
    first = good_collateral()
    quote = vendors.good_quote()
    assert accepted(judge(quote=quote, endorsements=first, cache=cache))
    before = len(cache)
    new = good_collateral(tcb_info=tcb_info(evaluation_number=99))
    parts = ("tcb_info", "tcb_info_signature")
    other = collateral({**first, **{part: new[part] for part in parts}})
    assert accepted(judge(quote=quote, endorsements=other, cache=cache))

    assert len(cache) == before + 1


def test_a_copy_forgets_what_the_other_learns() -> None:
    """A copied memory starts with the same entries and goes its own way."""
    cache = Cache()
    cache.keep(str, b"a", "old")
    copy = cache.copy()
    cache.keep(str, b"b", "new")

    assert (copy.peek(str, b"a"), copy.peek(str, b"b")) == ("old", None)


def test_the_cache_is_bounded_and_forgets_the_least_used() -> None:
    """At most `limit` entries stay, the last used ones; kinds do not meet."""
    cache = Cache(limit=2)
    made: list[str] = []

    def recall(name: str) -> str:
        def make() -> str:
            made.append(name)
            return name

        return cache.recall(str, name.encode(), make)

    for name in ("a", "b", "a", "c", "a", "b"):
        assert recall(name) == name

    assert made == ["a", "b", "c", "b"]
    assert len(cache) == 2
    assert cache.recall(int, b"a", lambda: 1) == 1


def test_threads_share_a_cache() -> None:
    """Under many threads nothing raises, every answer is right, and the limit holds."""
    cache = Cache(limit=8)

    def work(seed: int) -> bool:
        for number in range(400):
            wanted = (seed * number) % 23
            if cache.recall(int, bytes([wanted]), lambda wanted=wanted: wanted) != wanted:
                return False
        return True

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(16)))
    finally:
        sys.setswitchinterval(interval)
    assert len(cache) <= 8


def test_a_cache_without_room_keeps_nothing() -> None:
    """A limit of 0 makes everything anew."""
    cache = Cache(limit=0)
    cache.keep(str, b"a", "a")

    assert cache.peek(str, b"a") is None
    assert cache.recall(str, b"a", lambda: "b") == "b"


def test_results_do_not_share_what_a_caller_may_change() -> None:
    """Changing one result's claims does not reach the next one's."""
    cache = Cache()
    first = judge(endorsements=GOOD, cache=cache)
    first.claims["pck"]["fmspc"] = "changed"
    first.claims["pck"]["cpusvn_components"].clear()

    again = judge(endorsements=GOOD, cache=cache).claims["pck"]
    assert again["fmspc"] != "changed"
    assert len(again["cpusvn_components"]) == 16


@pytest.mark.parametrize("data", [b"", b"\0", bytes(5000), b"\xff" * 5000])
def test_no_bytes_are_an_exception(data: bytes) -> None:
    """Whatever the evidence is, the answer is a result."""
    for kind in ("tdx", "snp"):
        result = appraise(
            Evidence(kind, data),
            None,
            policy=None,
            report_data=None,
            now=NOW,
        )

        assert result.verdict is Verdict.REJECT
        assert len(result.reasons) == 1


def test_a_kind_that_does_not_exist_is_our_bug() -> None:
    """No kind is ever guessed: another one stops the program."""
    evidence = Evidence("sev", b"")  # type: ignore[arg-type]  # the mistake that is tested

    with pytest.raises(AssertionError):
        appraise(evidence, None, policy=None, report_data=None, now=NOW)
