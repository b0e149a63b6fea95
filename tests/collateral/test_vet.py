"""Names and vetting: a part is what its name says, signed by who may, or it is refused."""

from __future__ import annotations

import functools
import json
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary.simulator import certificates, tcb
from ostiary.simulator.intel import FMSPC, FakeIntel, intel_name
from ostiary.simulator.services import Reply, Vendors
from tests.kit import shapes, vendors
from tests.kit.vendors import NOW
from verifier.anchors import PINNED
from verifier.collateral import parts
from verifier.collateral.parts import Name, Part, Role
from verifier.collateral.vet import signed_text, vet
from verifier.errors import Reason, VerifierError
from verifier.snp.report import SnpReport

DAY = 86_400
TCB = parts.tcb("tdx", FMSPC, "standard")
QE = parts.qe("tdx", "standard")
PCK_CRL = parts.pck_crl("platform")


def intel_document(name: Name, intel: FakeIntel | None = None) -> tuple[bytes, bytes]:
    """Return body and chain of one of Intel's documents, as the simulated PCS sends them."""
    known = Vendors(lambda: NOW, intel or vendors.fake_intel())
    tee, what = name.fields[0], "tcb" if name.role is Role.TCB else "qe/identity"
    query = f"?fmspc={FMSPC.hex()}&update={name.fields[-1]}"
    reply = known.reply(f"/{tee}/certification/v4/{what}{query}", {})
    header = next(value for key, value in reply.headers.items() if key.endswith("Chain"))
    return reply.body, unquote_to_bytes(header)


def intel_crl(role: str = "platform_ca", **told: object) -> tuple[bytes, bytes]:
    """Return a CRL of Intel's and its chain."""
    intel = vendors.fake_intel()
    crl = intel.crl(role, NOW, **told)  # type: ignore[arg-type]
    chain = certificates.pem(intel.certificates["root"]) if role == "root" else intel.chain(role)  # type: ignore[arg-type]
    return crl, chain.encode()


def amd_part(name: Name) -> tuple[bytes, bytes]:
    """Return body and chain of a part of AMD's."""
    amd, product = vendors.fake_amd("Genoa"), "Genoa"
    chain = certificates.pem(amd.certificate(product, "ask"), amd.certificate(product, "ark"))
    if name.role is Role.AMD_CHAIN:
        return chain.encode(), chain.encode()
    if name.role is Role.AMD_CRL:
        ark = certificates.pem(amd.certificate(product, "ark"))
        return amd.crl(product, NOW), ark.encode()
    return vendors.chip(product).chain[0], chain.encode()


def vcek_name() -> Name:
    """Return the name of the session's Genoa VCEK."""
    chip = vendors.chip("Genoa")
    return parts.vcek("Genoa", chip.chip_id, chip.tcb.encode("Genoa"))


def taken(name: Name, body: bytes, chain: bytes) -> Part:
    """Vet with the simulator's roots."""
    return vet(name, body, chain, vendors.anchors("Genoa"), fetched=NOW)


@functools.cache
def good() -> list[tuple[Name, bytes, bytes]]:
    """Return a good part of every role."""
    amd = [parts.amd_chain("Genoa", "vcek"), parts.amd_crl("Genoa", "vcek"), vcek_name()]
    documents = [TCB, QE, parts.tcb("sgx", FMSPC, "early"), parts.qe("sgx", "early")]
    return [
        *((name, *intel_document(name)) for name in documents),
        (PCK_CRL, *intel_crl()),
        (parts.pck_crl("processor"), *intel_crl("processor_ca")),
        (parts.ROOT_CRL, *intel_crl("root")),
        *((name, *amd_part(name)) for name in amd),
    ]


def refused(name: Name, body: bytes, chain: bytes, *reasons: Reason) -> None:
    """Check that vetting refuses for one of these reasons."""
    with pytest.raises(VerifierError) as caught:
        taken(name, body, chain)

    assert caught.value.reason in reasons, caught.value


