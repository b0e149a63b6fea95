"""Gives the real HSM worker to the tests that drive one."""

from __future__ import annotations

from tests.kit.hsm import hsm_home, prepared_hsm

__all__ = ["hsm_home", "prepared_hsm"]
