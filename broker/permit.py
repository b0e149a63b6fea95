"""The permit: a yes that one may hold, hand over once, and not make for oneself.

Guarantees: only `broker.release.flow` mints one, after its leaf is in the log; it is redeemed once;
it cannot be copied or pickled. This guards against our mistakes, not against hostile code in the
broker's process: the HSM worker therefore believes none of it and rebuilds leaf, proof and
checkpoint itself (`broker/hsm`).
"""

from __future__ import annotations

from typing import NoReturn, final

_MINT = object()


@final
class Permit:
    """What the HSM worker needs to open exactly what one logged leaf names.

    `leaf` and `receipt` are the log's, `state_map` the canonical map whose digest the leaf carries,
    `blobs` the wrapped DEKs in the leaf's order, `recipient` the RSA key's SPKI (DER).
    """

    __slots__ = ("_spent", "blobs", "genesis", "leaf", "receipt", "recipient", "state_map")

    def __init__(
        self,
        mint: object,
        *,
        genesis: bytes,
        leaf: bytes,
        receipt: bytes,
        state_map: bytes,
        blobs: tuple[bytes, ...],
        recipient: bytes,
    ) -> None:
        if mint is not _MINT:
            raise TypeError("a permit is minted by the release flow only")
        self.genesis = genesis
        self.leaf = leaf
        self.receipt = receipt
        self.state_map = state_map
        self.blobs = blobs
        self.recipient = recipient
        self._spent = False

    def redeem(self) -> None:
        """Spend it.

        Raises:
            RuntimeError: it was spent before; a mistake of ours, never a caller's.
        """
        if self._spent:
            raise RuntimeError("a permit is redeemed once")
        self._spent = True

    def __copy__(self) -> NoReturn:
        raise TypeError("a permit is not copied")

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise TypeError("a permit is not copied")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a permit is not pickled")
