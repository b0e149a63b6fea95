"""Where the recorded evidence is; tests that need it are skipped loudly without."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit.corpus import ABSENT, EVIDENCE


@pytest.fixture
def evidence_dir() -> Path:
    """Return the folder of the evidence corpus."""
    if not EVIDENCE.is_dir():
        pytest.skip(ABSENT)
    return EVIDENCE
