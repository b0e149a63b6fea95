"""Fixtures of the door's suite: one running broker, shared."""

from tests.kit.broker import fresh, house, own, prepared_broker
from tests.kit.broker_outside import outside

__all__ = ["fresh", "house", "outside", "own", "prepared_broker"]
