"""Dates as the verifier counts and prints them: unix seconds, UTC."""

from __future__ import annotations

from datetime import UTC, datetime


def unix(moment: datetime) -> int:
    """Return an aware date and time in unix seconds."""
    return int(moment.timestamp())


def rfc3339(seconds: int) -> str:
    """Return unix seconds as a UTC date and time, as vendors print them."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
