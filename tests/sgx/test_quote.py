"""SGX quotes: read in every version, genuine or refused, and never taken for a TD's."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import dcap_qvl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostiary.simulator.quote import EnclaveReport
from tests.kit import sgx, tdx, vendors
from tests.kit.sgx import judge
from tests.kit.tdx import accepted, collateral, refused
from tests.kit.vendors import NOW, good_collateral
from verifier.cache import Cache
from verifier.errors import Reason, VerifierError
from verifier.result import Verdict
from verifier.tdx import quote as quotes

CACHE = Cache()
GOOD = collateral(tee="sgx")
VERSIONS = [3, 4, 5]
BODY_END = 48 + 384


def patched(raw: bytes, at: int, new: bytes) -> bytes:
    return raw[:at] + new + raw[at + len(new) :]


@pytest.mark.parametrize("version", VERSIONS)
def test_good_quotes_are_accepted(version: int) -> None:
    """A simulated quote of each version passes, and its fields are told."""
    result = judge(version=version, reserved=bytes(4))

    assert accepted(result)
    assert result.simulated
    assert result.claims["tee_type"] == "SGX"
    assert result.claims["body"]["mrenclave"] == "01" * 32
    assert result.claims["tcb"]["module"] is None
    assert ("body_type" in result.claims) == (version == 5)


def test_the_peer_accepts_the_same_quote() -> None:
    """dcap-qvl, given the simulator's root, finds the same status."""
    told = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(good_collateral(tee="sgx")))
    root = vendors.fake_intel().certificates["root"]

    assert dcap_qvl.verify_with_root_ca(sgx.good_quote(), told, root, NOW).status == "UpToDate"


def test_version_3_tells_the_svns_of_qe_and_pce() -> None:
    """What later versions reserve are two numbers in version 3."""
    result = judge(reserved=bytes.fromhex("0900 0d01"))

    assert accepted(result)
    assert (result.claims["qe_svn"], result.claims["pce_svn"]) == (9, 269)
    assert refused(judge(version=4, reserved=b"\0\0\0\1"), Reason.MALFORMED, saying="reserved")


@pytest.mark.parametrize("version", VERSIONS)
def test_truncation_at_every_length_is_a_reject(version: int) -> None:
    """However short a quote is cut, the answer is a reject result and nothing else."""
    raw = sgx.good_quote(version)

    for length in range(len(raw)):
        assert judge(raw[:length], endorsements=GOOD).reasons == (Reason.MALFORMED,)


@given(st.binary(max_size=2000))
def test_random_bytes_give_our_error_or_a_quote(raw: bytes) -> None:
    """The parser raises nothing but `VerifierError`."""
    with contextlib.suppress(VerifierError):
        quotes.parse_sgx(raw)


@given(st.data())
def test_a_damaged_quote_gives_our_error_or_prints_itself(data: st.DataObject) -> None:
    """With any bytes overwritten, the parser refuses, or printing gives the same bytes."""
    raw = sgx.good_quote(data.draw(st.sampled_from(VERSIONS)))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw = patched(raw, at, data.draw(st.binary(min_size=1, max_size=8)))[: len(raw)]

    try:
        parsed = quotes.parse_sgx(raw)
    except VerifierError:
        return

    assert quotes.encode(parsed) == raw


@given(st.data())
def test_one_flipped_bit_never_passes(data: st.DataObject) -> None:
    """Any single bit flip in a good quote, signed or not, is refused."""
    raw = bytearray(sgx.good_quote(data.draw(st.sampled_from(VERSIONS))))
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << bit % 8

    assert judge(bytes(raw), endorsements=GOOD, cache=CACHE).verdict is not Verdict.ACCEPT


@pytest.mark.parametrize("version", [0, 1, 2, 6, 0xFFFF])
def test_unknown_versions_are_malformed(version: int) -> None:
    """Only versions 3 to 5 are quotes of an enclave."""
    assert refused(judge(version=version), Reason.MALFORMED, saying="version 3 or 4 or 5")


@pytest.mark.parametrize(
    "knobs",
    [
        {"version": 4, "tee_type": 0x81},
        {"version": 5, "body_type": 2},
        {"version": 5, "body_type": 3},
    ],
)
def test_a_quote_of_a_td_is_none_of_an_enclave(knobs: dict[str, Any]) -> None:
    """What says that it is a TD's is refused where an SGX quote was asked for."""
    assert refused(judge(**knobs), Reason.KIND_MISMATCH, saying="TD")


def test_the_kind_is_the_callers() -> None:
    """A good quote of the one TEE is refused as the other's, with either's collateral."""
    for endorsements in (GOOD, collateral()):
        assert refused(judge(vendors.good_quote(), endorsements=endorsements), Reason.KIND_MISMATCH)
        assert refused(
            tdx.judge(quote=sgx.good_quote(), endorsements=endorsements), Reason.KIND_MISMATCH
        )


@pytest.mark.parametrize(
    ("knobs", "named"),
    [
        ({"key_type": 3}, "P-384"),
        ({"version": 5, "body_type": 4}, "TD 1.5 extended"),
        *[({"inner_cert_type": kind}, name) for kind, name in ((1, "clear"), (4, "PCK leaf"))],
    ],
)
def test_known_kinds_that_are_not_judged_are_unsupported_by_name(
    knobs: dict[str, Any], named: str
) -> None:
    """What Intel defines and this version does not judge is `unsupported`, and says what it is."""
    result = judge(**knobs)

    assert result.verdict is Verdict.UNSUPPORTED
    assert named in result.checks[-1].seen


def test_what_is_unsupported_is_told_all_the_same() -> None:
    """Fields of a quote without a PCK chain are claims of its refusal."""
    result = judge(inner_cert_type=1, auth_data=b"")

    assert result.claims["cert_data_type"] == 1
    assert result.claims["qe_auth_data_len"] == 0


@pytest.mark.parametrize(
    "knobs",
    [
        {"key_type": 1},
        {"tee_type": 1},
        {"qe_vendor": bytes(16)},
        {"inner_cert_type": 6},
        {"version": 4, "outer_cert_type": 5},
        {"version": 5, "body_type": 0},
        {"version": 5, "body_size": 383},
        {"version": 5, "body_size": 584},
        {"auth_data": bytes(31)},
        {"auth_size_delta": 1},
        {"inner_cert_size_delta": 1},
        {"inner_cert_size_delta": -1},
        {"signature_size_delta": 1},
    ],
    ids=str,
)
def test_fields_out_of_place_are_malformed(knobs: dict[str, Any]) -> None:
    """Every type, size and vendor field has one value, or is refused."""
    assert refused(judge(**knobs), Reason.MALFORMED)


def test_nothing_but_zeros_follows() -> None:
    """Padding is accepted, anything else is not."""
    assert accepted(judge(trailing=bytes(70)))
    assert refused(judge(trailing=b"\x01"), Reason.TRAILING_DATA)


def test_signatures_are_checked() -> None:
    """Of the QE report by the PCK, of the key by the QE report, of the quote by the key."""
    assert refused(judge(signature=bytes(64)), Reason.SIGNATURE_INVALID)
    assert refused(judge(qe_signature=bytes(64)), Reason.QE_REPORT_INVALID)
    other = vendors.fake_intel().platform()
    assert refused(judge(cert_data=other.chain_pem), Reason.QE_REPORT_INVALID)


def test_the_quoting_enclave_of_tds_does_not_quote_enclaves() -> None:
    """A QE report that fits the TD_QE's identity fits no enclave's quote."""
    assert refused(judge(qe_report=EnclaveReport()), Reason.QE_IDENTITY_MISMATCH)
