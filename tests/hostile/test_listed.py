"""Bad inputs that others were found to take, and that no other suite of ours feeds."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ostiary.simulator.certificates import Extension
from tests.kit import azure, measured, snp_forge, tdx, vendors
from tests.kit.snp_forge import Forge
from tests.kit.snp_judge import judge, strict
from verifier.appraise import Evidence, appraise
from verifier.errors import Reason
from verifier.policy import SnpTcb
from verifier.result import Verdict
from verifier.snp.product import MILAN
from verifier.tdx.pck import SGX_EXTENSION


@pytest.mark.parametrize(
    "point",
    [bytes(64), b"\xff" * 64, bytes(63) + b"\1", b"\0" + b"\xff" * 63],
    ids=["infinity", "beyond p", "off the curve", "y beyond p"],
)
def test_an_attestation_key_that_is_no_point(point: bytes) -> None:
    """Infinity, coordinates beyond the field and points elsewhere are no keys."""
    result = tdx.judge(attestation_key=point)

    assert tdx.refused(result, Reason.SIGNATURE_INVALID, saying="point")


@pytest.mark.parametrize("field", ["reported_tcb", "committed_tcb", "launch_tcb"])
def test_every_tcb_of_a_report_has_the_floor(field: str) -> None:
    """A floor holds for what is reported, committed and launched, each by itself."""
    forge = Forge(MILAN)
    old = forge.tcb[:6] + bytes([forge.tcb[6] - 1]) + forge.tcb[7:]
    changes = {field: old}
    if field == "committed_tcb":
        changes["current_tcb"] = forge.tcb
    values = {"3.3": b"\x02\x01" + old[6:7]} if field == "reported_tcb" else {}
    floor = strict(min_tcb={"Milan": SnpTcb(snp=forge.tcb[6])}, allow_provisional_firmware=True)
    evidence = forge.evidence(report=changes, vek_values=values)

    assert Reason.TCB_BELOW_MINIMUM in judge(evidence, policy=floor).reasons
    lower = strict(min_tcb={"Milan": SnpTcb(snp=forge.tcb[6] - 1)}, allow_provisional_firmware=True)
    assert judge(evidence, policy=lower).verdict is Verdict.ACCEPT


def test_an_older_report_than_the_committed_one_is_known_by_its_own_key() -> None:
    """A host may hold back: REPORTED below COMMITTED, with the VEK for REPORTED."""
    forge = Forge(MILAN)
    newer = forge.tcb[:7] + bytes([forge.tcb[7] + 1])
    firmware = {"current_tcb": newer, "committed_tcb": newer}

    assert judge(forge.evidence(report=firmware)).verdict is Verdict.ACCEPT
    swapped = forge.evidence(report={**firmware, "reported_tcb": newer})
    assert judge(swapped).reasons == (Reason.TCB_MISMATCH,)


def test_copies_that_disagree() -> None:
    """The key that a VM says it quotes with is the one in its claims, or it is refused."""
    machine = azure.snp()
    other = measured.ec_key().public_key()
    spki = other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    assert machine.but(ak=spki).judge().verdict is Verdict.REJECT


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress], ids=["gzip", "zlib"])
def test_a_bomb_in_a_certificate_is_not_unpacked(pack: Callable[[bytes], bytes]) -> None:
    """An extension that unpacks to 64 MiB is bytes like any other: nothing here unpacks."""
    bomb = pack(bytes(64 << 20))
    machine = vendors.fake_intel().platform()
    extension = Extension("1.3.6.1.4.1.62397.1.1", b"\x04\x83" + len(bomb).to_bytes(3) + bomb)
    packed = vendors.fake_intel().platform(extensions=(extension,))

    assert SGX_EXTENSION not in bomb
    assert tdx.judge(machine=machine).verdict is Verdict.ACCEPT
    assert tdx.judge(machine=packed).verdict is Verdict.REJECT


def test_the_kind_is_never_in_the_evidence() -> None:
    """The same bytes under another kind are refused for that, whatever they say of themselves."""
    quote, report = vendors.good_quote(), Forge(MILAN).evidence()
    for kind, cpu, endorsements in (
        ("snp", quote, report.endorsements),
        ("tdx", report.report, tdx.collateral()),
        ("sgx", quote, tdx.collateral(tee="sgx")),
        ("azure-tdx", quote, tdx.collateral()),
        ("tpm", quote, None),
    ):
        result = appraise(
            Evidence(kind, cpu),  # type: ignore[arg-type]  # the kinds above
            endorsements,
            policy=None,
            report_data=None,
            now=snp_forge.NOW,
            anchors=vendors.anchors(),
        )
        assert result.verdict is Verdict.REJECT, kind
