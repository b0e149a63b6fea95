"""What a verification costs with 1, 100 and 10,000 reference values in the policy.

A TDX quote with everything else remembered, so that what the policy adds is not hidden: once where
the last of the references fits, once where none does and the refusal tells how the nearest one
differs. The references share their firmware (MRTD and RTMR 0), as those of many kernels do. The
limit is the same verification with one reference: 1x is a cost that does not grow. The index over
the references is made once for each policy, and its making is not in the numbers.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from matplotlib.figure import Figure

from benchmarks import common
from ostiary.simulator.intel import FakeIntel
from ostiary.simulator.quote import TdBody, quote_v4
from verifier.anchors import Anchors
from verifier.appraise import Evidence, appraise
from verifier.cache import Cache
from verifier.policy import AppraisalPolicy, TdxReference
from verifier.result import Verdict
from verifier.tdx import collateral as collaterals
from verifier.wire.canonical import Hex

COUNTS: Final = (1, 100, 10_000)
_FITS: Final = {"the last one fits": Verdict.ACCEPT, "none fits": Verdict.REJECT}
_NOW: Final = 1_775_000_000
_SECONDS: Final = 0.2


class WrongVerdictError(Exception):
    """The verifier did not say what this measurement is about."""


def policy(body: TdBody, count: int, *, fits: bool) -> AppraisalPolicy:
    """Return a policy with `count` references, the last of which is this TD's if `fits`."""

    def rtmr(number: int) -> Hex:
        return Hex(hashlib.sha384(b"kernel %d" % number).digest())

    def reference(number: int) -> TdxReference:
        own = fits and number == count - 1
        return TdxReference(
            f"kernel {number}",
            Hex(body.mr_td),
            Hex(body.rtmr0),
            Hex(body.rtmr1) if own else rtmr(number),
            Hex(body.rtmr2),
        )

    return AppraisalPolicy(reference=tuple(map(reference, range(count))))


def _work(count: int, verdict: Verdict) -> Callable[[], object]:
    intel, body, cache = FakeIntel.create(_NOW), TdBody(), Cache()
    evidence = Evidence("tdx", quote_v4(intel.platform(), body))
    endorsements = collaterals.from_json(json.dumps(intel.collateral(_NOW)).encode())
    anchors = Anchors().with_simulated(intel=[intel.root_pin])
    chosen = policy(body, count, fits=verdict is Verdict.ACCEPT)

    def verify() -> None:
        result = appraise(
            evidence,
            endorsements,
            policy=chosen,
            report_data=None,
            now=_NOW,
            anchors=anchors,
            cache=cache,
        )
        if result.verdict is not verdict:
            raise WrongVerdictError(f"{verdict} expected: {result.reasons}")

    return verify


def rows() -> Sequence[common.Row]:
    """Measure each number of references, where one fits and where none does."""
    return [
        common.measure(
            f"{count:,} references, {name}",
            "1/s",
            ours=functools.partial(common.rate, _work(count, verdict), seconds=_SECONDS),
            limit=functools.partial(common.rate, _work(1, verdict), seconds=_SECONDS),
        )
        for name, verdict in _FITS.items()
        for count in COUNTS
    ]


def draw(rows: Sequence[common.Row], title: str, path: Path) -> bool:
    """Draw the cost of one verification over the number of reference values."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    top = 0.0
    for name in _FITS:
        costs = [1e6 / row.ours for row in rows if row.name.endswith(name)]
        axes.plot(COUNTS, costs, marker="o", label=name)
        top = max(top, *costs)
    axes.set_xscale("log")
    axes.set_ylim(0, 1.3 * top)
    axes.set_xlabel("reference values in the policy")
    axes.set_ylabel("microseconds for one verification")
    axes.set_title(title, loc="left", fontweight="bold")
    axes.grid(color="#dddddd")
    axes.legend(frameon=False, loc="lower left")
    figure.savefig(path, dpi=130)
    return True


if __name__ == "__main__":
    common.main(rows)
