"""Fixtures of the GPU suites: a broker with NVIDIA's simulated services, shared or one's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kit.broker import fresh, prepared_broker
from tests.kit.broker_home import Prepared
from tests.kit.gpu_broker import Site, site

__all__ = ["fresh", "prepared_broker"]


@pytest.fixture(scope="module")
def shared(prepared_broker: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Give a site that a suite shares; every test says first which GPUs the policy wants."""
    with site(prepared_broker.copied(tmp_path_factory.mktemp("gpus") / "home")) as found:
        yield found


@pytest.fixture
def own(fresh: Prepared) -> Iterator[Site]:
    """Give a site of the test's own, to spoil."""
    with site(fresh) as found:
        yield found
