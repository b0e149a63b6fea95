"""The chain from hardware to PCRs: each link, bent, is a refusal for its own reason."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary.simulator.azure import encoded
from tests.kit import azure, measured, tpm_chain, vendors
from tests.kit.azure import Machine, jwk, runtime
from tests.kit.measured import NONCE, PCRS
from verifier.azure import hcl
from verifier.azure.hcl import HclReport
from verifier.errors import VerifierError
from verifier.policy import from_mapping
from verifier.result import Verdict
from verifier.tpm import attest as attests

MACHINES = {
    "snp": azure.snp,
    "tdx": azure.tdx_machine,
    "tdx-v5": lambda *claims, **body: azure.tdx_machine(*claims, version=5, **body),
}
every = pytest.mark.parametrize("make", MACHINES.values(), ids=list(MACHINES))


def policy(**rules: Any) -> Any:
    """Return a policy with references for this hardware and for PCR 4, and these rules."""
    machine = azure.tdx_machine()
    body = machine.judge().claims["quote"]["body"]
    pins = {name: body[name] for name in ("mr_td", "rtmr0", "rtmr1", "rtmr2")}
    told: dict[str, Any] = {
        "reference": [
            {"kind": "tdx", "name": "paravisor"} | pins,
            {"kind": "snp", "name": "paravisor", "measurement": "0e" * 48},
            {"kind": "tpm", "name": "image", "pcrs": {"4": PCRS[4].hex()}},
        ]
    }
    return from_mapping(told | rules)


def only_hardware(machine: Machine) -> Machine:
    return machine.but(tpm_message=None, tpm_signature=None, pcrs=None, nonce=None)


@every
def test_a_good_machine(make: Any) -> None:
    """Strict defaults accept it, a policy that pins it too, and the claims tell what was seen."""
    machine = make()
    result = machine.judge()

    assert result.verdict is Verdict.ACCEPT, [c for c in result.checks if c.ok is False]
    assert result.simulated
    assert result.expires is not None
    assert result.claims["tpm"]["extra_data"] == NONCE.hex()
    assert result.claims["pcrs"]["sha256"]["7"] == PCRS[7].hex()
    assert machine.but(policy=policy()).reasons() == []


# The hardware and the claims.


@every
def test_any_byte_of_the_claims(make: Any) -> None:
    """Claims that are not those that the hardware report was made for are refused, always."""
    machine = make()
    report = hcl.parse(machine.evidence.hcl_report)
    for other in (runtime(user_data="01" + "00" * 63), runtime(keys=[jwk()]), runtime(more=1)):
        raw = hcl.encode(replace(report, claims=encoded(other)))
        assert "report_data_mismatch" in machine.but(hcl_report=raw).reasons()
    spaced = hcl.encode(replace(report, claims=report.claims + b" "))
    assert "report_data_mismatch" in machine.but(hcl_report=spaced).reasons()


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(("snp", "tdx")), st.data())
def test_any_bit_of_the_report(kind: str, data: st.DataObject) -> None:
    """No bit of report, claims or header flips without a refusal; a TDREPORT's MAC is not read."""
    machine = MACHINES[kind]()
    raw = bytearray(machine.evidence.hcl_report)
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= 1 << data.draw(st.integers(0, 7))
    if kind == "tdx" and 0x20 <= place < 0x4C0:
        fields = (range(128, 192), range(264, 384), range(512, 912))
        if place != 0x20 and not any(place - 0x20 in field for field in fields):
            return
    assert machine.but(hcl_report=bytes(raw)).judge().verdict is not Verdict.ACCEPT


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(("tpm_message", "tpm_signature", "td_quote")), st.data())
def test_any_bit_of_what_is_signed(part: str, data: st.DataObject) -> None:
    """No bit of TPM quote, signature or TD quote flips without a refusal."""
    machine = azure.tdx_machine()
    raw = bytearray(getattr(machine.evidence, part))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= 1 << data.draw(st.integers(0, 7))
    assert machine.but(**{part: bytes(raw)}).judge().verdict is not Verdict.ACCEPT


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(("hcl_report", "tpm_message", "tpm_signature", "td_quote")), st.data())
def test_any_truncation(part: str, data: st.DataObject) -> None:
    """Evidence that is cut anywhere gives a result, and never an accept; padding may be short."""
    machine = azure.tdx_machine()
    raw = getattr(machine.evidence, part)
    end = len(raw) - (100 if part == "hcl_report" else 0)
    cut = raw[: data.draw(st.integers(0, end - 1))]
    assert machine.but(**{part: cut}).judge().verdict is not Verdict.ACCEPT


