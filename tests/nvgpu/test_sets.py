"""A set is as good as the worst of it, and no more than what was asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ostiary.simulator.nvidia import devices, faults
from ostiary.simulator.nvidia.devices import DeviceSet
from ostiary.simulator.nvidia.services import OLD_DRIVER
from tests.kit import nvgpu
from tests.kit.nvgpu import Judge
from verifier.cache import Cache
from verifier.errors import VerifierError
from verifier.nvgpu import needs
from verifier.nvgpu.device import DeviceEvidence
from verifier.policy import AppraisalPolicy
from verifier.result import Verdict

BOARD = nvgpu.make(8, "ppcie")
FOUR = nvgpu.make(4, "mpt")
CACHE = Cache()


def judge_of(whole: DeviceSet) -> Judge:
    judge = Judge(whole)
    judge.options = {"cache": CACHE}
    return judge


@pytest.mark.parametrize(
    ("count", "mode"), [(1, "spt"), (2, "mpt"), (4, "mpt"), (8, "mpt"), (8, "ppcie")]
)
def test_good_sets(count: int, mode: devices.Mode) -> None:
    """One, two, four and eight GPUs, and the board of eight with its switches, are accepted."""
    result = judge_of(nvgpu.make(count, mode))()

    assert (result.verdict, nvgpu.failed(result)) == (Verdict.ACCEPT, [])
    assert [each["verdict"] for each in result.claims["devices"]] == ["accept"] * (
        count + 4 * (mode == "ppcie")
    )


def test_order_does_not_matter() -> None:
    """A set is judged the same whatever order its devices are sent in."""
    judge = judge_of(BOARD)
    judge.sent.reverse()

    assert judge().verdict is Verdict.ACCEPT


def stripped(sent: list[DeviceEvidence]) -> list[DeviceEvidence]:
    return sent[:7] + sent[8:]


SET_ATTACKS: dict[str, tuple[Callable[[list[DeviceEvidence]], list[DeviceEvidence]], set[str]]] = {
    "empty": (lambda _: [], {"gpu_evidence_missing"}),
    "7 of 8": (stripped, {"gpu_count", "gpu_topology"}),
    "switches only": (lambda sent: sent[8:], {"gpu_count"}),
    "GPUs only": (lambda sent: sent[:8], {"gpu_count", "gpu_topology"}),
    "3 of 4 switches": (lambda sent: sent[:11], {"gpu_count", "gpu_topology"}),
    "one GPU": (lambda sent: sent[:1], {"gpu_count", "gpu_topology"}),
    "one more": (lambda sent: [*sent, sent[0]], {"gpu_count", "gpu_duplicate"}),
    "a GPU twice": (lambda sent: [sent[1], *sent[1:]], {"gpu_duplicate", "gpu_topology"}),
    "a switch twice": (lambda sent: [*sent[:11], sent[8]], {"gpu_duplicate", "gpu_topology"}),
    "4 GPUs, 4 switches": (lambda sent: sent[4:], {"gpu_count", "gpu_topology"}),
}


@pytest.mark.parametrize("attack", SET_ATTACKS)
def test_set_attacks(attack: str) -> None:
    """Devices that are left out, or sent twice, deny the set by name."""
    change, reasons = SET_ATTACKS[attack]
    judge = judge_of(BOARD)
    judge.sent = change(judge.sent)

    assert set(judge.reasons()) == reasons
    assert judge().verdict is Verdict.REJECT


def test_same_device_by_another_report() -> None:
    """A device that answers twice, each time with a fresh report, is still one device."""
    judge = judge_of(FOUR)
    judge.sent[3] = nvgpu.evidence(FOUR.gpus[0])
    result = judge()

    assert [r.value for r in result.reasons] == ["gpu_duplicate"]
    (check,) = [c for c in result.checks if c.ok is False]
    assert "gpu[0]" in check.seen
    assert "gpu[3]" in check.seen


def test_spliced_from_another_board() -> None:
    """A GPU, or a switch, of another board of the very same kind does not close the topology."""
    other = devices.device_set(nvgpu.vendor(), 8, "ppcie")
    for place in (0, 8):
        judge = judge_of(BOARD)
        judge.sent[place] = nvgpu.evidence(other.devices[place])
        judge.options = {"revocation_required": False, "cache": CACHE}
        assert judge.reasons() == ["gpu_topology"]


@pytest.mark.parametrize("place", [0, 5, 7, 8, 11])
def test_one_bad_device_denies_and_is_named(place: int) -> None:
    """A bad signature anywhere denies the set; the result names that device and no other."""
    judge = judge_of(BOARD)
    bad = faults.bad_signature(BOARD.devices[place])
    judge.sent[place] = nvgpu.evidence(bad)
    result = judge()
    name = f"gpu[{place}]" if place < 8 else f"switch[{place - 8}]"

    assert result.verdict is Verdict.REJECT
    assert [each["name"] for each in result.claims["devices"] if each["verdict"] != "accept"] == [
        name
    ]
    assert nvgpu.failed(result) == [f"{name}.genuine", "gpus.topology"]


def test_two_nonces() -> None:
    """Devices that were asked with different nonces are no set, whatever was expected."""
    judge = judge_of(FOUR)
    judge.sent[2] = nvgpu.evidence(FOUR.gpus[2], bytes(32))
    assert judge.reasons() == ["nonce_mismatch", "gpu_set_mixed"]
    judge.nonce = None
    assert judge.reasons() == ["gpu_set_mixed"]


def test_mixed_sets() -> None:
    """GPUs with different drivers, or in different modes, are no set."""
    older = devices.device_set(nvgpu.vendor(), 1, driver=OLD_DRIVER)
    judge = judge_of(FOUR)
    judge.endorsements = replace(
        nvgpu.endorse(FOUR),
        rims=(*nvgpu.endorse(FOUR).rims, *nvgpu.endorse(older).rims),
    )
    judge.options["revocation_required"] = False
    judge.sent[1] = nvgpu.evidence(older.gpus[0])
    result = judge()

    assert nvgpu.failed(result) == ["gpus.driver", "gpus.mode"]
    (check,) = [c for c in result.checks if c.name == "gpus.driver"]
    assert check.seen == f"590.12: gpu[0], gpu[2], gpu[3]; {OLD_DRIVER}: gpu[1]"


def test_switches_beside_other_modes() -> None:
    """Switches prove nothing of GPUs that are not in protected PCIe: such a set is refused."""
    judge = judge_of(nvgpu.make(8, "mpt"))
    judge.sent += [nvgpu.evidence(each) for each in BOARD.switches]
    judge.policy = nvgpu.rules(BOARD)
    judge.options["revocation_required"] = False
    judge.endorsements = nvgpu.endorse(BOARD)

    assert judge.reasons() == ["gpu_topology"]


@pytest.mark.parametrize(
    ("at", "fault"),
    [
        ("gpu", lambda it: faults.open_at_gpu(it, bytes(8))),
        ("gpu", lambda it: faults.with_field(it, devices.DEVICE_PDI, None)),
        ("switch", lambda it: faults.open_at_switch(it, bytes(8))),
        ("switch", lambda it: faults.with_field(it, devices.SWITCH_GPU_PDIS, None)),
        ("switch", faults.unlocked),
        ("switch", lambda it: faults.with_field(it, devices.LOCK_STATUS, None)),
        (
            "switch",
            lambda it: faults.open_at_switch(it, BOARD.gpus[1].identity.pdi),
        ),
    ],
    ids=[
        "GPU names a stranger",
        "GPU names none",
        "switch names a stranger",
        "switch names none",
        "unlocked",
        "lock absent",
        "switch names one twice",
    ],
)
def test_open_topology(at: str, fault: Callable[[devices.Device], devices.Device]) -> None:
    """One end that names another device than those of the set, or no lock, opens it."""
    bend = faults.at_gpu if at == "gpu" else faults.at_switch
    result = judge_of(bend(BOARD, 1, fault))()

    assert nvgpu.failed(result) == ["gpus.topology"]
    assert f"{at}[1]" in next(c.seen for c in result.checks if c.name == "gpus.topology")


def test_counts_are_the_policys() -> None:
    """A good set of another size than the policy asks for is refused; count 0 admits none."""
    judge = judge_of(FOUR)
    for count in (0, 3, 5, 8):
        judge.policy = nvgpu.rules(FOUR, count=count)
        assert judge.reasons() == ["gpu_count"]
    judge.policy = AppraisalPolicy()
    assert judge.reasons() == ["gpu_count"]
    judge.policy = None
    assert judge().verdict is Verdict.ACCEPT
    assert [c.name for c in judge().checks if c.ok is None and "count" in c.name] == ["gpus.count"]


def test_too_many() -> None:
    """A set beyond all machines is refused unread."""
    judge = judge_of(FOUR)
    judge.sent *= 40

    assert judge.reasons() == ["too_large"]


def test_no_device_leans_on_another() -> None:
    """Garbage beside good devices is its own result; the good ones stay what they are."""
    judge = judge_of(FOUR)
    judge.sent[1] = replace(judge.sent[1], report=b"", chain=b"junk")
    judge.sent[2] = replace(judge.sent[2], chain=judge.sent[3].chain)
    result = judge()

    assert [each["verdict"] for each in result.claims["devices"]] == [
        "accept",
        "reject",
        "reject",
        "accept",
    ]
    assert [each["device_id"] is None for each in result.claims["devices"]] == [
        False,
        True,
        True,
        False,
    ]


def test_needs() -> None:
    """A set's needs are each RIM once, and the chains of its genuine devices."""
    sent = judge_of(BOARD).sent
    found = needs.read(sent, now=nvgpu.NOW, anchors=nvgpu.anchors(), cache=CACHE)

    assert len(found.rim_ids) == 3
    assert [len(chain) for chain in found.chains] == [4] * 12
    forged = [replace(sent[0], report=sent[1].report)]
    with pytest.raises(VerifierError, match="not signed"):
        needs.read(forged, now=nvgpu.NOW, anchors=nvgpu.anchors())
