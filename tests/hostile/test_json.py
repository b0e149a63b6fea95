"""JSON that has two readings, or none: every reader of JSON in the verifier refuses it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from ostiary.simulator import tcb
from ostiary.simulator.intel import FMSPC
from tests.kit import azure, vendors
from tests.kit.vendors import NOW
from verifier import explain
from verifier.azure import runtime
from verifier.collateral import parts, vet
from verifier.errors import VerifierError
from verifier.eventlog import registers
from verifier.eventlog import runtime as runtime_logs
from verifier.result import Appraisal
from verifier.tdx import collateral, identity, tcbinfo
from verifier.wire import canonical
from verifier.wire.canonical import B64
from verifier.wire.messages import Evidence


def text(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    """Return a reader of bytes; what is no UTF-8 never reaches a reader of text."""

    def read(raw: bytes) -> object:
        try:
            return parse(raw.decode())
        except UnicodeDecodeError:
            return collateral.from_json(raw)

    return read


def stored() -> bytes:
    appraisal = Appraisal("tdx")
    appraisal.not_judged("measurements", "none")
    return appraisal.result().to_json()


def encoded(told: object) -> bytes:
    return json.dumps(told, separators=(",", ":")).encode()


INFO = tcb.to_text(tcb.tcb_info(NOW, fmspc=FMSPC, pceid=bytes(2)))
DSTACK = {
    "imr": 3,
    "event_type": 0x08000001,
    "digest": "",
    "event": "compose-hash",
    "event_payload": "00ff",
}
READERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "tcb info": (text(tcbinfo.parse), INFO.encode()),
    "qe identity": (text(identity.parse), tcb.to_text(tcb.qe_identity(NOW)).encode()),
    "tdx collateral": (collateral.from_json, json.dumps(vendors.good_collateral()).encode()),
    "pcs answer": (
        lambda raw: vet.signed_text(raw, parts.Role.TCB, "answer"),
        b'{"tcbInfo":{"id":"TDX"},"signature":"' + b"ab" * 64 + b'"}',
    ),
    "azure claims": (runtime.parse, encoded(azure.runtime())),
    "dstack log": (runtime_logs.parse_dstack, json.dumps([DSTACK]).encode()),
    "quoted registers": (
        registers.from_json,
        json.dumps({"bank": "sha256", "pcrs": {"0": "00" * 32}}).encode(),
    ),
    "wire message": (
        lambda raw: canonical.decode(raw, Evidence),
        canonical.encode(Evidence(cpu=B64(b"quote"))),
    ),
    "stored result": (explain.explain, stored()),
}


def first_key_twice(raw: bytes) -> bytes:
    """Return the document with its first member once more."""
    at = raw.index(b'"')
    key = raw[at : raw.index(b'"', at + 1) + 1]
    return raw[:at] + key + b":0," + raw[at:]


def with_member(raw: bytes, value: bytes) -> bytes:
    """Return the document with one member more, which has this value."""
    at = raw.index(b"{") + 1
    return raw[:at] + b'"more":' + value + b"," + raw[at:]


BAD: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _: b"",
    "cut": lambda raw: raw[:-1],
    "twice": lambda raw: raw + raw,
    "behind it": lambda raw: raw + b"x",
    "byte order mark": lambda raw: b"\xef\xbb\xbf" + raw,
    "utf-16": lambda raw: raw.decode().encode("utf-16"),
    "no utf-8": lambda raw: raw[:-1] + b"\xff" + raw[-1:],
    "a comment": lambda raw: raw + b"//",
    "a comma too many": lambda raw: raw[:-1] + b"," + raw[-1:],
    "single quotes": lambda raw: raw.replace(b'"', b"'"),
    "deep": lambda _: b"[" * 100_000,
    "deep inside": lambda raw: with_member(raw, b"[" * 50_000 + b"]" * 50_000),
    "another value": lambda _: b"1",
    "null": lambda _: b"null",
}
TWO_READINGS: dict[str, Callable[[bytes], bytes]] = {
    "a key twice": first_key_twice,
    "not a number": lambda raw: with_member(raw, b"NaN"),
    "infinity": lambda raw: with_member(raw, b"-Infinity"),
    "1e400": lambda raw: with_member(raw, b"1e400"),
    "a float": lambda raw: with_member(raw, b"1.0"),
    "digits": lambda raw: with_member(raw, b"9" * 5000),
}
LOOSE = {"pcs answer", "stored result"}
"""They cut out a signed text, which is read strictly afterwards, or print what they are given."""


@pytest.mark.parametrize("name", READERS)
def test_good_documents_are_read(name: str) -> None:
    """The documents that are bent below are good ones."""
    read, good = READERS[name]
    read(good)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("how", BAD)
def test_no_json(name: str, how: str) -> None:
    """What is not exactly one document is our error."""
    read, good = READERS[name]

    with pytest.raises(VerifierError):
        read(BAD[how](good))


@pytest.mark.parametrize("name", sorted(READERS.keys() - LOOSE))
@pytest.mark.parametrize("how", TWO_READINGS)
def test_two_readings(name: str, how: str) -> None:
    """Keys that stand twice and numbers that programs read differently are refused."""
    read, good = READERS[name]

    with pytest.raises(VerifierError):
        read(TWO_READINGS[how](good))


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("half", [b"\\ud800", b"\\udfff", b"\\ud800x"])
def test_half_a_character(name: str, half: bytes) -> None:
    """Half of a surrogate pair in any key or value is our error, or stays where it is not read."""
    read, good = READERS[name]
    for at in [i for i, byte in enumerate(good) if byte == ord('"')]:
        try:
            read(good[: at + 1] + half + good[at + 1 :])
        except VerifierError:
            continue


@pytest.mark.parametrize("number", [2**53 + 1, -(2**53) - 1, 2**64, -1])
def test_large_integers_stay_what_they_are(number: int) -> None:
    """Beyond 2^53 floats lose digits: an integer is read exactly, or refused."""
    told: Any = json.loads(INFO)
    told["tcbEvaluationDataNumber"] = number
    try:
        found = tcbinfo.parse(json.dumps(told), "TDX")
    except VerifierError:
        return

    assert found.evaluation_number == number


def test_base64_of_keys_has_one_spelling() -> None:
    """A key in Azure's claims in standard base64, or with loose last bits, is refused."""
    good = azure.jwk()
    for n in (
        base64.b64encode(base64.urlsafe_b64decode(good["n"] + "==")).decode(),
        good["n"] + "\n",
        good["n"][:-1] + chr(ord(good["n"][-1]) + 1),
    ):
        with pytest.raises(VerifierError):
            runtime.parse(encoded(azure.runtime(keys=[good | {"n": n}])))
