"""Is a set of devices what it should be: how many, each once, alike, and wired to one another?

Guarantees: a set that lacks a device, has one twice, mixes chips, drivers, modes or nonces is
refused; so is any set in mode ppcie, or with a switch, that is not 8 GPUs and 4 locked switches of
which every switch names exactly these GPUs and every GPU exactly these switches. Judges genuine
devices only: one that is not has denied the set already, and can only be missing here.

In mode ppcie NVLink is not encrypted, so that the switches see what the GPUs do; in no other mode
are there switches to attest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from verifier.errors import Reason
from verifier.nvgpu.device import DeviceKind, Genuine, Told
from verifier.nvgpu.opaque import FieldType
from verifier.policy import GpuRules
from verifier.result import Appraisal

PPCIE_GPUS: Final = 8
PPCIE_SWITCHES: Final = 4
_LOCKED: Final = 1


def judge(appraisal: Appraisal, devices: Sequence[Told], rules: GpuRules | None) -> None:
    """Judge a set, each of whose devices was judged alone; record every check in `appraisal`.

    `rules` None does not say how many devices are expected, and the result says so.
    """
    gpus = [each for each in devices if each.evidence.kind is DeviceKind.GPU]
    switches = [each for each in devices if each.evidence.kind is DeviceKind.SWITCH]
    _counts(appraisal, len(gpus), len(switches), rules)
    _distinct(appraisal, devices)
    _alike(appraisal, "gpus.nonce", devices, lambda _, it: it.report.nonce.hex())
    _alike(appraisal, "gpus.chip", gpus, lambda _, it: it.chain.identity.chip)
    _alike(appraisal, "gpus.driver", gpus, lambda told, _: str(told.driver))
    _alike(appraisal, "gpus.mode", gpus, lambda told, _: str(told.mode))
    if any(each.mode == "ppcie" for each in gpus) or (switches and gpus):
        _ppcie(appraisal, gpus, switches)


def _counts(appraisal: Appraisal, gpus: int, switches: int, rules: GpuRules | None) -> None:
    if rules is None:
        appraisal.not_judged("gpus.count", f"{gpus} GPUs, {switches} switches", "no policy")
        return
    appraisal.require(
        "gpus.count",
        (gpus, switches) == (rules.count, rules.switches),
        Reason.GPU_COUNT,
        f"{rules.count} GPUs, {rules.switches} switches",
        f"{gpus} GPUs, {switches} switches",
    )


def _distinct(appraisal: Appraisal, devices: Sequence[Told]) -> None:
    ids = {
        each.name: each.genuine.chain.identity.device_id
        for each in devices
        if each.genuine is not None
    }
    times = Counter(ids.values())
    twice = [f"{name} is {found.hex()}" for name, found in ids.items() if times[found] > 1]
    appraisal.require(
        "gpus.device_ids",
        not twice,
        Reason.GPU_DUPLICATE,
        "each device once",
        "; ".join(twice) or f"{len(times)} devices",
    )


def _alike(
    appraisal: Appraisal,
    name: str,
    devices: Sequence[Told],
    read: Callable[[Told, Genuine], str],
) -> None:
    """Require one value of all; where there are several, tell who has which."""
    values: dict[str, list[str]] = {}
    for each in devices:
        if each.genuine is not None:
            values.setdefault(read(each, each.genuine), []).append(each.name)
    seen = (
        "; ".join(f"{value}: {', '.join(names)}" for value, names in values.items())
        if len(values) > 1
        else "".join(values)
    )
    appraisal.require(name, len(values) <= 1, Reason.GPU_SET_MIXED, "one of all", seen)


def _ppcie(appraisal: Appraisal, gpus: Sequence[Told], switches: Sequence[Told]) -> None:
    """Close a protected-PCIe set both ways (reference: NVIDIA's HGX H100 boards)."""
    found = {each.name: each.genuine for each in (*gpus, *switches) if each.genuine is not None}
    gpu_pdis = {found[each.name].pdi for each in gpus if each.name in found}
    switch_pdis = {found[each.name].pdi for each in switches if each.name in found}
    wrong = [f"{each.name} is in mode {each.mode}" for each in gpus if each.mode != "ppcie"]
    for each in gpus:
        links = found[each.name].opaque.link_pdis() if each.name in found else None
        if links is None or set(links) != switch_pdis:
            wrong.append(f"{each.name} does not name these switches")
    for each in switches:
        fields = found[each.name].opaque if each.name in found else None
        named = None if fields is None else fields.gpu_pdis()
        if named is None or len(set(named)) != len(named) or set(named) != gpu_pdis:
            wrong.append(f"{each.name} does not name these GPUs")
        if fields is None or fields.number(FieldType.LOCK_STATUS, 2) != _LOCKED:
            wrong.append(f"{each.name} is not locked")
    if (len(gpu_pdis), len(switch_pdis)) != (PPCIE_GPUS, PPCIE_SWITCHES):
        wrong.append(f"{len(gpu_pdis)} GPUs and {len(switch_pdis)} switches")
    appraisal.require(
        "gpus.topology",
        not wrong,
        Reason.GPU_TOPOLOGY,
        f"{PPCIE_GPUS} GPUs and {PPCIE_SWITCHES} locked switches, each naming the others",
        "; ".join(wrong) or "closed both ways",
    )
