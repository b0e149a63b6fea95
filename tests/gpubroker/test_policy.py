"""What lint says of rules for GPUs, and a broker at a site that is cut off."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from broker import settings as broker_settings
from ostiary import vendor
from ostiary.simulator.nvidia import devices
from tests.kit import nvgpu
from tests.kit.broker import running
from tests.kit.broker_home import MODEL, Prepared, policy_for
from tests.kit.gpu_broker import Site, site
from verifier.policy import GpuRules
from verifier.wire.canonical import Hex


@pytest.mark.parametrize(
    ("rules", "objection"),
    [
        ({"min_driver": None}, "gpu.min_driver"),
        ({"require_revocation": False}, "gpu.require_revocation"),
        ({"require_fwid": False}, "gpu.require_fwid"),
        ({"allow_hold_rim": True}, "gpu.allow_hold_rim"),
        ({"expired_rims": (Hex(bytes(32)),)}, "gpu.expired_rims"),
        ({"ocsp_grace": 60}, "gpu.ocsp_grace"),
    ],
)
def test_lint(prepared_broker: Prepared, rules: dict[str, Any], objection: str) -> None:
    """Each careless rule has its objection where GPUs are wanted, and none where they are not."""
    draft = policy_for(prepared_broker.tenants["acme"], MODEL, name="x", not_after=2_000_000_000)

    def objections(**changes: Any) -> list[str]:
        gpu = GpuRules(**changes)
        appraisal = msgspec.structs.replace(draft.appraisal, gpu=gpu)
        said = vendor.lint(msgspec.structs.replace(draft, appraisal=appraisal))
        return [line for line in said if line.startswith("gpu.")]

    (found,) = objections(count=1, **({"min_driver": "590.12"} | rules))
    assert found.startswith(objection)
    assert objections(count=1, min_driver="590.12") == []
    assert objections(**rules) == []


def test_a_site_that_is_cut_off(fresh: Prepared) -> None:
    """What is in the store serves without a network; a device that nobody asked about does not."""
    whole = nvgpu.make(2, "mpt")
    with site(fresh) as online:
        online.require(2)
        online.released(online.ask(whole))
        nvidia, server = online.nvidia, online.server
        policies = online.policies
    path = fresh.home / broker_settings.FILE
    path.write_text(path.read_text().replace("collateral_fetch = true", ""))

    with running(fresh) as house:
        offline = Site(house, nvidia, server, policies)
        offline.released(offline.ask(whole))
        other = offline.ask(devices.device_set(nvgpu.vendor(), 2, "mpt"), name="b")
        reasons = offline.refused(other, on="b", why="revocation_missing: gpu[0].revocation.brom")
        assert "rim" not in reasons
        with house.clock.at(house.clock.now + 2 * 86_400):
            offline.refused(offline.ask(whole), "collateral_unavailable", why="nvidia/ocsp/")
