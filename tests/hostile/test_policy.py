"""Policies that would be read as milder than they were written: refused when they are loaded."""

from __future__ import annotations

from typing import Any

import pytest

from verifier.errors import VerifierError
from verifier.policy import from_mapping, from_toml

TD = {"kind": "tdx", "name": "t", **dict.fromkeys(("mr_td", "rtmr0", "rtmr1", "rtmr2"), "00" * 48)}
SNP = {"kind": "snp", "name": "s", "measurement": "00" * 48}
SGX = {"kind": "sgx", "name": "e", "mrenclave": "00" * 32}
TPM = {"kind": "tpm", "name": "p", "pcrs": {"4": "00" * 32}}


def refused(told: dict[str, Any]) -> None:
    with pytest.raises(VerifierError):
        from_mapping(told)


@pytest.mark.parametrize("reference", [TD, SNP, SGX, TPM], ids=["tdx", "snp", "sgx", "tpm"])
def test_good_references_are_read(reference: dict[str, Any]) -> None:
    """What is bent below is good."""
    assert from_mapping({"reference": [reference]}).reference


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        *((TD, name) for name in ("mr_td", "rtmr0", "rtmr1", "rtmr2", "mr_config_id", "mr_seam")),
        *((TD, name) for name in ("rtmr3", "mr_owner", "mr_owner_config")),
        *((SNP, name) for name in ("measurement", "host_data", "id_key_digest", "family_id")),
        *((SNP, name) for name in ("author_key_digest", "image_id")),
        *((SGX, name) for name in ("mrenclave", "mrsigner")),
    ],
)
def test_reference_values_have_their_length(reference: dict[str, Any], name: str) -> None:
    """Nothing is cut to fit and nothing is compared as a prefix: another length is an error."""
    for size in (0, 1, 31, 47, 49, 64, 65):
        refused({"reference": [reference | {name: "00" * size}]})


@pytest.mark.parametrize("value", ["0" * 95, "0x" + "00" * 47, "00 " * 48, "G0" * 48, 0, None, []])
def test_reference_values_are_hex(value: Any) -> None:
    """Loose hex, numbers and nothing are no measurements."""
    refused({"reference": [TD | {"mr_td": value}]})


@pytest.mark.parametrize(
    "told",
    [
        {"tdx": {"allow_debugging": True}},
        {"tdx": {"tcb_statuses": ["uptodate"]}},
        {"tdx": {"tcb_statuses": "UpToDate"}},
        {"tdx": {"tcb_statuses": [1]}},
        {"snp": {"max_vmpl": "0"}},
        {"snp": {"max_vmpl": 0.0}},
        {"snp": {"allow_debug": 0}},
        {"snp": {"allow_debug": "false"}},
        {"snp": {"report_versions": ["3"]}},
        {"snp": {"signing_keys": ["vcek"]}},
        {"snp": {"min_tcb": {"milan": {"snp": 1}}}},
        {"snp": {"min_tcb": {"Milan": {"snpp": 1}}}},
        {"snp": {"min_tcb": {"Milan": {"snp": True}}}},
        {"snp": {"products": ["Rome"]}},
        {"tpm": {"bank": "sm3"}},
        {"tpm": {"pcrs": ["4"]}},
        {"azure": {"require_tpm_quot": False}},
        {"gpu": {"count": -1}},
        {"gpu": {"count": 258.0}},
        {"nonsense": {}},
        {"reference": [{"kind": "sample", "name": "x"}]},
        {"reference": [{"name": "x", "measurement": "00" * 48}]},
        {"reference": [SNP | {"image": "repo:latest"}]},
        {"reference": SNP},
    ],
    ids=str,
)
def test_what_a_policy_does_not_know_is_an_error(told: dict[str, Any]) -> None:
    """Unknown rules, statuses, products and kinds, and values of another type, are errors."""
    refused(told)


def test_a_policy_has_one_reading() -> None:
    """A rule that stands twice, text that is no TOML, and bytes that are no UTF-8 are refused."""
    for raw in (
        b"[tdx]\nallow_debug = false\nallow_debug = true\n",
        b"[tdx]\n[tdx]\n",
        b"tdx",
        b"\xff",
        b"\xef\xbb\xbf[tdx]\n",
        b"[snp]\nmin_guest_svn = nan\n",
        b"[snp]\nmin_guest_svn = 1979-05-27\n",
    ):
        with pytest.raises(VerifierError):
            from_toml(raw)


@pytest.mark.parametrize("svn", [256, 258, 65_536, 2**64 + 2])
def test_a_floor_that_no_firmware_reaches_is_never_wrapped(svn: int) -> None:
    """258 is not 2: an SVN above a byte is an error, or at least stays the number that it is."""
    told = {"snp": {"min_tcb": {"Milan": {"snp": svn}}}}
    try:
        policy = from_mapping(told)
    except VerifierError:
        return

    assert policy.snp.min_tcb["Milan"].snp == svn
