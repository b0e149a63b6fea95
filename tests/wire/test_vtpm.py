"""What a vTPM says on the wire: its bounds, its one encoding, and how it reaches the verifier."""

from __future__ import annotations

from typing import Any, Final, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary.simulator.azure import AzureMachine, paravisor
from ostiary.simulator.machine import launch_snp
from ostiary.simulator.machines import SnpMachine
from tests.kit import vendors
from verifier import received
from verifier.errors import Reason, VerifierError
from verifier.wire import binding, canonical, messages
from verifier.wire.canonical import B64, Hex
from verifier.wire.messages import Evidence, Kind, Pcr, Vtpm

GOOD: Final = Vtpm(B64(b"m"), B64(b"s"), (Pcr("sha256", 0, Hex(bytes(32))),))


@pytest.mark.parametrize(
    "changes",
    [
        {"message": B64()},
        {"message": B64(bytes(4097))},
        {"signature": B64()},
        {"signature": B64(bytes(1025))},
        {"event_log": B64(bytes((256 << 10) + 1))},
        {"hcl_report": B64(bytes((16 << 10) + 1))},
        {"certificates": (B64(b"c"),) * 11},
        {"certificates": (B64(),)},
        {"certificates": (B64(bytes((8 << 10) + 1)),)},
        {"pcrs": GOOD.pcrs * 2},
        {"pcrs": (Pcr("sha256", 1, Hex(bytes(32))), *GOOD.pcrs)},
    ],
)
def test_bounds(changes: dict[str, Any]) -> None:
    """A part that is too long, missing, out of order or there twice is malformed."""
    with pytest.raises(VerifierError) as refused:
        msgspec.structs.replace(GOOD, **changes)
    assert refused.value.reason is Reason.MALFORMED


@pytest.mark.parametrize(
    ("bank", "index", "size"), [("sha256", 24, 32), ("sha256", -1, 32), ("sha384", 0, 32)]
)
def test_a_pcr_that_is_none(bank: Any, index: int, size: int) -> None:
    """A PCR has an index from 0 to 23 and its bank's length."""
    with pytest.raises(VerifierError):
        Pcr(bank, index, Hex(bytes(size)))


def test_evidence_without_hardware() -> None:
    """Only evidence with a vTPM may leave `cpu` empty, since its HCL report may have it."""
    with pytest.raises(VerifierError):
        Evidence(cpu=B64())
    assert Evidence(cpu=B64(), vtpm=GOOD).vtpm == GOOD


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200))
def test_parsing_any_bytes(raw: bytes) -> None:
    """Nothing but our own error, and what decodes is what would be encoded."""
    try:
        found = canonical.decode(raw, Vtpm)
    except VerifierError:
        return
    assert canonical.encode(found) == raw


def test_one_encoding() -> None:
    """What a vTPM says comes back as it was."""
    evidence = Evidence(cpu=B64(b"c"), vtpm=GOOD)

    assert canonical.decode(canonical.encode(evidence), Evidence) == evidence


def test_whose_endorsements() -> None:
    """Every kind names AMD's or Intel's endorsements, and the report that they are for."""
    plain = Evidence(cpu=B64(b"cpu"))
    hardware = SnpMachine(vendors.chip("Genoa"), launch_snp(paravisor("snp"), "Genoa"))
    azure = AzureMachine(hardware, vendors.tpm())
    in_azure = Evidence(cpu=B64(), vtpm=azure.vtpm(bytes(64)))
    kinds: tuple[Kind, ...] = get_args(Kind)

    for kind in kinds:
        if kind != "azure-snp":
            assert received.hardware(kind, plain) == (kind.rpartition("-")[2], b"cpu")
    tee, report = received.hardware("azure-snp", in_azure)
    assert (tee, len(report)) == ("snp", 1184)
    for kind, evidence in (
        ("azure-snp", plain),
        ("azure-snp", Evidence(cpu=B64(), vtpm=GOOD)),
        ("azure-tdx", in_azure),
        ("gcp-tdx", Evidence(cpu=B64(), vtpm=GOOD)),
    ):
        with pytest.raises(VerifierError) as refused:
            received.hardware(kind, evidence)
        assert refused.value.reason is Reason.HARDWARE_REPORT_MISSING


def test_every_part_is_handed_on() -> None:
    """The verifier gets all that came: the key, PCRs by bank, certificates, both logs."""
    vtpm = msgspec.structs.replace(
        GOOD,
        pcrs=(Pcr("sha1", 3, Hex(bytes(20))), *GOOD.pcrs),
        certificates=(B64(b"leaf"), B64(b"root")),
        event_log=B64(b"log"),
        hcl_report=B64(b"hcl"),
    )
    sent = Evidence(B64(b"c"), B64(b"ccel"), B64(b"aael"), ak=B64(b"key"), vtpm=vtpm)
    found = received.evidence("azure-tdx", sent)
    bare = received.evidence("tdx", messages.Evidence(B64(b"c"), B64(b"ccel"), B64(b"aael")))

    assert found.tpm is not None
    assert (found.cpu, found.hcl_report, found.tpm.ak) == (b"c", b"hcl", b"key")
    assert found.tpm.pcrs == {"sha1": {3: bytes(20)}, "sha256": {0: bytes(32)}}
    assert (found.tpm.ak_certificate, *found.tpm.ak_issuers) == (b"leaf", b"root")
    assert (found.tpm.event_log, found.event_log, found.runtime_log) == (b"log", b"ccel", b"aael")
    assert (bare.tpm, bare.event_log, bare.runtime_log) == (None, b"ccel", b"aael")


def test_the_anchor_in_a_pcr() -> None:
    """PCR 8 holds the anchor's first 32 bytes, extended once into zeros."""
    first, second = (binding.anchor_pcr(bytes(32), bytes([n]) * 32) for n in (1, 2))

    assert len(first) == 32
    assert first != second
    assert first != binding.anchor(bytes(32), b"\1" * 32)[:32]
