"""The key set of an instance of Azure Attestation, from the instance itself.

Guarantees: the set is what the instance serves over TLS at `/certs`, whatever any token says of
where keys are; it is bounded, strict JSON, with one key or more. Nobody signs a key set, so it has
no dates and is no part of the store: fetch it again when a token names a key that it lacks, and
keep it as a file. Who the instance is, a policy says (`maa.issuers`).
"""

from __future__ import annotations

from typing import Final

from verifier.collateral.web import Web, check_base
from verifier.maa.keys import MAX_JWKS, key_ids

_JSON: Final = frozenset({"application/json", "application/jwk-set+json"})


async def fetch(web: Web, instance: str) -> bytes:
    """Return the key set of the instance at a URL, as it stands in `iss`.

    Raises:
        VerifierError: as `Web.get`; `collateral_malformed` for what is no key set.
    """
    answer = await web.get(f"{check_base(instance)}/certs", types=_JSON, limit=MAX_JWKS)
    key_ids(answer.body)
    return answer.body
