"""Sizes and counts that lie, for every parser: refused before anything of that size is made."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from fuzz.targets import TARGETS
from ostiary.simulator.quote import quote_sgx, quote_v4, quote_v5
from tests.kit import documents, measured, nvgpu, sgx, vendors
from verifier import der, dsse, explain, jose, policy
from verifier.azure import hcl, runtime, tdreport
from verifier.collateral import bundle, certificate_table, parts, vet
from verifier.ear import claims as ear_claims
from verifier.ear import keys as ear_keys
from verifier.ear import result as ear_result
from verifier.errors import VerifierError
from verifier.eventlog import registers, tcg
from verifier.eventlog import runtime as runtime_logs
from verifier.maa import claims as maa_claims
from verifier.maa import keys as maa_keys
from verifier.nvgpu import chain as device_chain
from verifier.nvgpu import opaque, spdm
from verifier.snp.report import SnpReport
from verifier.tdx import certificate, collateral, crl, identity, pck, quote, tcbinfo
from verifier.tlog import note
from verifier.tlog.checkpoint import Checkpoint
from verifier.tlog.proof import Receipt
from verifier.tpm import attest, keys
from verifier.wire import canonical
from verifier.wire.framing import Reader
from verifier.wire.messages import ReleaseRequest
from verifier.x509 import load_crl, load_der, split_pem

ROOM = 1 << 20
"""Bytes that any parser may use for a short input: the sizes below ask for far more."""

U16 = b"\xff\xff"
U32 = b"\xff\xff\xff\xff"
U64 = U32 + U32


def patched(raw: bytes, at: int, new: bytes) -> bytes:
    return raw[:at] + new + raw[at + len(new) :]


def td(**knobs: Any) -> bytes:
    make = quote_v5 if knobs.pop("version", 4) == 5 else quote_v4
    return make(vendors.platform(), vendors.good_body(), **knobs)


def log(form: str = "tcg2") -> bytes:
    return (measured.ccel_log() if form == "ccel" else measured.tpm_log()).raw


def b64(raw: bytes) -> bytes:
    return canonical.b64encode(raw).encode()


def event_size_at(raw: bytes) -> int:
    """Return where the second record of a SHA-256 log says how much data it has."""
    (count,) = struct.unpack_from("<I", raw, 28)
    header: int = 32 + count
    return header + 12 + 2 + 32


def bent(raw: bytes, at: int, *values: bytes) -> list[bytes]:
    return [patched(raw, at, value) for value in values]


MESSAGE = attest.encode(measured.attest())
COUNT_AT = MESSAGE.index(struct.pack(">IHB", 1, 0x0B, 3))
HCL = hcl.encode(hcl.HclReport(2, hcl.SNP, bytes(hcl.HARDWARE_SIZE), b"{}", 0))
GPU = nvgpu.make().gpus[0].report(bytes(32))
OPAQUE = spdm.parse(GPU).opaque
RECORD_AT = 4 + 32 + 1 + 4 + 1  # SPDM: request, response header, number of blocks
MIB = bytes(1 << 20)
ROW = struct.Struct("<16sII")
LONG_DER = b"\x30\x84" + U32
DEEP = b"[" * 50_000

LIES: dict[str, tuple[Callable[[bytes], object], list[bytes]]] = {
    "tdx quote": (
        quote.parse,
        [
            td(signature_size_delta=0x7FFFFFFF),
            td(outer_cert_size_delta=0x7FFFFFFF),
            td(inner_cert_size_delta=0x7FFFFFFF),
            td(auth_size_delta=0xFFFF - 32),
            td(version=5, body_size=0xFFFFFFFF),
            *bent(td(), 632, U32),
            bytes(quote.MAX_QUOTE + 1),
        ],
    ),
    "sgx quote": (
        quote.parse_sgx,
        [
            *bent(sgx.good_quote(), 432, U32),
            quote_sgx(vendors.platform(), sgx.ENCLAVE, inner_cert_size_delta=0x7FFFFFFF),
            quote_sgx(vendors.platform(), sgx.ENCLAVE, auth_size_delta=0xFFFF - 32),
        ],
    ),
    "pck extension": (
        pck.parse_extension,
        [LONG_DER, b"\x30\x88" + U64, b"\x30\xff" + b"\1" * 200],
    ),
    "pck chain": (pck.read_claims, [b"-----BEGIN CERTIFICATE-----\n" * 4000, LONG_DER]),
    "certificate": (
        lambda raw: certificate.load(raw, "c"),
        [LONG_DER, b"\x30\x82\xff\xff\x30" + U32, bytes(1 << 16)],
    ),
    "certificate of the library": (lambda raw: load_der(raw, "c"), [LONG_DER, bytes(1 << 16)]),
    "crl": (lambda raw: crl.load(raw, "c"), [LONG_DER, b"\x30\x88" + U64]),
    "crl of the library": (lambda raw: load_crl(raw, "c"), [LONG_DER, b"\x30\x88" + U64]),
    "der": (lambda raw: der.Der(raw, "d").sequence(), [LONG_DER, b"\x30\x88" + U64, b"\x30\x80"]),
    "pem": (
        lambda raw: split_pem(raw, "p", limit=4),
        [b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n" * 500],
    ),
    "tcb info": (lambda raw: tcbinfo.parse(raw.decode()), [DEEP, b'{"id":' + b"9" * 6000 + b"}"]),
    "qe identity": (lambda raw: identity.parse(raw.decode()), [DEEP, b'{"id":1e999}']),
    "tdx collateral": (collateral.from_json, [DEEP, b'{"tcb_info":"' + b"x" * (9 << 20) + b'"}']),
    "snp report": (SnpReport.parse, [bytes(0x49F), bytes(0x4A1), bytes(1 << 16)]),
    "nvidia report": (
        spdm.parse,
        [
            *bent(GPU, RECORD_AT, b"\xff\xff\xff", b"\xff\xff\x7f"),
            *bent(GPU, RECORD_AT + 5, U16),
            MIB,
        ],
    ),
    "nvidia opaque data": (opaque.parse, [*bent(OPAQUE, 2, U16), b"NVDAOD" + U64 * 4, MIB]),
    "nvidia chain": (
        device_chain.load,
        [b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n" * 500, MIB],
    ),
    "certificate table": (
        lambda raw: certificate_table.find(raw, certificate_table.VCEK),
        [
            ROW.pack(certificate_table.VCEK, 0xFFFFFFFF, 0xFFFFFFFF) + bytes(24),
            ROW.pack(certificate_table.VCEK, 0, 0xFFFFFFFF) + bytes(24),
            ROW.pack(certificate_table.VLEK, 1, 0) * 17,
            bytes(certificate_table.MAX_TABLE + 1),
        ],
    ),
    "azure hcl": (
        hcl.parse,
        [
            *bent(HCL, 8, U32),
            *bent(HCL, 0x4C0, U32),
            *bent(HCL, 0x4D0, U32),
            patched(patched(patched(HCL, 8, U32), 0x4C0, U32), 0x4D0, U32),
            HCL + bytes(hcl.MAX_REPORT),
        ],
    ),
    "azure runtime claims": (runtime.parse, [DEEP, b'{"keys":[' + b"1," * 40_000 + b"1]}"]),
    "azure tdreport": (tdreport.parse, [b"\x81" * 1023, b"\x81" * 1025, b"\x81" * (1 << 16)]),
    "tpm attest": (
        attest.parse,
        [
            *bent(MESSAGE, 6, U16),
            *bent(MESSAGE, COUNT_AT, U32, b"\x00\xff\xff\xff"),
            *bent(MESSAGE, COUNT_AT + 6, b"\xff"),
            *bent(MESSAGE, len(MESSAGE) - 34, U16),
        ],
    ),
    "tpm signature": (
        attest.parse_signature,
        [b"\0\x14\0\x0b" + U16, b"\0\x18\0\x0b" + U16 + b"\1", b"\0\x18\0\x0b\0\x01\1" + U16],
    ),
    "tpm key": (
        keys.load,
        [
            U16 + measured.tpmt_public(),
            measured.tpmt_public(tail=struct.pack(">HIH", 2048, 0, 0xFFFF)),
            measured.tpmt_public(tail=struct.pack(">HIH", 0xFFFF, 0, 256) + b"\xff" * 256),
            bytes(keys.MAX_KEY + 1),
        ],
    ),
    "event log": (
        lambda raw: tcg.parse(raw, kind="tcg"),
        [
            *bent(log(), 28, U32, b"\xff\xff\xff\x7f"),
            *bent(log(), 32 + 24, U32),
            *bent(log(), event_size_at(log()), U32, b"\xff\xff\xff\x7f"),
            *bent(log(), event_size_at(log()) - 34 - 4, U32),
            bytes(28) + U32,
            b"\1" * 60,
        ],
    ),
    "ccel": (
        lambda raw: tcg.parse(raw, kind="ccel"),
        [*bent(log("ccel"), 28, U32), *bent(log("ccel"), 32 + 24, U32)],
    ),
    "dstack log": (runtime_logs.parse_dstack, [DEEP, b"[" + b"{}," * 60_000 + b"{}]"]),
    "aael": (
        lambda raw: runtime_logs.parse_aael(raw, register=3),
        [b"INIT/sha256 " + b"0" * 64 + b"\n" + b"a b c\n" * 70_000],
    ),
    "quoted registers": (
        registers.from_json,
        [DEEP, json.dumps({"bank": "sha256", "pcrs": {"0": "00" * 60_000}}).encode()],
    ),
    "framing": (
        lambda raw: Reader(raw).lp(),
        [U64, b"\x7f" + U64[1:], b"\0\0\0\1" + bytes(4) + b"x"],
    ),
    "framed list": (lambda raw: Reader(raw).lp_list(1 << 32), [U32, U32 + bytes(8), b"\0\1\0\0"]),
    "wire message": (
        lambda raw: canonical.decode(raw, ReleaseRequest),
        [DEEP, b'{"challenge":"' + b"A" * 200_000 + b'"}'],
    ),
    "dsse envelope": (
        lambda raw: dsse.verify(raw, "t", [b""]),
        [DEEP, b'{"payload":"' + b"A" * (2 << 20) + b'"}'],
    ),
    "collateral bundle": (lambda raw: bundle.opened(raw, [b""]), [DEEP, b'{"payload":1}' * 1000]),
    "collateral name": (
        lambda raw: parts.Name.parse(raw.decode()),
        [b"intel/tcb/tdx/" + b"0" * 100_000 + b"/standard"],
    ),
    "pcs answer": (
        lambda raw: vet.signed_text(raw, parts.Role.TCB, "a"),
        [b'{"tcbInfo":' + DEEP, b'{"tcbInfo":' + b"9" * 6000 + b"}"],
    ),
    "signed note": (note.parse, [b"x\n\n" + "— a AAAAAAAA\n".encode() * 20_000]),
    "checkpoint": (Checkpoint.parse, [b"o\n" + b"9" * 60_000 + b"\nAAAA\n"]),
    "receipt": (
        Receipt.parse,
        [b"c2sp.org/tlog-proof@v1\nindex " + b"9" * 50_000 + b"\n", b"x\n" * 50_000],
    ),
    "policy": (policy.from_toml, [b"[tdx]\nx = " + DEEP, b"a" * (policy.MAX_POLICY + 1)]),
    "jws": (
        lambda raw: jose.read(raw, "JWS", algorithm="RS256", members=frozenset(), limit=1 << 16),
        [b"A" * 5000 + b".A.A", b"A." * 30_000, b"A" * (1 << 17), b64(DEEP[:3000]) + b".e30.AA"],
    ),
    "ear claims": (
        ear_claims.decode,
        [DEEP, b'{"iat":' + b"9" * 6000 + b"}", b'{"submods":{"a":' + DEEP],
    ),
    "ear result": (ear_result.read, [DEEP, b'{"checks":[' + b"1," * 60_000 + b"1]}", MIB + b" "]),
    "ear keys": (ear_keys.read_jwks, [DEEP, b'{"keys":[' + b"{}," * 20_000 + b"{}]}", MIB]),
    "maa claims": (
        maa_claims.parse,
        [DEEP, b'{"iat":' + b"9" * 6000 + b"}", b'{"x-ms-runtime":' + DEEP],
    ),
    "maa keys": (
        maa_keys.key_ids,
        [DEEP, b'{"keys":[' + b"{}," * 40_000 + b"{}]}", b'{"keys":"' + b"a" * (1 << 20) + b'"}'],
    ),
    "stored result": (explain.explain, [DEEP, b'{"checks":[' + b"1," * 60_000 + b"1]}"]),
}


@pytest.mark.parametrize("name", LIES)
def test_sizes_that_lie(name: str) -> None:
    """Refused by our error; what it took is bounded by the input's own size, not by what it says.

    64 bytes for each byte of input is what Python's JSON reader needs for the worst of documents.
    """
    parse, lies = LIES[name]
    for number, raw in enumerate(lies):
        tracemalloc.start()
        try:
            with pytest.raises(VerifierError):
                parse(raw)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < ROOM + 64 * len(raw), (number, peak)


HELD: dict[str, str] = {
    "tdx-quote": "tdx quote",
    "pck-extension": "pck extension",
    "pck-chain": "pck chain",
    "tcb-info": "tcb info",
    "qe-identity": "qe identity",
    "tdx-collateral": "tdx collateral",
    "der-certificate": "certificate",
    "der-crl": "crl",
    "pem": "pem",
    "snp-report": "snp report",
    "nvidia-report": "nvidia report",
    "nvidia-opaque": "nvidia opaque data",
    "nvidia-chain": "nvidia chain",
    "nvidia-rim": "tests/nvrim/test_rim.py::test_a_huge_rim_is_refused",
    "nvidia-ocsp": "tests/nvrim/test_ocsp.py::test_a_huge_response_is_refused",
    "nvidia-endorsements": "framed list",
    "rim-answer": "tests/nvrim/test_collateral.py::test_any_answer_is_refused_by_name",
    "nras-answer": "tests/nvrim/test_nras.py::test_sizes_are_bounded",
    "nras-keys": "tests/nvrim/test_nras.py::test_sizes_are_bounded",
    "vek-extensions": "tests/snp/test_endorsements.py::test_arbitrary_extension",
    "vek-certificate": "certificate of the library",
    "azure-hcl": "azure hcl",
    "azure-runtime": "azure runtime claims",
    "azure-tdreport": "azure tdreport",
    "certificate-table": "certificate table",
    "collateral-name": "collateral name",
    "pcs-answer": "pcs answer",
    "collateral-record": "collateral bundle",
    "event-log": "event log",
    "quoted-registers": "quoted registers",
    "tpm-attest": "tpm attest",
    "tpm-signature": "tpm signature",
    "tpm-key": "tpm key",
    "wire-message": "wire message",
    "log-leaf": "wire message",
    "signed-note": "signed note",
    "tlog-proof": "receipt",
    "dsse-envelope": "dsse envelope",
    "signer-key": "tpm key",
    "sealed-manifest": "tests/sealed/test_manifest.py::test_the_number_of_files_is_bounded",
    "sealed-header": "tests/sealed/test_layout.py::test_an_impossible_sealed_size_is_refused",
    "framing-reader": "framing",
    "broker-challenge": "tests/release/test_challenge.py::"
    "test_no_bytes_raise_anything_but_a_refusal",
    "jws": "jws",
    "ear-claims": "ear claims",
    "ear-result": "ear result",
    "ear-keys": "ear keys",
    "maa-claims": "maa claims",
    "maa-keys": "maa keys",
    "policy-toml": "policy",
    "stored-result": "stored result",
}
"""Which entry above, or which other test, feeds sizes that lie to each parser that is fuzzed."""


@pytest.mark.parametrize("name", TARGETS)
def test_every_parser_is_fed_sizes_that_lie(name: str) -> None:
    """A parser that is fuzzed says here who lies to it about sizes, and that test exists."""
    held = HELD.get(name, "")
    file, _, function = held.partition("::")

    assert held in LIES or f"def {function}(" in (documents.ROOT / file).read_text()
