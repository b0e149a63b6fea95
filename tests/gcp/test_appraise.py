"""Confidential VMs at Google: the hardware decides, the host's vTPM is shown and may only deny."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit import azure, vendors
from tests.kit.gcp import Machine, snp_machine, tdx_machine, vtpm
from tests.kit.tpm_chain import Shape, anchors, intermediate, issue, root
from verifier.anchors import Anchors
from verifier.errors import Reason
from verifier.policy import (
    AppraisalPolicy,
    GcpRules,
    GpuRules,
    SnpReference,
    TdxReference,
    TpmReference,
    TpmRules,
)
from verifier.result import Verdict
from verifier.tpm.appraise import TpmEvidence
from verifier.wire.canonical import Hex

MACHINES = [tdx_machine, snp_machine]
Make = Callable[..., Machine]


@pytest.mark.parametrize("make", MACHINES)
def test_the_hardware_report_decides(make: Make) -> None:
    """A good hardware report is enough, and the result says that no vTPM was shown."""
    result = make().judge()

    assert (result.verdict, result.simulated) == (Verdict.ACCEPT, True)
    (check,) = [each for each in result.checks if each.name.startswith("vtpm")]
    assert (check.name, check.ok, check.seen) == ("vtpm.quote", None, "none")


@pytest.mark.parametrize("make", MACHINES)
def test_a_vtpm_is_shown(make: Make) -> None:
    """A vTPM's quote has claims and checks of its own, and its PCRs are not judged."""
    result = make(vtpm()).judge()

    assert result.verdict is Verdict.ACCEPT
    assert result.claims["vtpm"]["attest"]["extra_data"]
    checks = {each.name: each for each in result.checks}
    assert checks["vtpm.tpm.nonce"].ok
    assert checks["vtpm.tpm.pcrs"].ok is None
    assert "the hardware report decides" in checks["vtpm.ak.certificate"].expected
    hardware = make().judge()
    assert result.tcb_status is hardware.tcb_status


@pytest.mark.parametrize("make", MACHINES)
def test_a_vtpm_alone_is_refused_by_name(make: Make) -> None:
    """Without a hardware report nothing is accepted, and the vTPM is shown all the same."""
    result = make(vtpm()).but(cpu=b"").judge()

    assert result.verdict is Verdict.REJECT
    assert result.reasons == (Reason.HARDWARE_REPORT_MISSING,)
    assert "vtpm" in result.claims


@pytest.mark.parametrize("make", MACHINES)
def test_a_vtpm_repairs_nothing(make: Make) -> None:
    """What is wrong with the hardware stays wrong beside a good vTPM."""
    machine = make(vtpm())
    cut = machine.evidence.cpu[:-1]

    assert machine.but(report_data=bytes(64), options={"nonce": b""}).judge().verdict is (
        Verdict.REJECT
    )
    assert "malformed" in machine.but(cpu=cut).reasons()
    assert "collateral_missing" in machine.but(endorsements=None).reasons()


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (lambda: vtpm(nonce=b"another"), "nonce_mismatch"),
        (lambda: vtpm(signature=None), "signature_missing"),
        (lambda: vtpm(ak=vendors.tpm("stranger").ak), "signature_invalid"),
        (lambda: vtpm(ak=None), "ak_refused"),
        (lambda: vtpm(pcrs={"sha256": dict.fromkeys(range(24), bytes(32))}), "pcr_digest_mismatch"),
        (lambda: vtpm(event_log=b"no log"), "malformed"),
        (lambda: TpmEvidence(None), "tpm_quote_missing"),
    ],
    ids=["nonce", "signature", "signer", "key", "pcrs", "log", "quote"],
)
def test_a_bad_vtpm_denies(make: Make, bad: Callable[[], TpmEvidence], why: str) -> None:
    """A vTPM that is given and not good denies, though the hardware report is good."""
    result = make(bad()).judge()

    assert result.verdict is Verdict.REJECT
    assert result.reasons == (why,)
    assert all(each.name.startswith("vtpm.") for each in result.checks if each.ok is False)


def test_a_vtpm_without_a_nonce() -> None:
    """Freshness is bound through the report data, or named, or waived aloud."""
    machine = tdx_machine(vtpm()).but(report_data=None)

    assert machine.reasons() == ["nonce_missing"]
    waived = machine.but(options={"nonce_required": False}).judge()
    assert waived.verdict is Verdict.ACCEPT
    named = tdx_machine(vtpm(nonce=b"mine")).but(options={"nonce": b"mine"})
    assert named.judge().verdict is Verdict.ACCEPT


def test_certificates_of_google_only() -> None:
    """A chain to Google's maker is checked; one of another maker's root is not admitted."""
    leaf = issue(Shape("AK"), intermediate(), key=vendors.tpm("host").key)
    chain = (intermediate().der, root().der)
    machine = tdx_machine(vtpm(ak_certificate=leaf.der, ak_issuers=chain))
    trusted = Anchors().with_simulated(
        intel=[vendors.fake_intel().root_pin], tpm=anchors().tpm["simulated"]
    )

    result = machine.but(anchors=trusted).judge()
    assert result.verdict is Verdict.ACCEPT
    assert result.expires is not None
    assert machine.reasons() == ["root_unknown"]
    azures = AppraisalPolicy(tpm=TpmRules(makers=("azure",), require_ak_certificate=True))
    assert "ak_not_certified" in tdx_machine(vtpm()).but(policy=azures).reasons()


