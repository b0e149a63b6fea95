"""NVIDIA's remote attestation service (NRAS), asked for a second opinion. Off unless it is set up.

Guarantees: sends reports and chains as they came, with our nonce, and returns the answer as it
came; keys are fetched again for a key id that is not known, but no sooner than a minute after the
last time. `verifier.nvgpu.nras` checks all of it. NVIDIA sees the evidence, and its terms apply.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from typing import Final, final

from verifier.collateral.flight import Flights
from verifier.collateral.nvidia import authorization
from verifier.collateral.web import Budget, Web, check_base
from verifier.nvgpu import nras
from verifier.nvgpu.nras import Devices, Keys

NRAS: Final = nras.ISSUER
KEYS_AGAIN_S: Final = 60.0
_CLAIMS: Final = "3.0"
_JSON: Final = frozenset({"application/json"})
_KEYS: Final = frozenset({"application/json", "application/jwk-set+json"})
_BURST: Final = 16
_PER_MINUTE: Final = 30.0


@final
class NrasClient:
    """The service, and the keys that it was last seen with. Close it with `aclose`.

    Args:
        web: the client.
        base: base URL, before `/v3/attest`.
        key: a service key of NVIDIA's, or empty.
        budget: requests that may be sent.
    """

    __slots__ = ("_base", "_budget", "_fetched", "_flights", "_headers", "_keys", "_web")

    def __init__(
        self, web: Web, base: str = NRAS, *, key: str = "", budget: Budget | None = None
    ) -> None:
        self._web = web
        self._base = check_base(base)
        self._headers = authorization(key)
        self._budget = budget or Budget(_BURST, _PER_MINUTE)
        self._flights: Flights[Keys] = Flights(0.0)
        self._keys = Keys({})
        self._fetched: float | None = None

    async def aclose(self) -> None:
        """End what is being fetched."""
        await self._flights.aclose()

    async def ask(
        self,
        evidence: Sequence[tuple[bytes, bytes]],
        *,
        nonce: bytes,
        arch: str,
        devices: Devices = "gpu",
    ) -> tuple[bytes, Keys]:
        """Return NRAS's answer about these devices, and the keys to check it with.

        Args:
            evidence: report and chain (PEM) of each device; one kind, in the order of the answer.
            nonce: the one in the reports, 32 bytes.
            arch: as NRAS calls it: HOPPER, BLACKWELL, LS10.
            devices: what they are.

        Raises:
            VerifierError: as `Web.get`; `malformed` for an answer that names no keys.
        """
        question = {
            "nonce": nonce.hex(),
            "arch": arch,
            "evidence_list": [
                {"evidence": _base64(report), "certificate": _base64(chain)}
                for report, chain in evidence
            ],
            "claims_version": _CLAIMS,
        }
        answer = await self._web.get(
            f"{self._base}/v3/attest/{devices}",
            types=_JSON,
            limit=nras.MAX_ANSWER,
            headers=self._headers | {"content-type": "application/json"},
            budget=self._budget,
            content=json.dumps(question).encode(),
        )
        return answer.body, await self.keys(nras.key_ids(answer.body))

    async def keys(self, wanted: frozenset[str]) -> Keys:
        """Return the keys, fetched again if one of these is not among them.

        Raises:
            VerifierError: as `Web.get`; `collateral_malformed`.
        """
        now = asyncio.get_running_loop().time()
        again = self._fetched is None or now - self._fetched >= KEYS_AGAIN_S
        if again and not wanted <= self._keys.by_id.keys():
            self._keys = await self._flights.run("jwks", self._fetch)
        return self._keys

    async def _fetch(self) -> Keys:
        self._fetched = asyncio.get_running_loop().time()
        answer = await self._web.get(
            f"{self._base}/.well-known/jwks.json",
            types=_KEYS,
            limit=nras.MAX_JWKS,
            budget=self._budget,
        )
        return nras.load_keys(answer.body)


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