def test_report_data_is_the_hash_and_zeros() -> None:
    """The half after the hash is zero, and the hash is of the exact claims."""
    claims = encoded(runtime())
    digest = hashlib.sha256(claims).digest()
    for bound in (digest + digest, bytes(64), bytes(32) + digest, digest[::-1] + bytes(32)):
        assert azure.snp(report_data=bound).reasons() == ["report_data_mismatch"]
        assert azure.tdx_machine(report_data=bound).reasons() == ["report_data_mismatch"]


@pytest.mark.parametrize(
    "changes",
    [
        {"report_data": b"\x01" * 64},
        {"mr_td": b"\x01" * 48},
        {"rtmr3": b"\x01" * 48},
        {"td_attributes": bytes.fromhex("0100001000000000")},
        {"xfam": bytes(8)},
        {"mr_owner": b"\x01" * 48},
        {"mr_seam": b"\x01" * 48},
        {"tee_tcb_svn": bytes(16)},
    ],
)
@pytest.mark.parametrize("version", [4, 5])
def test_tdreport_and_quote_disagree(changes: dict[str, bytes], version: int) -> None:
    """The claims' TDREPORT and the quote are of one TD, field by field."""
    machine = azure.tdx_machine(version=version, local=lambda body: replace(body, **changes))
    assert machine.reasons() == ["report_data_mismatch"]


def test_service_td_is_compared_where_there_is_one() -> None:
    """A TD 1.5 body has MRSERVICETD, a TD 1.0 body has not."""
    told = {"mr_service_td": b"\x01" * 48}
    for version, reasons in ((4, []), (5, ["report_data_mismatch"])):
        made = azure.tdx_machine(version=version, local=lambda body: replace(body, **told))
        assert made.reasons() == reasons


def test_a_tdreport_alone() -> None:
    """A TDREPORT without a quote is a MAC for its own machine, and one of SGX is none at all."""
    machine = azure.tdx_machine()
    assert machine.but(td_quote=None).reasons() == ["signature_missing"]
    raw = bytearray(machine.evidence.hcl_report)
    raw[0x20] = 0
    assert machine.but(hcl_report=bytes(raw)).reasons() == ["malformed"]
    assert machine.but(td_quote=b"").reasons() == ["signature_missing"]


def test_kinds_are_not_mixed() -> None:
    """The kind is the caller's word: report, endorsements and evidence have to be of it."""
    snp, tdx = azure.snp(), azure.tdx_machine()
    assert snp.but(kind="azure-tdx").reasons() == ["kind_mismatch"]
    assert tdx.but(kind="azure-snp").reasons() == ["kind_mismatch"]
    assert snp.but(endorsements=tdx.endorsements).reasons() == ["kind_mismatch"]
    assert tdx.but(endorsements=snp.endorsements).reasons() == ["kind_mismatch"]
    assert snp.but(endorsements=None).reasons() == ["collateral_missing"]
    assert tdx.but(endorsements=None).reasons() == ["collateral_missing"]


@pytest.mark.parametrize("vmpl", [1, 2, 3])
def test_a_guests_own_report(vmpl: int) -> None:
    """A report from above VMPL 0 names a key that the guest chose, whatever policy admits."""
    machine = azure.snp(vmpl=vmpl)
    assert machine.reasons() == ["vmpl"]
    assert machine.but(policy=policy(snp={"max_vmpl": 3})).reasons() == ["vmpl"]


