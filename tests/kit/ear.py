"""Results and tokens for tests: a key as the HSM has one, and tokens with anything changed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from verifier.ear import claims, keys, result, token
from verifier.ear.claims import Basis, Ear
from verifier.ear.result import Asked
from verifier.errors import Reason
from verifier.result import Appraisal, AttestationResult, TcbStatus
from verifier.wire.canonical import Hex, b64encode

NOW = 1_800_000_000
ISSUER = "ab" * 32
AUDIENCE = "https://relying.example"
NONCE = bytes(range(32))
KEY = ec.derive_private_key(7, ec.SECP256R1())
KID = keys.key_id(KEY.public_key())
KEYS = {KID: KEY.public_key()}
BASIS = Basis(
    kind="tdx",
    genesis=Hex(b"\x01" * 32),
    leaf=Hex(b"\x02" * 32),
    policy=Hex(b"\x03" * 32),
    evidence=Hex(b"\x04" * 32),
    collateral=Hex(b"\x05" * 32),
    result=Hex(b"\x06" * 32),
    evaluated=NOW - 10,
    simulated=False,
)


def accepted(kind: str = "tdx", **changes: Any) -> AttestationResult:
    """Return a result as a good machine gets it."""
    appraisal = Appraisal(kind, claims={"mr_td": "aa" * 48}, tcb_status=TcbStatus.UP_TO_DATE)
    appraisal.require("TCB level", True, Reason.TCB_NOT_SUPPORTED, "a level", "UpToDate")
    appraisal.require("td_attributes.debug", True, Reason.DEBUG_ENABLED, "DEBUG (bit 0) clear", "0")
    appraisal.require("measurements", True, Reason.MEASUREMENT_UNKNOWN, "image", "image")
    appraisal.not_judged("report_data", "00")
    return replace(appraisal.result(), **changes)


def made(dialect: claims.Dialect = "ietf", found: AttestationResult | None = None) -> Ear:
    """Return the content of a token about a result."""
    return result.make(
        accepted() if found is None else found,
        BASIS,
        Asked(dialect, AUDIENCE, NONCE),
        issuer=ISSUER,
        token="c0ffee",
        now=NOW,
        not_after=NOW + 3600,
    )


def sign(part: bytes, key: ec.EllipticCurvePrivateKey = KEY) -> bytes:
    """Return the token of what is to be signed."""
    r, s = decode_dss_signature(key.sign(part, ec.ECDSA(hashes.SHA256())))
    return token.assemble(part, r.to_bytes(32) + s.to_bytes(32))


def forged(payload: bytes, /, **header: Any) -> bytes:
    """Return a well signed token with any payload and header members; None leaves one out."""
    told = {"alg": "ES256", "kid": KID, "typ": "JWT"} | header
    raw = json.dumps({name: value for name, value in told.items() if value is not None})
    return sign(f"{b64encode(raw.encode())}.{b64encode(payload)}".encode())


def verified(raw: bytes, **changes: Any) -> Ear:
    """Verify a token as its relying party does."""
    asked: dict[str, Any] = {"issuer": ISSUER, "audience": AUDIENCE, "nonce": NONCE, "now": NOW}
    return token.verify(raw, KEYS, **asked | changes)
