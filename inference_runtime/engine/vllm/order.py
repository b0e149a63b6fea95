"""The first words between the driver and the process that becomes vLLM's server.

Guarantees: the child says that it is hardened before it is told anything; the server's key travels
here and nowhere else. Both ends of the socket were made by the driver.
"""

from __future__ import annotations

from typing import Final, final

import msgspec

EXIT_NOT_HARDENED: Final = 70
EXIT_PROTOCOL: Final = 71
EXIT_NO_PLUGIN: Final = 72

HARDENED: Final = b"hardened"
MAX_ORDER: Final = 64 * 1024


@final
class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to serve with: vLLM's own arguments, which name no secret, and the server's key."""

    arguments: list[str]
    key: str

    def __repr__(self) -> str:
        """Leave the key out."""
        return f"Order({self.arguments!r})"