def test_every_role_is_taken_with_its_dates() -> None:
    """Dates, numbers and digests are those of the bytes."""
    for name, body, chain in good():
        part = taken(name, body, chain)

        assert part.is_current(NOW), name
        assert part.windows.start <= part.issued or name.role is not Role.TCB
        assert not part.is_current(part.windows.end + 1)
        assert part.is_current(part.windows.end)
        assert not part.is_current(part.windows.start - 1)
        assert (part.body, part.chain, part.fetched) == (body, chain, NOW)


def test_numbers_tell_older_from_newer() -> None:
    """The evaluation number and the CRL's date both only rise."""
    standard = taken(TCB, *intel_document(TCB))
    early_name = parts.tcb("tdx", FMSPC, "early")
    early = taken(early_name, *intel_document(early_name))
    old = taken(PCK_CRL, *intel_crl(this_update=NOW - 2 * DAY))
    new = taken(PCK_CRL, *intel_crl())

    assert (standard.number, early.number) == (18, 20)
    assert standard.is_older_than(early)
    assert old.is_older_than(new)
    assert not new.is_older_than(new)


def test_a_flipped_bit_is_never_taken() -> None:
    """Any one bit of a body, and what is vetted is refused or says something else nowhere."""
    for name, body, chain in good():
        if name.role is Role.AMD_CHAIN:
            continue
        for at in range(0, 8 * len(body), max(1, 8 * len(body) // 60)):
            bent = bytearray(body)
            bent[at // 8] ^= 1 << at % 8
            try:
                part = taken(name, bytes(bent), chain)
            except VerifierError:
                continue
            # Hex digits of a signature may change case, and the JSON around it may not matter.
            original = taken(name, body, chain)
            assert name.role in {Role.TCB, Role.QE}
            assert signed_text(part.body, name.role, "") == signed_text(
                original.body, name.role, ""
            )


def test_roots_that_this_process_does_not_pin() -> None:
    """A simulator's parts are nothing to a process that was not told to trust it."""
    for name, body, chain in good():
        with pytest.raises(VerifierError) as caught:
            vet(name, body, chain, PINNED, fetched=NOW)

        assert caught.value.reason is Reason.ROOT_UNKNOWN, name


def test_parts_under_another_name() -> None:
    """What is signed, but about something else, is refused."""
    other = parts.tcb("tdx", bytes(6), "standard")
    refused(other, *intel_document(TCB), Reason.COLLATERAL_MISMATCH)
    refused(parts.tcb("sgx", FMSPC, "standard"), *intel_document(TCB), Reason.COLLATERAL_MISMATCH)
    refused(parts.qe("sgx", "standard"), *intel_document(QE), Reason.COLLATERAL_MISMATCH)
    refused(QE, *intel_document(TCB), Reason.COLLATERAL_MALFORMED)
    refused(parts.pck_crl("processor"), *intel_crl(), Reason.CHAIN_INVALID)
    refused(parts.ROOT_CRL, *intel_crl(), Reason.CHAIN_INVALID)
    refused(PCK_CRL, *intel_crl("root"), Reason.CHAIN_INVALID)
    chip = vendors.chip("Genoa")
    level = chip.tcb.encode("Genoa")
    for wrong in (
        parts.vcek("Genoa", b"\1" * 64, level),
        parts.vcek("Genoa", chip.chip_id, bytes((level[0] + 1, *level[1:]))),
    ):
        refused(wrong, *amd_part(wrong), Reason.COLLATERAL_MISMATCH)
    refused(
        parts.amd_crl("Milan", "vcek"),
        *amd_part(parts.amd_crl("Genoa", "vcek")),
        Reason.ROOT_UNKNOWN,
    )
    refused(parts.vlek("Genoa", level), *amd_part(vcek_name()), Reason.CHAIN_INVALID)
    refused(
        parts.amd_chain("Genoa", "vlek"),
        *amd_part(parts.amd_chain("Genoa", "vcek")),
        Reason.CHAIN_INVALID,
    )


def test_a_crl_of_somebody_else() -> None:
    """A CRL counts only under the key of its issuer."""
    refused(PCK_CRL, *intel_crl(signed_by="processor_ca"), Reason.CRL_INVALID)
    body, _ = amd_part(parts.amd_crl("Genoa", "vcek"))
    name = parts.amd_crl("Genoa", "vcek")
    refused(name, body, amd_part(parts.amd_chain("Genoa", "vcek"))[0], Reason.CHAIN_INVALID)


def test_a_document_signed_by_somebody_else() -> None:
    """Another TCB signer under another root of the same name does not count."""
    body, chain = intel_document(TCB, FakeIntel.create(NOW))
    refused(TCB, body, chain, Reason.ROOT_UNKNOWN)
    refused(TCB, body, intel_document(TCB)[1], Reason.COLLATERAL_SIGNATURE)


def test_a_chain_part_is_its_own_chain() -> None:
    """ASK and ARK stand in body and chain alike."""
    name = parts.amd_chain("Genoa", "vcek")
    body, _ = amd_part(name)
    refused(name, body + b"\n", body, Reason.COLLATERAL_MALFORMED)


def test_too_large() -> None:
    """Size is looked at first."""
    refused(TCB, bytes((4 << 20) + 1), b"", Reason.TOO_LARGE)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"tcbInfo":[],"signature":"%s"}' % (b"00" * 64),
        b'{"tcbInfo":{},"signature":"%s"}' % (b"00" * 63),
        b'{"tcbInfo":{},"signature":"%s","more":1}' % (b"00" * 64),
        b'{"signature":"%s","tcbInfo":{}}' % (b"00" * 64),
        b'{"tcbInfo":{},"signature":"%s"}{}' % (b"00" * 64),
        b'{"tcbInfo":' + b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_answers_that_are_not_the_pcs_own_shape(body: bytes) -> None:
    """The signed text is cut out of one shape only; two readings are impossible."""
    refused(TCB, body, intel_document(TCB)[1], *Reason)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_bytes_are_refused_in_our_words(body: bytes, chain: bytes) -> None:
    """Nothing but our error comes out, for every role."""
    for name in (TCB, QE, PCK_CRL, parts.ROOT_CRL, parts.amd_chain("Genoa", "vcek")):
        with pytest.raises(VerifierError):
            taken(name, body, chain)


@settings(max_examples=50)
@given(st.data())
def test_cut_short(data: st.DataObject) -> None:
    """A part that ends early is refused at every length."""
    name, body, chain = data.draw(st.sampled_from(good()))
    length = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(VerifierError):
        taken(name, body[:length], chain)


def test_names_have_one_spelling() -> None:
    """A name is read back as itself, whatever it is of."""
    for name, _, _ in good():
        assert Name.parse(name.text) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "intel/root-crl/",
        "intel/root-crl\n",
        "../intel/root-crl",
        "intel/tcb/tdx/B0C06F5A0000/standard",
        "intel/tcb/tdx/b0c06f5a0000",
        "amd/Genoa/vcek/../chain",
        "amd/Rome/vcek/chain",
        "intel/pck-crl/root",
        "amd/Genoa/vcek/" + "0" * 128 + "/" + "\u0660" * 16,
    ],
)
def test_names_that_are_none(text: str) -> None:
    """Names are paths in the store, so nothing else may be one."""
    with pytest.raises(VerifierError) as caught:
        Name.parse(text)

    assert caught.value.reason is Reason.MALFORMED


