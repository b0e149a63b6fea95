"""How `ostiary explain` tells of many devices at once."""

from __future__ import annotations

from verifier.errors import Reason
from verifier.explain import explain, text
from verifier.result import Appraisal


def test_devices_that_fail_alike_are_told_together() -> None:
    """The same check with the same values is one entry with a range; other values are another."""
    appraisal = Appraisal("nvidia")
    for number, seen in ((0, "a"), (2, "a"), (3, "a"), (10, "a"), (1, "b"), (11, "a")):
        appraisal.require(f"gpu[{number}].mode", False, Reason.GPU_MODE, "spt", seen)
    appraisal.require("switch[0]", False, Reason.GPU_MODE, "spt", "a")
    appraisal.require("gpus.mode", False, Reason.GPU_MODE, "spt", "a")
    for number in (1, 0):
        appraisal.not_judged(f"gpu[{number}].driver", "590.12")
    told = text(explain(appraisal.result().to_json()))

    assert (
        "   gpu[0, 2-3, 10-11].mode, switch[0], gpus.mode\n     expected spt\n     seen     a"
        in told
    )
    assert "   gpu[1].mode\n     expected spt\n     seen     b" in told
    assert told.endswith("not judged: gpu[0-1].driver")
    assert told.count("what to do: ") == 1
