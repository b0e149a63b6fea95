"""What goes in and what comes out of a bundle's verification.

Guarantees nothing by itself: `bundle` fills `Signed` with what a genuine bundle proves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias, final

from verifier.wire import messages

MAX_BUNDLES: Final = messages.MAX_BUNDLES
MAX_BUNDLE: Final = 1 << 20
"""Largest bundle in bytes."""
MAX_ROOT: Final = 1 << 20
"""Largest trusted root in bytes."""

Digest: TypeAlias = tuple[str, bytes]
"""Hash and value: `("sha256", …)`, `("sha384", …)` or `("sha512", …)`."""
SIZES: Final = {"sha256": 32, "sha384": 48, "sha512": 64}


@final
@dataclass(frozen=True, slots=True)
class Provenance:
    """Sigstore bundles and the trusted root (both JSON) that came with evidence.

    Neither is trusted: bundles are signed, and the root must be one that the policy pins.
    """

    bundles: tuple[bytes, ...]
    trusted_root: bytes


@final
@dataclass(frozen=True, slots=True)
class Signed:
    """What a genuine bundle proves: who signed these digests, and as what.

    `identity` is the certificate's one subject alternative name; `repository` and `ref` are the
    source that a CI's token named, None where it named none; `predicate_type` is None for a plain
    signature over an artefact. `times` are unix seconds, each of them vouched for or harmless.
    """

    identity: str
    issuer: str
    repository: str | None
    ref: str | None
    predicate_type: str | None
    digests: frozenset[Digest]
    times: tuple[int, ...]
