"""The only reader of the environment for what runs on a person's workstation or in the guest."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

EVIDENCE: Final = "OSTIARY_EVIDENCE_DIR"


def evidence_folder() -> Path:
    """Return where recorded real evidence may lie: the setting, or beside the project."""
    return Path(os.environ.get(EVIDENCE, "../shared/evidence"))


def in_terminal() -> bool:
    """Whether a person seems to be watching: no `CI` in the environment."""
    return not os.environ.get("CI")
