"""Which parts a set of GPUs and switches needs, and how its endorsements are put together.

Guarantees: each part is asked for once, however many devices need it: an HGX board of 8 GPUs needs
two RIMs and at most 16 OCSP answers. Device chains must end in a pinned root before anybody is
asked about them. A part that nobody has is left out, and a RIM whose signer has ended is handed on:
the appraisal refuses both, by name. Where OCSP cannot be asked about a CA, its issuer's CRL is; a
service that cannot be reached is an error, never a part left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

from cryptography import x509 as c_x509
from cryptography.hazmat.primitives.serialization import Encoding

from verifier.collateral import parts
from verifier.collateral.parts import Name, Part
from verifier.collateral.sources import Stored
from verifier.collateral.vet_nvidia import check_chain, ocsp_digest, spki_digest
from verifier.errors import Reason, VerifierError
from verifier.nvgpu import crl, rim
from verifier.nvgpu.endorsements import GpuEndorsements
from verifier.nvgpu.needs import Needs

Chain = tuple[c_x509.Certificate, ...]
"""Certificates from one that can be revoked up to its root."""


@final
@dataclass(frozen=True, slots=True)
class FoundGpus:
    """Endorsements of a set, the parts that they are made of, and what a log names them by."""

    endorsements: GpuEndorsements
    parts: tuple[Part, ...]

    @property
    def digest(self) -> bytes:
        """SHA-256 over the exact bytes of the endorsements."""
        return self.endorsements.digest

    @property
    def raw(self) -> bytes:
        """The bytes that can be stored and replayed."""
        return self.endorsements.to_bytes()


async def gather(stored: Stored, needs: Needs, *, revocation: bool = True) -> FoundGpus:
    """Return the endorsements of a set of devices, from the store or from NVIDIA's services.

    Args:
        stored: the store, and whom to ask.
        needs: of the set (`verifier.nvgpu.needs`).
        revocation: whether to ask for OCSP answers.

    Raises:
        VerifierError: `collateral_unavailable` and what else `Stored.part` raises, but not
            `collateral_missing`; `chain_invalid`, `root_unknown` for a device's chain.
    """
    for chain in dict.fromkeys(needs.chains):
        check_chain(chain, stored.anchors, "device chain")
    names = [parts.nv_rim(rim_id) for rim_id in dict.fromkeys(needs.rim_ids)]
    rims = await asyncio.gather(*(_or_none(stored.part(name)) for name in names))
    signers = [rim.read(part.body)[0].certificates for part in rims if part is not None]
    asked = subjects((*needs.chains, *signers)) if revocation else {}
    answers = await asyncio.gather(
        *(_or_none(_revocation(stored, name, chain)) for name, chain in asked.items())
    )
    each = tuple(dict.fromkeys(part for part in (*rims, *answers) if part is not None))
    endorsements = GpuEndorsements(
        rims=_bodies(each, parts.Role.NV_RIM),
        ocsp=_bodies(each, parts.Role.NV_OCSP),
        crls=_bodies(each, parts.Role.NV_CRL),
    )
    return FoundGpus(endorsements, each)


def subjects(chains: Iterable[Chain]) -> dict[Name, Chain]:
    """Return what must not be revoked, each once: every certificate of these chains but roots."""
    found: dict[Name, Chain] = {}
    for chain in chains:
        for place in range(len(chain) - 1):
            name = parts.nv_ocsp(ocsp_digest(chain[place], chain[place + 1]))
            found.setdefault(name, chain[place:])
    return found


def pem_of(chain: Sequence[c_x509.Certificate]) -> bytes:
    """Return certificates as PEM."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)


async def _or_none(call: Awaitable[Part]) -> Part | None:
    """Return the part, or None if nobody has it."""
    try:
        return await call
    except VerifierError as error:
        if error.reason is Reason.COLLATERAL_MISSING:
            return None
        raise


async def _revocation(stored: Stored, name: Name, chain: Chain) -> Part:
    """Return the OCSP answer about the first certificate of a chain, or its issuer's CRL."""
    pem = partial(pem_of, chain)
    try:
        return await stored.part(name, pem)
    except VerifierError as error:
        if not crl.is_published_for(chain[0]):
            raise
        failed = error
    try:
        return await stored.part(parts.nv_crl(spki_digest(chain[1])), pem)
    except VerifierError as error:
        raise failed from error  # what became of the question to OCSP is the better clue


def _bodies(each: Iterable[Part], role: parts.Role) -> tuple[bytes, ...]:
    return tuple(dict.fromkeys(part.body for part in each if part.name.role is role))
