"""Simulated vendors for every test suite: made once per session, trusted only through `anchors()`.

`NOW` is the moment that all tests live in. Vendors are cached for the whole session: RSA keys of a
product cost about a second on first use, so ask only for the products that you need.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any, Final

from ostiary.simulator.amd import Chip, FakeAmd, report_of
from ostiary.simulator.intel import FakeIntel
from ostiary.simulator.machine import LaunchRequest, launch_td
from ostiary.simulator.pck import Platform
from ostiary.simulator.quote import TdBody, quote_v4, quote_v5
from ostiary.simulator.snp import Product, report_for
from ostiary.simulator.tpm import FakeTpm
from verifier.anchors import Anchors

NOW: Final = 1_775_000_000
"""2026-03-31T23:33:20Z."""


@functools.cache
def fake_intel() -> FakeIntel:
    """Return the session's Intel."""
    return FakeIntel.create(NOW)


@functools.cache
def platform() -> Platform:
    """Return the session's Intel machine."""
    return fake_intel().platform()


@functools.cache
def _amd() -> FakeAmd:
    return FakeAmd.create(NOW)


def fake_amd(product: Product | None = None) -> FakeAmd:
    """Return the session's AMD; a product makes sure that its certificates exist."""
    if product is not None:
        _amd().certificate(product, "ask")
        _amd().certificate(product, "ark")
    return _amd()


@functools.cache
def chip(product: Product) -> Chip:
    """Return the session's AMD machine of a product."""
    return fake_amd(product).vcek(product)


@functools.cache
def _tpm(name: str) -> FakeTpm:  # noqa: ARG001 - what the cache goes by
    return FakeTpm.create()


def tpm(name: str = "guest") -> FakeTpm:
    """Return one of the session's vTPMs, just started."""
    return _tpm(name)


def anchors(*products: Product) -> Anchors:
    """Return the real roots plus the simulated Intel's, and AMD's for these products."""
    return Anchors().with_simulated(
        intel=[fake_intel().root_pin],
        amd={product: fake_amd(product).root_pin(product) for product in products},
    )


def good_body(report_data: bytes = bytes(64), **overrides: Any) -> TdBody:
    """Return the body of the demo image, launched with a zero MRCONFIGID, with other fields."""
    body = launch_td(LaunchRequest(config=overrides.pop("mr_config_id", bytes(48))))
    return replace(body, report_data=report_data, **overrides)


def good_quote(report_data: bytes = bytes(64), version: int = 4, **overrides: Any) -> bytes:
    """Return a genuine simulated quote over `good_body`, version 4 or 5 (TD 1.5)."""
    body = good_body(report_data, **overrides)
    return quote_v4(platform(), body) if version == 4 else quote_v5(platform(), body)


def good_collateral(now: int = NOW, **overrides: Any) -> dict[str, str]:
    """Return current collateral; overrides as for `FakeIntel.collateral`."""
    return fake_intel().collateral(now, **overrides)


def good_report(product: Product, report_data: bytes = bytes(64), **overrides: Any) -> bytes:
    """Return a genuine simulated SNP report of the session's chip, with other fields."""
    machine = chip(product)
    fields = report_of(machine, report_for(product), report_data=report_data, **overrides)
    return machine.sign(fields)
