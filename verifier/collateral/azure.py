"""VCEKs from Azure's Trusted Hardware Identity Management (THIM), in both of its forms.

`ThimCache` is the cache that anyone can ask for any chip in Azure; `ThimGuest` is the metadata
service inside a confidential VM, which knows the chip that this VM runs on and no other.
Guarantees: both give VCEKs only. That a certificate is for the chip and the TCB that were asked for
`vet` finds out; `ThimGuest` refuses another TCB by name before. For Intel's parts Azure's cache
speaks as the PCS does: set it as the PCS.
"""

from __future__ import annotations

from typing import Any, Final, final

from verifier import x509
from verifier.collateral.parts import Name, Role
from verifier.collateral.web import Web, check_base
from verifier.errors import Reason, VerifierError
from verifier.tdx.vendor_json import loads
from verifier.x509 import MAX_PEM

CACHE: Final = "https://global.acccache.azure.net"
GUEST: Final = "http://169.254.169.254"
_API_VERSION: Final = "2020-10-15-preview"
_CHAIN: Final = 3
_PEM: Final = frozenset(
    {
        "application/octet-stream",
        "application/pem-certificate-chain",
        "application/x-pem-file",
        "text/plain",
    }
)
_JSON: Final = frozenset({"application/json"})
_TCB_SIZE: Final = 8


def _tcb_number(name: Name) -> int:
    """Return REPORTED_TCB as the number that it is in a report, little-endian."""
    return int.from_bytes(bytes.fromhex(name.fields[-1]), "little")


def _only_vcek(name: Name) -> None:
    if name.role is not Role.VCEK:
        raise VerifierError(Reason.COLLATERAL_MISSING, f"{name.text}: THIM has VCEKs only")


@final
class ThimCache:
    """Azure's cache of VCEKs, by chip and TCB."""

    __slots__ = ("_base", "_web")

    def __init__(self, web: Web, base: str = CACHE) -> None:
        self._web = web
        self._base = check_base(base)

    async def fetch(self, name: Name, chain: bytes) -> tuple[bytes, bytes]:
        """Return a VCEK and `chain`: the service's own chain is not needed.

        Raises:
            VerifierError: as `Web.get`; `collateral_missing` for what is no VCEK.
        """
        _only_vcek(name)
        answer = await self._web.get(
            f"{self._base}/SevSnpVM/certificates/{name.fields[1]}/{_tcb_number(name):x}"
            f"?api-version={_API_VERSION}",
            types=_PEM,
            limit=MAX_PEM,
        )
        return _leaf(answer.body, name), chain


@final
class ThimGuest:
    """The metadata service of an Azure VM, for the VCEK of its own chip."""

    __slots__ = ("_base", "_web")

    def __init__(self, web: Web, base: str = GUEST) -> None:
        self._web = web
        self._base = check_base(base)

    async def fetch(self, name: Name, chain: bytes) -> tuple[bytes, bytes]:
        """Return this VM's VCEK and `chain`.

        Raises:
            VerifierError: as `Web.get`; `collateral_missing` for what is no VCEK or another TCB.
        """
        _only_vcek(name)
        answer = await self._web.get(
            f"{self._base}/metadata/THIM/amd/certification",
            types=_JSON,
            limit=2 * MAX_PEM,
            headers={"Metadata": "true"},
        )
        try:
            text = answer.body.decode()
        except UnicodeDecodeError as error:
            raise VerifierError(
                Reason.COLLATERAL_MALFORMED, f"{name.text}: THIM: {error}"
            ) from error
        document = loads(text, "THIM")
        seen = _string(document, "tcbm")
        if seen.lower() != f"{_tcb_number(name):0{2 * _TCB_SIZE}x}":
            raise VerifierError(
                Reason.COLLATERAL_MISSING, f"{name.text}: THIM has TCB {seen[:80]!r} of its own VM"
            )
        return _leaf(_string(document, "vcekCert").encode(), name), chain


def _string(document: dict[str, Any], member: str) -> str:
    value = document.get(member)
    if not isinstance(value, str):
        raise VerifierError(Reason.COLLATERAL_MALFORMED, f"THIM: {member}: a string expected")
    return value


def _leaf(pem: bytes, name: Name) -> bytes:
    """Return the DER of the first certificate."""
    blocks = x509.split_pem(pem, f"{name.text}: THIM", limit=_CHAIN)
    if not blocks:
        raise VerifierError(Reason.COLLATERAL_MALFORMED, f"{name.text}: THIM: no certificate")
    return blocks[0]
