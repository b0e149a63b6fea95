"""Which key state may follow which (NIST SP 800-57 Part 1 Rev. 5, section 7).

Guarantees: nothing leaves `destroyed`, nothing that was compromised becomes usable again, and a
deactivated key is never active again.
"""

from __future__ import annotations

from typing import Final

from broker.errors import BrokerError, Code
from verifier.wire.leaf import KeyState

ALLOWED: Final[dict[KeyState, frozenset[KeyState]]] = {
    KeyState.PRE_ACTIVATION: frozenset({KeyState.ACTIVE, KeyState.COMPROMISED}),
    KeyState.ACTIVE: frozenset({KeyState.SUSPENDED, KeyState.DEACTIVATED, KeyState.COMPROMISED}),
    KeyState.SUSPENDED: frozenset({KeyState.ACTIVE, KeyState.DEACTIVATED, KeyState.COMPROMISED}),
    KeyState.DEACTIVATED: frozenset({KeyState.COMPROMISED}),
    KeyState.COMPROMISED: frozenset(),
    KeyState.DESTROYED: frozenset(),
}
"""What an order may do. Destruction is no order yet: it needs a new KEK (docs/architecture.md)."""


def require(before: KeyState, after: KeyState) -> None:
    """Refuse a step that is not in `ALLOWED`.

    Raises:
        BrokerError: `conflict`, naming what is allowed.
    """
    if after is KeyState.DESTROYED:
        raise BrokerError(
            Code.CONFLICT,
            "destroying a key needs a new KEK version, which this broker cannot make yet; "
            "compromised or deactivated keys are never released either",
        )
    if after not in ALLOWED[before]:
        allowed = ", ".join(sorted(state.value for state in ALLOWED[before])) or "nothing"
        raise BrokerError(
            Code.CONFLICT, f"key is {before.value}; it may become {allowed}, not {after.value}"
        )
