"""One device: what a genuine one is accepted for, and everything that it is refused for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from ostiary.simulator import certificates, der
from ostiary.simulator.nvidia import devices, faults, rim, services
from ostiary.simulator.nvidia.devices import Device
from ostiary.simulator.nvidia.report import Block, Field
from ostiary.simulator.nvidia.services import OLD_DRIVER
from tests.kit import nvgpu, nvgpu_forge
from tests.kit.nvgpu import Judge
from verifier.anchors import PINNED
from verifier.nvgpu.device import DeviceKind
from verifier.nvgpu.endorsements import GpuEndorsements
from verifier.policy import AppraisalPolicy
from verifier.result import Verdict

ONE = nvgpu.make()
ORDER = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    16,
)
"""Of the group of P-384 (SP 800-186 §3.2.1.4)."""
DIGESTS = tuple(Block(at, bytes(48)) for at in range(1, 65))


def bent(fault: Callable[[Device], Device], **rules: Any) -> Judge:
    """Return a judge of one GPU with this fault."""
    judge = Judge(faults.at_gpu(ONE, 0, fault))
    judge.policy = nvgpu.rules(ONE, **rules)
    return judge


def field(kind: int, data: bytes | None) -> Callable[[Device], Device]:
    return lambda device: faults.with_field(device, kind, data)


def test_good_device() -> None:
    """A genuine GPU with its RIMs and good revocation is accepted, and says who it is."""
    result = Judge(ONE)()
    (told,) = result.claims["devices"]

    assert (result.verdict, result.kind, result.simulated) == (Verdict.ACCEPT, "nvidia", True)
    assert result.expires is not None
    assert nvgpu.NOW < result.expires < nvgpu.NOW + 90_000
    assert told["device_id"] == "41" + ONE.gpus[0].identity.pdi.hex()
    assert (told["name"], told["kind"], told["chip"], told["arch"]) == (
        "gpu[0]",
        "gpu",
        "GH100",
        "hopper",
    )
    assert (told["driver"], told["vbios"], told["mode"]) == (devices.DRIVER, devices.VBIOS, "spt")
    assert told["genuine"] is True
    assert told["claims"]["rim_ids"]["vbios"] == rim.vbios_id(devices.VBIOS)
    assert len(told["claims"]["compared"]) == 32
    assert told["claims"]["skipped"] == [35]


def test_older_driver() -> None:
    """A driver without the feature flag says its mode by protected PCIe alone."""
    whole = devices.device_set(nvgpu.vendor(), 1, driver=OLD_DRIVER)

    assert Judge(whole)().verdict is Verdict.ACCEPT
    assert Judge(whole)().claims["devices"][0]["mode"] == "spt"


@pytest.mark.parametrize(
    ("fault", "check", "reason"),
    [
        (faults.bad_signature, "gpu[0].genuine", "signature_invalid"),
        (faults.trailing_byte, "gpu[0].genuine", "trailing_data"),
        (faults.other_firmware_id, "gpu[0].genuine", "gpu_fwid"),
        (lambda it: faults.stale(it, bytes(32)), "gpu[0].nonce", "nonce_mismatch"),
        (lambda it: faults.bad_measurement(it, 7), "gpu[0].measurements", "gpu_measurement"),
        (lambda it: faults.bad_measurement(it, 0), "gpu[0].measurements", "gpu_measurement"),
        (field(devices.FWID, None), "gpu[0].fwid", "gpu_fwid"),
        (field(devices.FWID, bytes(47)), "gpu[0].genuine", "malformed"),
        (field(devices.NVDEC0_STATUS, b"\0"), "gpu[0].fields", "malformed"),
        (field(devices.NVDEC0_STATUS, None), "gpu[0].fields", "malformed"),
        (field(devices.MSRSCNT, b"\0"), "gpu[0].genuine", "malformed"),
        (field(devices.DRIVER_VERSION, b"x"), "gpu[0].fields", "malformed"),
        (field(devices.DRIVER_VERSION, None), "gpu[0].fields", "malformed"),
        (field(devices.PROJECT, b"\0"), "gpu[0].fields", "malformed"),
        (field(devices.VBIOS_VERSION, None), "gpu[0].fields", "malformed"),
        (field(devices.PROTECTED_PCIE_STATUS, b"\xaa"), "gpu[0].mode", "gpu_mode"),
        (field(devices.FEATURE_FLAG, b"\3\0"), "gpu[0].mode", "gpu_mode"),
        (field(devices.FEATURE_FLAG, b"\2\0"), "gpu[0].mode", "gpu_mode"),
        (field(devices.FEATURE_FLAG, b"\1"), "gpu[0].fields", "malformed"),
        (field(99, b"new"), "gpu[0].supported", "gpu_unsupported"),
    ],
    ids=[
        "signature",
        "trailing byte",
        "other firmware",
        "replayed",
        "driver measurement",
        "VBIOS measurement",
        "no FWID",
        "short FWID",
        "NVDEC0 unknown",
        "NVDEC0 absent",
        "counters",
        "driver version",
        "no driver version",
        "no project",
        "no VBIOS version",
        "contradicts itself",
        "mode unknown",
        "ppcie by flag alone",
        "flag of one byte",
        "unknown field",
    ],
)
def test_refused_and_named(fault: Callable[[Device], Device], check: str, reason: str) -> None:
    """Each fault denies by the check of its name."""
    result = bent(fault)()

    assert result.verdict is not Verdict.ACCEPT
    assert check in nvgpu.failed(result), nvgpu.failed(result)
    assert reason in {r.value for r in result.reasons}
    assert result.claims["devices"][0]["reasons"] == [
        r.value for r in result.reasons if r.value != "gpu_topology"
    ]


def test_flag_and_status_both_absent() -> None:
    """A driver that reports FWID but no mode at all is in none that is known."""

    def neither(device: Device) -> Device:
        without = faults.with_field(device, devices.FEATURE_FLAG, None)
        return faults.with_field(without, devices.PROTECTED_PCIE_STATUS, None)

    assert bent(neither).reasons() == ["gpu_mode"]
    old = bent(lambda it: faults.with_field(neither(it), devices.FWID, None))
    assert old.reasons() == ["gpu_fwid"]
    # The first drivers knew one mode; whoever admits them must say so.
    old.policy = nvgpu.rules(ONE, require_fwid=False)
    assert old().verdict is Verdict.ACCEPT
    odd = bent(lambda it: faults.with_field(neither(it), devices.PROTECTED_PCIE_STATUS, b"\1"))
    assert odd.reasons() == ["gpu_mode"]


def test_nonce() -> None:
    """Without an expected nonce freshness is told as not judged; a wrong one denies."""
    judge = Judge(ONE)
    judge.nonce = None
    (check,) = [c for c in judge().checks if c.name == "gpu[0].nonce"]
    assert (check.ok, judge().verdict) == (None, Verdict.ACCEPT)
    judge.nonce = bytes(32)
    assert judge.reasons() == ["nonce_mismatch"]
    judge.nonce = nvgpu.NONCE[:31]
    assert judge.reasons() == ["nonce_mismatch"]


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ({"archs": ("blackwell",)}, "platform_not_allowed"),
        ({"modes": ("mpt",)}, "gpu_mode"),
        ({"min_driver": "590.12.01"}, "tcb_below_minimum"),
        ({"min_driver": "1000.1"}, "tcb_below_minimum"),
        ({"min_vbios": {"GH100": "96.00.A5.00.02"}}, "tcb_below_minimum"),
        ({"device_ids": (bytes(9),)}, "platform_not_allowed"),
        ({"rims": (bytes(32),)}, "collateral_mismatch"),
    ],
)
def test_rules_refuse(rules: dict[str, Any], reason: str) -> None:
    """Each rule of the policy denies what it does not admit."""
    judge = Judge(ONE)
    judge.policy = nvgpu.rules(ONE, **rules)

    assert judge.reasons() == [reason]


def test_rules_admit() -> None:
    """Floors that are reached, a device that is listed and RIMs that are pinned are admitted."""
    judge = Judge(ONE)
    assert judge.endorsements is not None
    judge.policy = nvgpu.rules(
        ONE,
        min_driver="590.2",
        min_vbios={"GH100": "96.00.A5.00.01", "LS10": "FF.00.00.00.00"},
        device_ids=(b"\x41" + ONE.gpus[0].identity.pdi,),
        rims=tuple(bytes.fromhex(each["sha256"]) for each in _rims(judge)),
    )

    assert judge.reasons() == []


def _rims(judge: Judge) -> list[dict[str, Any]]:
    return list(judge().claims["devices"][0]["claims"]["rims"].values())


def test_endorsements_are_needed() -> None:
    """Without RIMs a device is genuine and refused; without revocation as well."""
    judge = Judge(ONE)
    whole = judge.endorsements
    assert whole is not None
    for given, reasons in (
        (None, ["collateral_missing", "revocation_missing"]),
        (replace(whole, rims=()), ["collateral_missing"]),
        (replace(whole, rims=whole.rims[:1]), ["collateral_missing"]),
        (replace(whole, ocsp=(), crls=()), ["revocation_missing"]),
    ):
        judge.endorsements = given
        result = judge()
        assert [reason.value for reason in result.reasons] == reasons
        assert result.claims["devices"][0]["genuine"] is True
    judge.endorsements = replace(whole, ocsp=(), crls=())
    judge.options = {"revocation_required": False}
    assert judge().verdict is Verdict.ACCEPT
    assert "gpu[0].revocation" in [c.name for c in judge().checks if c.ok is None]


def test_revoked_boot_rom() -> None:
    """A revoked BROM certificate denies its device."""
    known = replace(nvgpu.known())
    known.responder.statuses[ONE.gpus[0].identity.brom_serial] = "revoked"
    judge = Judge(ONE)
    judge.endorsements = GpuEndorsements(*services.endorsements(known, ONE, nvgpu.NOW))
    result = judge()

    assert [reason.value for reason in result.reasons] == ["certificate_revoked"]
    assert any(name.startswith("gpu[0].revocation.brom") for name in nvgpu.failed(result))


def test_signer_past_its_time() -> None:
    """A RIM whose signer has ended denies, unless the policy names that very document."""
    judge = Judge(ONE)
    judge.now = nvgpu.NOW + 3 * 365 * 86_400
    judge.endorsements = nvgpu.endorse(ONE, judge.now)
    assert "rim_expired" in judge.reasons()
    pins = tuple(_sha(raw) for raw in judge.endorsements.rims)
    judge.policy = nvgpu.rules(ONE, expired_rims=pins)
    judge.options = {"revocation_required": False}
    assert judge.reasons() == []
    assert any("past its time" in check.seen for check in judge().checks)


def _sha(raw: bytes) -> bytes:
    return hashlib.sha256(raw).digest()


def test_root_of_a_simulator() -> None:
    """Where simulated roots are not trusted, a simulated GPU is a forged one."""
    judge = Judge(ONE)
    judge.options = {"anchors": PINNED}
    result = judge()

    assert [reason.value for reason in result.reasons] == ["root_unknown"]
    assert result.claims["devices"][0] | {"claims": 0} == {
        "name": "gpu[0]",
        "kind": "gpu",
        "genuine": False,
        "device_id": None,
        "chip": None,
        "arch": None,
        "driver": None,
        "vbios": None,
        "mode": None,
        "verdict": "reject",
        "reasons": ["root_unknown"],
        "claims": 0,
    }


def test_dates_of_the_chain() -> None:
    """A chain that is not yet valid denies its device."""
    judge = Judge(ONE)
    judge.now = 1_000_000_000

    assert judge.reasons() == ["certificate_invalid"]


def test_kind_is_the_certificates() -> None:
    """A GPU that is handed in as a switch is refused, and a switch as a GPU."""
    judge = Judge(ONE)
    judge.sent = [replace(judge.sent[0], kind=DeviceKind.SWITCH)]
    judge.policy = None
    assert judge.reasons() == ["kind_mismatch"]
    switch = nvgpu.make(8, "ppcie").switches[0]
    judge.sent = [replace(nvgpu.evidence(switch), kind=DeviceKind.GPU)]
    assert judge.reasons() == ["kind_mismatch"]


def test_switch_names_itself() -> None:
    """A switch whose report carries another PDI than its certificate is not genuine."""
    switch = nvgpu.make(8, "ppcie").switches[0]
    judge = Judge(ONE)
    judge.policy = None
    for pdi in (bytes(8), None):
        wrong = faults.with_field(switch, devices.DEVICE_PDI, pdi)
        judge.sent = [nvgpu.evidence(wrong)]
        assert judge.reasons() == ["chip_id_mismatch"]


@pytest.mark.parametrize(
    ("chip", "told"), [("GB100", "blackwell GB100"), ("GR100", "rubin GR100"), ("GX100", "unknown")]
)
def test_chips_that_are_not_known_in_full(chip: str, told: str) -> None:
    """Blackwell, Rubin and what is newer are genuine, and refused by their name."""
    judge = Judge(ONE)
    device = nvgpu_forge.device(chip, fwid=nvgpu_forge.tcb_info)
    fields = list(ONE.gpus[0].fields)
    fields[[f.type for f in fields].index(devices.FWID)] = Field(devices.FWID, nvgpu_forge.FWID)
    judge.sent = [device.evidence(DIGESTS, fields)]
    judge.policy = None
    judge.options = {"revocation_required": False}
    result = judge()
    (said,) = result.claims["devices"]

    assert result.verdict is Verdict.UNSUPPORTED
    assert [reason.value for reason in result.reasons] == ["gpu_unsupported"]
    assert (said["genuine"], said["chip"], said["verdict"]) == (True, chip, "unsupported")
    assert any(told in check.seen for check in result.checks if check.ok is False)


def test_blackwell_with_a_bad_manifest() -> None:
    """What can be checked of a Blackwell GPU is: a RIM of it that does not hold is told."""
    judge = Judge(ONE)
    device = nvgpu_forge.device("GB100", fwid=nvgpu_forge.tcb_info)
    text = rim.RimText("driver", devices.DRIVER).sign(nvgpu.vendor())
    judge.endorsements = GpuEndorsements(rims=(text.replace(b'"GH100"', b'"GB100"'),))
    judge.sent = [device.evidence(DIGESTS, [f for f in ONE.gpus[0].fields if f.type != 20])]
    judge.policy = AppraisalPolicy(gpu=nvgpu.rules(ONE, require_fwid=False).gpu)
    judge.options = {"revocation_required": False}

    assert set(judge.reasons()) == {"gpu_unsupported", "collateral_signature"}


@pytest.mark.parametrize(
    "blocks",
    [
        DIGESTS[:63],
        (*DIGESTS[:63], Block(64, bytes(48), kind=0x8A)),
        (*DIGESTS[:63], Block(64, bytes(47))),
        (*DIGESTS[:63], Block(65, bytes(48))),
        (DIGESTS[1], DIGESTS[0], *DIGESTS[2:]),
    ],
    ids=["63", "manifest", "47 bytes", "index 65", "out of order"],
)
def test_blocks_of_another_form(blocks: tuple[Block, ...]) -> None:
    """A GPU that reports other blocks than 64 digests in order is not of a form that is known."""
    judge = bent(lambda it: replace(it, blocks=blocks))

    assert "gpu_unsupported" in judge.reasons()


def test_signature_twin() -> None:
    """(r, n - s) is accepted as ECDSA has it, and makes no other device of it, in anything."""
    judge = Judge(ONE)
    good = judge()
    raw = judge.sent[0].report
    s = int.from_bytes(raw[-48:])
    judge.sent = [replace(judge.sent[0], report=raw[:-48] + (ORDER - s).to_bytes(48))]
    twin = judge()

    assert judge.sent[0].report != raw
    assert twin.to_json() == good.to_json()
    assert twin.verdict is Verdict.ACCEPT


def test_certificate_twin() -> None:
    """A leaf whose signature is the twin's is another text, and names the same device."""
    judge = Judge(ONE)
    good = judge()
    chain = list(ONE.gpus[0].identity.chain)
    leaf = x509.load_der_x509_certificate(chain[0])
    r, s = decode_dss_signature(leaf.signature)
    algorithm = certificates.EcdsaSha384Signer(ONE.gpus[0].identity.key).algorithm
    twin = der.bits(encode_dss_signature(r, ORDER - s))
    chain[0] = der.sequence(leaf.tbs_certificate_bytes, algorithm, twin)
    judge.sent = [replace(judge.sent[0], chain=certificates.pem(*chain).encode())]

    assert chain[0] != ONE.gpus[0].identity.chain[0]
    assert judge().to_json() == good.to_json()
