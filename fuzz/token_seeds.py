"""Seeds of tokens: results as EAR in both dialects, tokens of Azure Attestation, and key sets."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from verifier.ear import claims, keys, result
from verifier.ear.claims import Basis
from verifier.ear.result import Asked
from verifier.errors import Reason
from verifier.result import Appraisal
from verifier.wire.canonical import Hex, b64encode

_TIME: Final = 1_775_000_000
_MODULUS: Final = b64encode(b"\xc5" + bytes(254) + b"\x01")
"""As long as an RSA key of 2048 bits, and odd; nobody has its factors, nor needs them."""


def make() -> Mapping[str, Sequence[bytes]]:
    """Return the seeds by target."""
    found = Appraisal("tdx", claims={"mr_td": "aa"})
    found.require("TCB level", True, Reason.TCB_NOT_SUPPORTED, "a level", "UpToDate")
    ears = [
        claims.encode(
            result.make(
                found.result(),
                Basis("tdx", *(Hex(bytes(32)) for _ in range(6)), _TIME, simulated=False),
                Asked(dialect, "somebody", bytes(32)),
                issuer="ab" * 32,
                token="seed",  # noqa: S106 - its id
                now=_TIME,
                not_after=_TIME + 60,
            )
        )
        for dialect in ("ietf", "legacy")
    ]
    public = ec.derive_private_key(7, ec.SECP256R1()).public_key()
    return {
        "ear-claims": ears,
        "ear-keys": [keys.to_jwks([public])],
        "ear-result": [found.result().to_json()],
        "jws": [_jws()],
        "maa-claims": [_direct(), _guest()],
        "maa-keys": [
            json.dumps({"keys": [{"kid": "a", "kty": "RSA", "n": _MODULUS, "e": "AQAB"}]}).encode()
        ],
    }


def _jws() -> bytes:
    header = b64encode(b'{"alg":"RS256","kid":"a","typ":"JWT"}')
    return f"{header}.{b64encode(b'{}')}.{b64encode(bytes(8))}".encode()


def _common(kind: str) -> dict[str, object]:
    times = {"iat": _TIME, "nbf": _TIME, "exp": _TIME + 60}
    return {"iss": "https://a.attest.azure.net", "x-ms-attestation-type": kind, **times}


def _direct() -> bytes:
    return json.dumps(
        _common("tdxvm")
        | {
            "tdx_mrtd": "00" * 48,
            "tdx_report_data": "00" * 64,
            "nonce": "n",
            "x-ms-runtime": {
                "keys": [{"kid": "a", "kty": "RSA", "n": _MODULUS, "e": "AQAB"}],
                "vm-configuration": {"secure-boot": True},
            },
        }
    ).encode()


def _guest() -> bytes:
    return json.dumps(
        _common("azurevm")
        | {
            "secureboot": True,
            "x-ms-isolation-tee": {
                "x-ms-attestation-type": "sevsnpvm",
                "x-ms-sevsnpvm-launchmeasurement": "00" * 48,
                "x-ms-runtime": {"vm-configuration": {"secure-boot": True}},
            },
            "x-ms-runtime": {"client-payload": {"nonce": "YQ=="}},
        }
    ).encode()