def test_the_hardwares_own_rules() -> None:
    """What hardware rules refuse is refused here: debug, an unknown measurement, and more."""
    assert azure.snp(policy=0xB001F).reasons() == ["debug_enabled"]
    debug = bytes.fromhex("0100001000000000")
    assert azure.tdx_machine(td_attributes=debug).reasons() == ["debug_enabled"]
    other = azure.snp(measurement=bytes(48)).but(policy=policy())
    assert other.reasons() == ["measurement_unknown"]


# The configuration.


@pytest.mark.parametrize(
    ("changes", "rules", "reasons"),
    [
        ({"secure-boot": False}, {}, ["vm_configuration"]),
        ({"secure-boot": False}, {"require_secure_boot": False}, []),
        ({"tpm-enabled": False}, {}, ["vm_configuration"]),
        ({"tpm-enabled": False}, {"require_tpm_enabled": False}, []),
        ({"console-enabled": True}, {}, []),
        ({"console-enabled": True}, {"allow_console": False}, ["vm_configuration"]),
        ({"console-enabled": False}, {"allow_console": False}, []),
    ],
)
def test_configuration(
    changes: dict[str, bool], rules: dict[str, bool], reasons: list[str]
) -> None:
    """Secure Boot and TPM are on unless policy says otherwise; the console is policy's."""
    told = runtime()
    told["vm-configuration"] |= changes
    machine = azure.snp(encoded(told))
    assert machine.but(policy=policy(azure=rules)).reasons() == reasons


def test_user_data() -> None:
    """User data is compared whole."""
    machine = azure.snp(encoded(runtime(user_data="AB" * 32 + "00" * 32)))
    good = policy(azure={"user_data": "ab" * 32 + "00" * 32})
    assert machine.but(policy=good).reasons() == []
    other = policy(azure={"user_data": "ab" * 32 + "00" * 31 + "01"})
    assert machine.but(policy=other).reasons() == ["user_data_mismatch"]
    for short in ("", "ab" * 32):
        with pytest.raises(VerifierError):
            policy(azure={"user_data": short})


# The key.


def certified(key: Any = None, **changes: Any) -> tuple[Machine, list[bytes]]:
    """Return a machine whose key a simulated maker certified, and the issuers."""
    shape = tpm_chain.Shape("AK", **changes)
    leaf = tpm_chain.issue(shape, tpm_chain.intermediate(), key=key or measured.rsa_key())
    machine = azure.tdx_machine()
    pins = tpm_chain.anchors()
    anchors = replace(
        machine.anchors, tpm=pins.tpm, simulated=machine.anchors.simulated | pins.simulated
    )
    issuers = [tpm_chain.intermediate().der, tpm_chain.root().der]
    return (
        machine.but(ak_certificate=leaf.der, ak_issuers=issuers, anchors=anchors),
        issuers,
    )


def test_a_certified_key() -> None:
    """A chain adds origin: padded or not, it is shown, and a policy may require it."""
    machine, issuers = certified()
    required = policy(tpm={"require_ak_certificate": True})
    result = machine.but(policy=required).judge()

    assert result.verdict is Verdict.ACCEPT, [c for c in result.checks if c.ok is False]
    assert result.claims["ak_cert"]["subject"] == "CN=AK"
    assert result.claims["ak_cert"]["eku"] == []
    padded = (machine.evidence.ak_certificate or b"").ljust(4096, b"\0")
    assert machine.but(ak_certificate=padded).reasons() == []
    assert machine.but(ak_certificate=padded + b"x").reasons() == ["trailing_data"]
    assert machine.but(ak_certificate=None, ak_issuers=issuers).reasons() == ["ak_not_certified"]
    assert azure.tdx_machine().but(policy=required).reasons() == ["ak_not_certified"]


def test_what_the_certificate_is_for() -> None:
    """The purposes of a certificate are told."""
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    machine, _ = certified(extensions=((usage, False),))
    assert machine.judge().claims["ak_cert"]["eku"] == ["1.3.6.1.5.5.7.3.2"]


