"""Binding: different exchanges never share a report_data."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifier.errors import VerifierError
from verifier.wire import binding, framing
from verifier.wire.canonical import B64
from verifier.wire.messages import GpuEvidence, KeyRef, Recipient

RECIPIENTS = (
    Recipient("rsa-oaep-3072", B64(b"r" * 40)),
    Recipient("instance-ed25519", B64(b"i" * 40)),
)
GPU = GpuEvidence(1, B64(b"report"), B64(b"chain"))
BASE = {
    "challenge": b"c",
    "purpose": "release",
    "genesis": b"g" * 32,
    "broker": b"b" * 32,
    "recipients": RECIPIENTS,
    "keys": (KeyRef("k", 1),),
    "lease": "",
    "kind": "tdx",
    "gpus": (),
    "ak": b"",
    "claims": b"{}",
}


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("challenge", b"d"),
        ("purpose", "renew"),
        ("genesis", b"h" * 32),
        ("broker", b"x" * 32),
        ("recipients", RECIPIENTS[:1]),
        ("recipients", (RECIPIENTS[0], Recipient("instance-ed25519", B64(b"j" * 40)))),
        ("keys", (KeyRef("k", 2),)),
        ("keys", (KeyRef("k", 1), KeyRef("k", 2))),
        ("lease", "x"),
        ("kind", "snp"),
        ("gpus", (GPU,)),
        ("gpus", (GPU, GPU)),
        ("ak", b"a"),
        ("claims", b"{ }"),
    ],
)
def test_every_part_of_the_exchange_changes_report_data(field, other):
    """Nothing that the design binds can be exchanged under the same quote."""
    assert binding.report_data(**BASE) != binding.report_data(**{**BASE, field: other})


def test_the_order_of_recipients_and_keys_does_not_matter():
    """They are sets."""
    keys = (KeyRef("a", 1), KeyRef("b", 1))
    swapped = {**BASE, "recipients": RECIPIENTS[::-1], "keys": keys[::-1]}

    assert binding.report_data(**{**BASE, "keys": keys}) == binding.report_data(**swapped)


def test_report_data_is_what_the_specification_says():
    """An independent reading of SPEC.md section 3.4 gives the same 64 bytes."""

    def lp(x):
        return len(x).to_bytes(8, "big") + x

    recipients = (2).to_bytes(4, "big")
    recipients += lp(b"instance-ed25519") + lp(b"i" * 40) + lp(b"rsa-oaep-3072") + lp(b"r" * 40)
    gpu = hashlib.sha384(b"ostiary/gpu-evidence/v1" + (0).to_bytes(4, "big")).digest()
    keys = (1).to_bytes(4, "big") + lp(b"k/1")
    parts = [b"c", b"release", b"g" * 32, b"b" * 32, recipients, keys, b"", b"tdx", gpu, b"", b"{}"]
    expected = hashlib.sha512(b"ostiary/report-data/v1" + b"".join(map(lp, parts))).digest()

    assert binding.report_data(**BASE) == expected


def test_a_key_named_twice_is_refused():
    """A set in which something stands twice is not a set."""
    with pytest.raises(VerifierError):
        binding.report_data(**{**BASE, "keys": (KeyRef("k", 1), KeyRef("k", 1))})


@given(st.lists(st.binary(max_size=20), max_size=6))
def test_framed_lists_read_back_and_nothing_else_does(items):
    """Framing is injective."""
    raw = framing.lp_list(items)
    reader = framing.Reader(raw)
    assert list(reader.lp_list(6)) == items
    reader.end()
    for cut in range(len(raw)):
        with pytest.raises(VerifierError):
            framing.Reader(raw[:cut]).lp_list(6)
    extra = framing.Reader(raw + b"\0")
    extra.lp_list(6)
    with pytest.raises(VerifierError):
        extra.end()


def test_the_anchor_differs_by_broker_and_genesis():
    """A guest launched for one tenant of one broker obeys no other."""
    assert len(binding.anchor(b"b" * 32, b"g" * 32)) == 48
    assert binding.anchor(b"b" * 32, b"g" * 32) != binding.anchor(b"g" * 32, b"b" * 32)