def references() -> tuple[TdxReference, SnpReference]:
    """Return what both machines are known good by."""
    body = vendors.good_body()
    on_amd = snp_machine().judge().claims["measurement"]
    td = TdxReference(
        name="td",
        mr_td=Hex(body.mr_td),
        rtmr0=Hex(body.rtmr0),
        rtmr1=Hex(body.rtmr1),
        rtmr2=Hex(body.rtmr2),
    )
    return td, SnpReference(name="guest", measurement=Hex(bytes.fromhex(on_amd)))


@pytest.mark.parametrize("make", MACHINES)
def test_a_policy_may_ask_for_the_vtpm(make: Make) -> None:
    """With `gcp.require_tpm` the vTPM must be there and fit a reference: it narrows, no more."""
    pcr = Hex(vendors.tpm("host").pcrs[0])
    plain = AppraisalPolicy(reference=references())
    asks = AppraisalPolicy(
        gcp=GcpRules(require_tpm=True),
        reference=(*references(), TpmReference(name="boot", pcrs={"0": pcr})),
    )
    other = AppraisalPolicy(
        gcp=GcpRules(require_tpm=True),
        reference=(*references(), TpmReference(name="boot", pcrs={"0": Hex(b"\1" * 32)})),
    )
    only = AppraisalPolicy(reference=(TpmReference(name="boot", pcrs={"0": pcr}),))

    assert make().but(policy=plain).judge().verdict is Verdict.ACCEPT
    assert make().but(policy=asks).reasons() == ["tpm_quote_missing"]
    assert make(vtpm()).but(policy=asks).judge().verdict is Verdict.ACCEPT
    assert make(vtpm()).but(policy=other).reasons() == ["measurement_unknown"]
    assert make(vtpm()).but(policy=only).reasons() == ["no_reference_values"]


def test_endorsements_of_another_vendor() -> None:
    """Intel's collateral says nothing of AMD's report, nor the reverse."""
    intel, amd = tdx_machine(), snp_machine()

    assert intel.but(endorsements=amd.endorsements).reasons() == ["kind_mismatch"]
    assert amd.but(endorsements=intel.endorsements).reasons() == ["kind_mismatch"]


def test_parts_of_other_kinds() -> None:
    """A part that a kind does not have is refused, not passed over."""
    machine = tdx_machine()

    assert machine.but(hcl_report=b"x").reasons() == ["kind_mismatch"]
    assert snp_machine().but(runtime_log=b"x").reasons() == ["kind_mismatch"]
    plain = machine.but(kind="tdx", tpm=vtpm())
    assert plain.reasons() == ["kind_mismatch"]
    assert machine.but(kind="tpm", tpm=vtpm()).reasons() == ["kind_mismatch"]


@pytest.mark.parametrize(
    "machine",
    [
        tdx_machine(vtpm()),
        snp_machine(vtpm()),
        tdx_machine().but(kind="tpm", cpu=b"", tpm=vtpm(), endorsements=None),
    ],
    ids=["gcp-tdx", "gcp-snp", "tpm"],
)
def test_gpus_that_the_policy_wants(machine: Machine) -> None:
    """A policy that wants GPUs is not met by any kind of evidence without them."""
    policy = AppraisalPolicy(gpu=GpuRules(count=1))

    assert "gpu_evidence_missing" in machine.but(policy=policy).reasons()


def test_gpus_in_azure() -> None:
    """The same in Azure."""
    policy = AppraisalPolicy(gpu=GpuRules(count=1))

    for machine in (azure.snp(), azure.tdx_machine()):
        assert "gpu_evidence_missing" in machine.but(policy=policy).reasons()


def test_a_tpm_through_the_one_door() -> None:
    """A bare TPM's quote is bound to report data by its digest; without a quote it is refused."""
    machine = tdx_machine().but(kind="tpm", cpu=b"", tpm=vtpm(), endorsements=None)

    assert machine.judge().verdict is Verdict.ACCEPT
    assert machine.but(report_data=bytes(64)).reasons() == ["nonce_mismatch"]
    assert machine.but(tpm=None).reasons() == ["tpm_quote_missing"]


@settings(max_examples=60, deadline=None)
@given(st.integers(min_value=0), st.booleans())
def test_no_flipped_bit_is_accepted(bit: int, signature: bool) -> None:
    """A bit of the vTPM's message or signature that is another denies."""
    good = vtpm()
    raw = bytearray((good.signature if signature else good.attest) or b"")
    raw[bit // 8 % len(raw)] ^= 1 << bit % 8
    bent = vtpm(signature=bytes(raw)) if signature else vtpm(attest=bytes(raw))

    assert tdx_machine(bent).judge().verdict is not Verdict.ACCEPT