def test_a_certificate_of_another_key() -> None:
    """Azure certified a swapped key (CVE-2025-49707): the hardware report's key decides."""
    machine, _ = certified(key=tpm_chain.key_of("swapped"))
    assert machine.reasons() == ["ak_refused"]


def test_chains_that_do_not_hold() -> None:
    """No issuers, the wrong ones, a root that nobody pinned, a maker that is not Azure."""
    machine, issuers = certified()
    assert machine.but(ak_issuers=[]).reasons() == ["chain_invalid"]
    assert machine.but(ak_issuers=issuers[:1]).reasons() == ["root_unknown"]
    assert machine.but(ak_issuers=issuers[1:]).reasons() == ["chain_invalid"]
    assert machine.but(anchors=azure.tdx_machine().anchors).reasons() == ["root_unknown"]
    (simulated,) = machine.anchors.tpm["simulated"]
    for maker, reasons in (("azure", []), ("gce", ["root_unknown"])):
        tpm = {"azure": frozenset[bytes](), "gce": frozenset[bytes]()} | {
            maker: frozenset({simulated})
        }
        pinned = replace(machine.anchors, tpm=tpm)
        assert machine.but(anchors=pinned).reasons() == reasons


@pytest.mark.parametrize("name", ["n", "e"])
def test_a_key_that_changed(name: str) -> None:
    """A key of the guest's in the claims, by modulus or exponent, is not the TPM's."""
    other = jwk(key=tpm_chain.key_of("other"))
    if name == "e":
        other = jwk() | {"e": "Aw"}
    reasons = azure.snp(encoded(runtime(keys=[other]))).reasons()
    assert reasons == ["signature_invalid" if name == "n" else "ak_refused"]


# The TPM's quote.


@every
def test_hardware_only(make: Any) -> None:
    """Without a TPM quote it is refused, unless policy admits that and needs nothing of a quote."""
    machine = only_hardware(make())
    assert machine.reasons() == ["tpm_quote_missing"]
    assert machine.but(policy=policy()).reasons() == ["tpm_quote_missing"]
    admits = policy(azure={"require_tpm_quote": False})
    assert machine.but(policy=admits).reasons() == ["tpm_quote_missing"]
    bare = from_mapping(
        {
            "azure": {"require_tpm_quote": False},
            "reference": [
                {"kind": "snp", "name": "p", "measurement": "0e" * 48},
                {"kind": "tdx", "name": "p"}
                | {name: value.hex() for name, value in TD_PINS.items()},
            ],
        }
    )
    assert machine.but(policy=bare).reasons() == []
    for changes in (
        {"nonce": NONCE},
        {"pcrs": {"sha256": PCRS}},
        {"tpm_signature": b"x"},
        {"event_log": b"x"},
    ):
        assert machine.but(policy=bare, **changes).reasons() == ["tpm_quote_missing"]


_BODY = vendors.good_body()
TD_PINS = {name: getattr(_BODY, name) for name in ("mr_td", "rtmr0", "rtmr1", "rtmr2")}


@pytest.mark.parametrize(
    "nonce", [b"", NONCE[:-1], NONCE + b"\0", NONCE[::-1], bytes(len(NONCE)), b"x"]
)
def test_nonces(nonce: bytes) -> None:
    """The nonce is compared whole."""
    assert azure.snp().but(nonce=nonce).reasons() == ["nonce_mismatch"]


def test_no_nonce() -> None:
    """Without a nonce nothing is fresh: refused, unless the caller says aloud not to ask."""
    machine = azure.snp().but(nonce=None)
    assert machine.reasons() == ["nonce_missing"]
    assert machine.but(options={"nonce_required": False}).reasons() == []
    message = attests.encode(measured.attest(nonce=b""))
    empty = machine.but(tpm_message=message, tpm_signature=measured.sign(message))
    assert empty.but(options={"nonce_required": False}).reasons() == ["nonce_mismatch"]


