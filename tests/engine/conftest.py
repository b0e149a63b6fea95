from __future__ import annotations

from pathlib import Path

import pytest

from ostiary.demo_model import make_demo_model


@pytest.fixture(scope="session")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model, made once."""
    return make_demo_model(tmp_path_factory.mktemp("demo-model"), seed=1)
