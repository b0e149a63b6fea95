"""Fixtures of the runtime's suite: a guest, a broker in software, a sealed demo model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from inference_runtime.exchange import Identity
from ostiary.demo_model import make_demo_model
from tests.kit.runtime import Served, SoftBroker, served


@pytest.fixture(scope="session")
def guest() -> Identity:
    """Give the keys of one boot."""
    return Identity.generate()


@pytest.fixture(scope="session")
def stranger() -> Identity:
    """Give the keys of another boot."""
    return Identity.generate()


@pytest.fixture
def broker() -> SoftBroker:
    """Give a broker of the test's own."""
    return SoftBroker()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the demo model as it is before it is sealed, made once."""
    folder = tmp_path_factory.mktemp("model") / "plain"
    make_demo_model(folder)
    return folder


@pytest.fixture
def house(broker: SoftBroker, model_folder: Path, tmp_path: Path) -> Iterator[Served]:
    """Give a broker that serves the sealed demo model."""
    broker.seal(model_folder, tmp_path / "sealed")
    with served(broker, tmp_path / "sealed") as found:
        yield found