@pytest.mark.parametrize("case", ["tdx/v4-b0c06f-uptodate", "tdx/v4-00806f-gcp-uptodate-2026-01"])
def test_real_collateral_is_taken_under_the_real_roots(case: str) -> None:
    """What Intel signed is vetted with the pinned root and nothing else."""
    path = shapes.EVIDENCE / case / "collateral.json"
    if not path.exists():
        pytest.skip(f"no recorded evidence at {path}: set OSTIARY_EVIDENCE_DIR")
    told = json.loads(path.read_text())
    body = f'{{"tcbInfo":{told["tcb_info"]},"signature":"{told["tcb_info_signature"]}"}}'
    identity = told["qe_identity"]
    qe_body = f'{{"enclaveIdentity":{identity},"signature":"{told["qe_identity_signature"]}"}}'
    fmspc = bytes.fromhex(json.loads(told["tcb_info"])["fmspc"])
    pck_chain = told["pck_crl_issuer_chain"].encode()
    made = [
        (parts.tcb("tdx", fmspc, "standard"), body.encode(), told["tcb_info_issuer_chain"]),
        (QE, qe_body.encode(), told["qe_identity_issuer_chain"]),
        (PCK_CRL, bytes.fromhex(told["pck_crl"]), pck_chain.decode()),
    ]
    for name, raw, chain in made:
        part = vet(name, raw, chain.encode(), PINNED, fetched=0)

        assert part.number > 0, name


