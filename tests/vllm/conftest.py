"""Fixtures of the vLLM suite: the demo model in the layouts that checkpoints come in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ostiary.demo_model import HubLayout, make_hub_folder
from tests.kit import vllm as kit


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Callable[[HubLayout], Path]:
    """Give the demo model in a layout, each made once."""
    made: dict[HubLayout, Path] = {}

    def make(layout: HubLayout) -> Path:
        if layout not in made:
            folder = tmp_path_factory.mktemp("hub") / "plain"
            made[layout] = make_hub_folder(folder, layout=layout, seed=7)
        return made[layout]

    return make


@pytest.fixture(scope="session")
def plain(hub: Callable[[HubLayout], Path]) -> Path:
    """Give the demo model in four shards."""
    return hub(HubLayout())


@pytest.fixture
def sealed(plain: Path, tmp_path: Path) -> kit.Sealed:
    """Give it sealed."""
    return kit.seal(plain, tmp_path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs vLLM where it is not installed, and say how to have it."""
    if kit.installed():
        return
    skip = pytest.mark.skip(reason="vLLM is not installed here; `make vllm-test` installs it")
    for item in items:
        if item.get_closest_marker("vllm") is not None:
            item.add_marker(skip)
