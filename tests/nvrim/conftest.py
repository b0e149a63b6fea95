"""Fixtures of NVIDIA's collateral: its simulated services, running, and an empty store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ostiary.simulator.services import Vendors, VendorServer, serving
from tests.kit.collateral import Clock
from tests.kit.nvrim import Place, place_of


@pytest.fixture(scope="module")
def server() -> Iterator[VendorServer]:
    """Give a server that starts once: stopping one takes half a second."""
    with serving(Vendors(Clock())) as running:
        yield running


@pytest.fixture
def place(server: VendorServer, tmp_path: Path) -> Place:
    """Give services as new on that server, and an empty store."""
    return place_of(server, tmp_path / "store")
