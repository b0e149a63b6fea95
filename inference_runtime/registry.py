"""Sealed files from the broker's registry, read with the live lease's key, by ranges.

Guarantees: nothing about the bytes; `sealed.open` authenticates each of them. Every read carries a
token for that one request, signed by the instance key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final
from urllib.parse import quote

from inference_runtime.client import BrokerClient, lease_token
from inference_runtime.exchange import Anchor, Identity
from verifier.wire.messages import KeyRef

MAX_MANIFEST: Final = 8 << 20


@final
@dataclass(frozen=True, slots=True)
class Registry:
    """One model version at one broker; a `sealed.source.Source`."""

    client: BrokerClient
    identity: Identity
    anchor: Anchor
    lease: str
    model: KeyRef

    def manifest(self) -> bytes:
        """Return the signed manifest, unchecked.

        Raises:
            RuntimeFault: `broker_unavailable`, `broker_refused` or `answer_invalid`.
        """
        return self._read(f"{self._root}/manifest", {}, MAX_MANIFEST)

    def size(self, name: str) -> int:
        """Return the size of a sealed file in bytes.

        Raises:
            RuntimeFault: `broker_unavailable`, `broker_refused` (no such file, or the lease is
                over) or `answer_invalid`.
        """
        path = self._file(name)
        return self.client.size(path, lambda: self._headers("HEAD", path, {}))

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Return up to `length` bytes of a sealed file from `offset` on.

        Raises:
            RuntimeFault: `broker_unavailable`, `broker_refused`, or `answer_invalid` if it sends
                more than was asked for.
        """
        if length == 0:
            return b""
        span = {"range": f"bytes={offset}-{offset + length - 1}"}
        return self._read(self._file(name), span, length)

    @property
    def _root(self) -> str:
        tenant = self.anchor.genesis.tenant
        return f"/v1/tenants/{tenant}/models/{self.model.id}/{self.model.version}"

    def _file(self, name: str) -> str:
        """Return the route of `files/<path>`, the name that a sealed model has for a file."""
        return f"{self._root}/{quote(name)}"

    def _read(self, path: str, extra: Mapping[str, str], limit: int) -> bytes:
        return self.client.read(path, lambda: self._headers("GET", path, extra), limit=limit)

    def _headers(self, method: str, path: str, extra: Mapping[str, str]) -> dict[str, str]:
        broker = bytes(self.anchor.genesis.broker)
        token = lease_token(self.identity, self.lease, broker, method, path)
        return {"authorization": f"Bearer {token}", **extra}
