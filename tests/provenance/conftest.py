"""Fixtures of the provenance suite: a broker whose policies demand Sigstore bundles."""

from __future__ import annotations

from tests.kit.broker import fresh, prepared_broker

__all__ = ["fresh", "prepared_broker"]