def test_parts_of_a_quote() -> None:
    """Message, signature and values go together; nothing may follow the message."""
    machine = azure.snp()
    message = machine.evidence.tpm_message or b""
    assert machine.but(tpm_signature=None).reasons() == ["signature_missing"]
    assert machine.but(pcrs=None).reasons() == ["pcr_missing"]
    assert machine.but(tpm_message=message + b"\0").reasons() == ["trailing_data"]
    assert machine.but(tpm_message=b"\xfe" + message[1:]).reasons() == ["malformed"]
    assert machine.but(tpm_message=message[:4] + b"\x80\x17" + message[6:]).reasons() == [
        "malformed"
    ]


def test_pcrs_moved() -> None:
    """A PCR under another index or bank, or with another value, is not what was signed."""
    machine = azure.snp()
    swapped = PCRS | {0: PCRS[1], 1: PCRS[0]}
    assert machine.but(pcrs={"sha256": swapped}).reasons() == ["pcr_digest_mismatch"]
    without = {index: value for index, value in PCRS.items() if index != 11}
    assert machine.but(pcrs={"sha256": without}).reasons() == ["pcr_missing"]
    assert machine.but(pcrs={"sha384": PCRS}).reasons() == ["pcr_missing"]
    some = {index: PCRS[index] for index in (17, 18)}
    message = attests.encode(measured.attest({"sha256": some}))
    quoted = machine.but(tpm_message=message, tpm_signature=measured.sign(message), policy=policy())
    assert quoted.reasons() == ["measurement_unknown"]
    rules = policy(tpm={"pcrs": [4, 11]})
    assert quoted.but(policy=rules).reasons() == ["pcr_missing", "measurement_unknown"]
    assert machine.but(policy=rules).reasons() == []


def test_a_policy_that_pins_no_pcr() -> None:
    """The launch measurement is the paravisor's: without PCR pins a policy knows no guest."""
    told = from_mapping({"reference": [{"kind": "snp", "name": "p", "measurement": "0e" * 48}]})
    assert azure.snp().but(policy=told).reasons() == ["no_reference_values"]


def test_gpus() -> None:
    """A policy that asks for GPUs is not met by a CPU."""
    told = policy(gpu={"count": 1})
    assert azure.snp().but(policy=told).reasons() == ["gpu_evidence_missing"]


def test_an_event_log() -> None:
    """A log that replays to the quoted PCRs becomes boot claims; another log is a refusal."""
    maker = measured.tpm_log()
    values = PCRS | maker.registers()["sha256"]
    message = attests.encode(measured.attest({"sha256": values}))
    machine = azure.snp().but(
        tpm_message=message,
        tpm_signature=measured.sign(message),
        pcrs={"sha256": values},
        event_log=maker.raw,
    )
    result = machine.judge()

    assert result.verdict is Verdict.ACCEPT, [c for c in result.checks if c.ok is False]
    assert result.claims["boot"]["proven"] is True
    other = azure.snp().but(event_log=maker.raw)
    assert "event_log_mismatch" in other.reasons()
    assert machine.but(event_log=b"x").reasons() == ["malformed"]


def test_reports_version_1() -> None:
    """The first version of the HCL report has the same layout."""
    machine = azure.snp()
    report = hcl.parse(machine.evidence.hcl_report)
    old = HclReport(1, report.report_type, report.hardware, report.claims, 0)
    assert machine.but(hcl_report=hcl.encode(old)).reasons() == []


@pytest.mark.parametrize("make", [azure.snp, azure.tdx_machine])
def test_the_key_that_the_machine_names(make: Any) -> None:
    """A key that the VM says it quotes with is compared with HCLAkPub, and is no authority."""
    machine = make()
    own = (
        measured.rsa_key()
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    other = measured.tpmt_public(measured.rsa_key(3072))

    assert machine.but(ak=own).judge().verdict is Verdict.ACCEPT
    assert machine.but(ak=measured.tpmt_public()).judge().verdict is Verdict.ACCEPT
    assert machine.but(ak=other).reasons() == ["ak_refused"]
    assert machine.but(ak=b"").reasons() == ["malformed"]
