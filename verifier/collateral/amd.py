"""Parts from AMD's key distribution service (AMD 57230, chapters 4 and 5).

Guarantees: asks exactly for what the name says, with one request out of the budget for each, since
AMD answers 429 to who asks often. Believes nothing; `vet` does that. AMD gives VLEKs to cloud
providers alone, who hand them to their guests: asking for one works only at a service that the
operator has for it.
"""

from __future__ import annotations

from typing import Final, final

from verifier.collateral.parts import Name, Role
from verifier.collateral.web import Budget, Web, check_base
from verifier.snp import product as products
from verifier.x509 import MAX_CERTIFICATE, MAX_CRL, MAX_PEM

KDS: Final = "https://kdsintf.amd.com"
BURST: Final = 12
PER_MINUTE: Final = 6.0

_DER: Final = frozenset(
    {"application/octet-stream", "application/pkix-cert", "application/x-x509-ca-cert"}
)
_CRL: Final = frozenset({"application/octet-stream", "application/pkix-crl"})
_PEM: Final = frozenset(
    {
        "application/octet-stream",
        "application/pem-certificate-chain",
        "application/x-pem-file",
        "text/plain",
    }
)
_SPL: Final = {
    "fmc": "fmcSPL",
    "bootloader": "blSPL",
    "tee": "teeSPL",
    "snp": "snpSPL",
    "microcode": "ucodeSPL",
}
"""Query parameter of each part of a TCB."""


@final
class AmdService:
    """A KDS.

    Args:
        web: the client.
        base: base URL, before `/vcek/v1`.
        budget: requests that may be sent.
    """

    __slots__ = ("_base", "_budget", "_web")

    def __init__(self, web: Web, base: str = KDS, budget: Budget | None = None) -> None:
        self._web = web
        self._base = check_base(base)
        self._budget = budget or Budget(BURST, PER_MINUTE)

    async def fetch(self, name: Name, chain: bytes) -> tuple[bytes, bytes]:
        """Return body and PEM chain of a part of AMD's.

        Args:
            name: what to ask for.
            chain: for a CRL, the ARK; for a VCEK or VLEK, ASK or ASVK and ARK; else unused.

        Raises:
            VerifierError: as `Web.get`; `malformed` for a TCB that the product cannot have.
        """
        product = name.fields[0]
        if name.role is Role.AMD_CHAIN:
            path, types, limit = f"{name.fields[1]}/v1/{product}/cert_chain", _PEM, MAX_PEM
        elif name.role is Role.AMD_CRL:
            path, types, limit = f"{name.fields[1]}/v1/{product}/crl", _CRL, MAX_CRL
        else:
            path, types, limit = vek_path(name), _DER, MAX_CERTIFICATE
        answer = await self._web.get(
            f"{self._base}/{path}", types=types, limit=limit, budget=self._budget
        )
        return answer.body, answer.body if name.role is Role.AMD_CHAIN else chain


def vek_path(name: Name) -> str:
    """Return path and query of a VCEK or VLEK: the chip's id and each part of the TCB.

    Turin's chip id has 8 bytes, and its TCB an FMC (AMD 57230, VCEK requests).

    Raises:
        VerifierError: `malformed` for a TCB that the product cannot have.
    """
    product = name.fields[0]
    generation = products.from_name(product)
    parts = generation.decode_tcb(bytes.fromhex(name.fields[-1]), name.text)
    query = "&".join(f"{_SPL[part]}={svn}" for part, svn in parts.items())
    if name.role is Role.VLEK:
        return f"vlek/v1/{product}/cert?{query}"
    return f"vcek/v1/{product}/{name.fields[1][: 2 * generation.hwid_size]}?{query}"
