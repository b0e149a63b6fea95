"""Fixtures of the collateral suite: the simulated vendors' services, running."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.collateral import Site, site


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Site]:
    """Give running services and an empty store."""
    with site(tmp_path / "store") as running:
        yield running
