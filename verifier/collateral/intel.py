"""Parts from Intel's PCS, or from a PCCS or Azure's cache that speak as it does (API v4).

Guarantees: asks exactly for what the name says and returns it as it came: body, and the issuer
chain of the header that the API names. Believes none of it; `vet` does that.
"""

from __future__ import annotations

import re
from typing import Final, final
from urllib.parse import unquote_to_bytes

from verifier.collateral.parts import Name, Role
from verifier.collateral.vet import MAX_BODY
from verifier.collateral.web import Answer, Web, check_base
from verifier.errors import Reason, VerifierError

PCS: Final = "https://api.trustedservices.intel.com"
ROOT_CRL_URL: Final = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
"""Where Intel's root CRL is, which the PCS itself does not serve."""

_JSON: Final = frozenset({"application/json"})
_CRL: Final = frozenset({"application/pkix-crl", "application/octet-stream"})
_ROOT_CRL: Final = _CRL | {
    # Content servers go by the file's name; a PCCS answers with hexadecimal text.
    "application/x-x509-ca-cert",
    "binary/octet-stream",
    "text/plain",
    "text/html",
}
_HEX: Final = re.compile(rb"(?:[0-9A-Fa-f]{2})+")
_CHAIN_HEADERS: Final = {
    Role.TCB: ("TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain"),
    Role.QE: ("SGX-Enclave-Identity-Issuer-Chain",),
    Role.PCK_CRL: ("SGX-PCK-CRL-Issuer-Chain",),
}


@final
class IntelService:
    """A PCS or PCCS.

    Args:
        web: the client.
        base: base URL, before `/sgx/certification/v4`.
        root_crl: URL of the root CRL; empty for a PCCS's own `rootcacrl`.
    """

    __slots__ = ("_base", "_root_crl", "_web")

    def __init__(self, web: Web, base: str = PCS, root_crl: str = "") -> None:
        self._web = web
        self._base = check_base(base)
        default = (
            ROOT_CRL_URL if self._base == PCS else f"{self._base}/sgx/certification/v4/rootcacrl"
        )
        self._root_crl = check_base(root_crl or default)

    async def fetch(self, name: Name, chain: bytes) -> tuple[bytes, bytes]:
        """Return body and PEM chain of a part of Intel's.

        Args:
            name: what to ask for.
            chain: for the root CRL, the root; else unused.

        Raises:
            VerifierError: as `Web.get`; `collateral_malformed` without an issuer chain.
        """
        if name.role is Role.ROOT_CRL:
            answer = await self._web.get(self._root_crl, types=_ROOT_CRL, limit=MAX_BODY)
            return _from_hex(answer.body), chain
        if name.role is Role.PCK_CRL:
            path, types = f"sgx/certification/v4/pckcrl?ca={name.fields[0]}&encoding=der", _CRL
        elif name.role is Role.TCB:
            tee, fmspc, update = name.fields
            path, types = f"{tee}/certification/v4/tcb?fmspc={fmspc}&update={update}", _JSON
        else:
            tee, update = name.fields
            path, types = f"{tee}/certification/v4/qe/identity?update={update}", _JSON
        answer = await self._web.get(f"{self._base}/{path}", types=types, limit=MAX_BODY)
        return answer.body, _issuer_chain(answer, name)


def _from_hex(body: bytes) -> bytes:
    """Return the DER; a CRL in DER begins with 0x30 and a length, never with two hex digits."""
    text = body.strip()
    return bytes.fromhex(text.decode("ascii")) if _HEX.fullmatch(text) else body


def _issuer_chain(answer: Answer, name: Name) -> bytes:
    headers = _CHAIN_HEADERS[name.role]
    for header in headers:
        value = answer.headers.get(header)
        if value is not None:
            return unquote_to_bytes(value)
    raise VerifierError(Reason.COLLATERAL_MALFORMED, f"{name.text}: no header {headers[0]}")