@pytest.mark.parametrize(
    "case",
    [
        "snp/v2-milan-virtee",
        "snp/v3-milan-vcek-ms",
        "snp/v3-genoa-vcek-ms",
        "snp/v5-turin-vcek-ms",
        "snp/v3-milan-vlek-vmpl1-masked-chip",
    ],
)
def test_real_amd_parts_are_taken_under_the_real_roots(case: str) -> None:
    """What AMD signed is vetted by product, chip and TCB, with the pinned ARKs and nothing else."""
    folder = shapes.EVIDENCE / case
    if not folder.exists():
        pytest.skip(f"no recorded evidence at {folder}: set OSTIARY_EVIDENCE_DIR")
    product = case.split("-")[1].capitalize()
    vek: parts.Vek = "vlek" if "vlek" in case else "vcek"
    report = SnpReport.parse((folder / "report.bin").read_bytes())
    ask = (folder / ("asvk.der" if vek == "vlek" else "ask.der")).read_bytes()
    ark = (folder / "ark.der").read_bytes()
    chain = certificates.pem(ask, ark).encode()
    name = (
        parts.vlek(product, report.reported_tcb)
        if vek == "vlek"
        else parts.vcek(product, report.chip_id, report.reported_tcb)
    )
    leaf = (folder / f"{vek}.der").read_bytes()

    assert vet(parts.amd_chain(product, vek), chain, chain, PINNED, fetched=0).windows.each
    assert vet(name, leaf, chain, PINNED, fetched=0).body == leaf
    if (folder / "crl.der").exists():
        crl = (folder / "crl.der").read_bytes()
        pem = certificates.pem(ark).encode()
        assert vet(parts.amd_crl(product, vek), crl, pem, PINNED, fetched=0).number > 0


def test_a_crl_without_a_number() -> None:
    """The number is optional in a CRL; its date is not."""
    intel = vendors.fake_intel()
    bare = certificates.issue_crl(
        issuer=intel_name("Intel SGX PCK Platform CA"),
        this_update=NOW - DAY,
        next_update=NOW + DAY,
        revoked=(),
        extensions=(certificates.authority_key_id(intel.signer("platform_ca").spki),),
        signer=intel.signer("platform_ca"),
    )

    assert taken(PCK_CRL, bare, intel_crl()[1]).number == 0


def test_the_simulated_pcs_says_no_as_intel_does() -> None:
    """Unknown families are 404, other updates 400."""
    known = Vendors(lambda: NOW, vendors.fake_intel())

    assert known.reply("/tdx/certification/v4/tcb?fmspc=000000000000", {}).status == 404
    assert known.reply("/tdx/certification/v4/tcb?fmspc=b0c06f5a0000&update=x", {}).status == 400
    assert known.reply("/sgx/certification/v4/pckcrl?ca=root&encoding=der", {}).status == 400
    assert known.reply("/sgx/certification/v4/other", {}).status == 404
    assert known.reply("/vcek/v1/Genoa/crl", {}) == Reply(404)
    assert known.reply("/metadata/THIM/amd/certification", {}).status == 400
    assert tcb.VALIDITY == 30 * DAY
