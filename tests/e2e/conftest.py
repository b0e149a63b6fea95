"""Fixtures of the end-to-end suite: running brokers, and homes to spoil."""

from tests.kit.broker import fresh, house, own, prepared_broker
from tests.kit.broker_outside import outside

__all__ = ["fresh", "house", "outside", "own", "prepared_broker"]
