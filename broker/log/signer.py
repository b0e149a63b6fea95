"""What the log needs of the HSM worker, and how the worker's refusals sound in the broker's words.

Guarantees: `in_our_words` leaves no `HsmError` untranslated. `broker.hsm.client.HsmClient` is the
`Signer` in use.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from broker.errors import BrokerError, Code
from broker.hsm.errors import HsmError, HsmReason
from broker.hsm.protocol import Begun, Head, Imported


class Signer(Protocol):
    """Keeps the head of every tree outside the database and signs only what extends it."""

    async def extend(self, g: bytes, start: int, leaves: tuple[bytes, ...]) -> bytes:
        """Append leaves at `start`, and return the signed checkpoint; raises `HsmError`."""

    async def head(self, g: bytes) -> Head:
        """Return the head as the worker has it; raises `HsmError`."""


class Hsm(Signer, Protocol):
    """What tenants and keys need of the worker besides; all of it raises `HsmError`."""

    async def begin_tenant(self, tenant: str) -> Begun:
        """Make, or give again, the log key and tree id of a tenant to be."""

    async def enrol_tenant(self, genesis_envelope: bytes) -> None:
        """Take in the tenant's signed genesis; the same one again changes nothing."""

    async def create_import_key(self, g: bytes) -> bytes:
        """Make a pair that DEKs are wrapped to, and return its SPKI (DER)."""

    async def destroy_import_key(self, g: bytes, spki_sha256: bytes) -> None:
        """Destroy such a pair."""

    async def import_key(self, g: bytes, statement_envelope: bytes, ciphertext: bytes) -> Imported:
        """Unwrap a DEK and wrap it under the KEK, inside the token."""


_CODES: Final = {
    HsmReason.UNAVAILABLE: Code.HSM_UNAVAILABLE,
    HsmReason.TOKEN_MISSING: Code.HSM_UNAVAILABLE,
    HsmReason.STATE_MISSING: Code.HSM_UNAVAILABLE,
    HsmReason.WRONG_MODE: Code.HSM_UNAVAILABLE,
    HsmReason.SELF_TEST: Code.HSM_UNAVAILABLE,
    HsmReason.REFUSED: Code.HSM_REFUSED,
    HsmReason.MALFORMED: Code.HSM_REFUSED,
    HsmReason.UNSUPPORTED: Code.HSM_REFUSED,
    HsmReason.HEAD_MISMATCH: Code.LOG_UNAVAILABLE,
    HsmReason.PERMIT_SPENT: Code.PERMIT_SPENT,
    HsmReason.STATE_MOVED: Code.STATE_MOVED,
    HsmReason.NOT_FOUND: Code.NOT_FOUND,
    HsmReason.EXISTS: Code.CONFLICT,
}


@contextmanager
def in_our_words() -> Iterator[None]:
    """Turn an `HsmError` inside the block into a `BrokerError`. Neither names a secret."""
    try:
        yield
    except HsmError as error:
        code = _CODES.get(error.reason, Code.HSM_REFUSED)
        raise BrokerError(code, f"HSM worker: {error.detail}") from error
