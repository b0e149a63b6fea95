"""What a broker asks in room 3: its folder, then its store, then the vendors.

Guarantees: `Gathering.find` returns endorsements of which every part is current by the clock it was
given, or leaves the judgement to the appraisal where there is nothing else to ask; a part past its
own dates is fetched again, and where that fails there is an error, never the old part. A part that
is current but old is fetched again beside the road, so that a revocation is known within a day.
Does not judge the evidence.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal, Protocol, cast, final

from verifier import x509
from verifier.anchors import Anchors
from verifier.cache import Cache
from verifier.collateral import Found, LocalSource, parts, platform
from verifier.collateral.flight import Flights
from verifier.collateral.parts import Name, Part, Role, Update
from verifier.collateral.platform import AmdPlatform, IntelPlatform
from verifier.collateral.store import Store
from verifier.collateral.vet import vet
from verifier.errors import Reason, VerifierError
from verifier.snp import SnpEndorsements
from verifier.snp.report import SnpReport
from verifier.tdx import identity, quote, tcbinfo
from verifier.tdx.windows import Window, Windows, of_certificate, of_crl, of_document

Clock = Callable[[], int]

REFRESH_S: Final = 86_400
"""A current document or list older than this is fetched again, beside the road."""
REMEMBER_S: Final = 30.0
"""A failed fetch is told again for so long."""
RETRY_ENDED_S: Final = 3600
"""A RIM whose signer has ended is asked for again after so long: NVIDIA signs them anew."""
_CHANGING: Final = {
    *(Role.TCB, Role.QE, Role.PCK_CRL, Role.ROOT_CRL, Role.AMD_CRL),
    *(Role.NV_RIM, Role.NV_OCSP, Role.NV_CRL),
}
"""What a vendor says anew before it ends; a certificate stays what it is."""


class Service(Protocol):
    """A vendor's service, or one that speaks as it does."""

    async def fetch(self, name: Name, chain: bytes) -> tuple[bytes, bytes]:
        """Return body and PEM chain of a part; `chain` is what the service does not send along.

        Raises:
            VerifierError: `collateral_missing`, `collateral_unavailable`, `collateral_malformed`,
                `too_large`.
        """
        ...


@final
@dataclass(frozen=True, slots=True)
class Services:
    """Whom to ask: for Intel's parts, AMD's, VCEKs before AMD is asked, and NVIDIA's."""

    intel: Service | None = None
    amd: Service | None = None
    thim: tuple[Service, ...] = ()
    nvidia: Service | None = None

    def of(self, name: Name) -> tuple[Service, ...]:
        """Return the services that may have a part, in the order to ask them."""
        if name.text.startswith("intel/"):
            return () if self.intel is None else (self.intel,)
        if name.text.startswith("nvidia/"):
            return () if self.nvidia is None else (self.nvidia,)
        amd = () if self.amd is None else (self.amd,)
        return (*self.thim, *amd) if name.role is Role.VCEK else amd


@final
@dataclass(slots=True)
class Stored:
    """The store, filled from the vendors' services as far as there are any.

    Args:
        store: what is kept.
        services: whom to ask for the rest; none at a site that is cut off.
        anchors: the roots that parts must chain to.
        clock: unix seconds.
        update: which of Intel's two sets.
        cache: shared with the appraisal.
        refresh_s: age in seconds at which a current part is fetched again.
        remember_s: seconds for which a failure is told again.
        force: fetch what is current, too.
    """

    store: Store
    services: Services
    anchors: Anchors
    clock: Clock
    update: Update = "standard"
    cache: Cache = field(default_factory=Cache)
    refresh_s: int = REFRESH_S
    remember_s: float = REMEMBER_S
    force: bool = False
    _flights: Flights[Part] = field(init=False)

    def __post_init__(self) -> None:
        self._flights = Flights(self.remember_s)

    async def aclose(self) -> None:
        """End what is being fetched."""
        await self._flights.aclose()

    async def find(self, kind: Literal["tdx", "snp"], cpu: bytes, handed_over: bytes) -> Found:
        """Return the endorsements of this evidence's platform, all current now.

        Raises:
            VerifierError: as `part`, or the reason why the evidence cannot be read.
        """
        if kind == "tdx":
            read = quote.parse(cpu)
            return await self.intel(platform.of_quote(read, "tdx", self.anchors, self.cache))
        return await self.amd(platform.of_report(SnpReport.parse(cpu), handed_over))

    async def intel(self, machine: IntelPlatform) -> Found:
        """Return Intel's endorsements of a platform.

        Raises:
            VerifierError: as `part`.
        """
        tcb, qe, pck_crl, root_crl = each = await self.intel_parts(machine)
        return self.cache.recall(
            Found, _digest(*each), lambda: platform.tdx_endorsements(tcb, qe, pck_crl, root_crl)
        )

    async def intel_parts(self, machine: IntelPlatform) -> tuple[Part, Part, Part, Part]:
        """Return TCB info, QE identity, PCK CRL and root CRL.

        Raises:
            VerifierError: as `part`.
        """
        names = machine.documents(self.update)
        ready = tuple(map(self._ready, names))
        if None in ready:
            ready = tuple(await asyncio.gather(*map(self.part, names)))
        tcb, qe, pck_crl = cast("tuple[Part, Part, Part]", ready)
        root_crl = await self.part(parts.ROOT_CRL, lambda: platform.last_of(pck_crl.chain))
        return tcb, qe, pck_crl, root_crl

    async def amd(self, machine: AmdPlatform) -> Found:
        """Return AMD's endorsements of a platform.

        Raises:
            VerifierError: as `part`; `collateral_missing` for a hidden chip.
        """
        chain, crl = await self.amd_parts(machine)
        vek = machine.vek or (await self.vek(machine, chain)).body
        digest = hashlib.sha256(_digest(chain, crl) + vek).digest()
        return self.cache.recall(Found, digest, lambda: platform.snp_endorsements(vek, chain, crl))

    async def amd_parts(self, machine: AmdPlatform) -> tuple[Part, Part]:
        """Return a product's chain and CRL.

        Raises:
            VerifierError: as `part`.
        """
        chain = await self.part(parts.amd_chain(machine.product, machine.kind))
        ark = partial(platform.last_of, chain.body)
        return chain, await self.part(parts.amd_crl(machine.product, machine.kind), ark)

    async def vek(self, machine: AmdPlatform, chain: Part) -> Part:
        """Return the VCEK or VLEK of a machine, whose product's chain is given.

        Raises:
            VerifierError: as `part`; `collateral_missing` for a hidden chip.
        """
        return await self.part(machine.vek_name(), lambda: chain.body)

    async def part(self, name: Name, chain: Callable[[], bytes] = bytes) -> Part:
        """Return a part that is current now, from the store or from a service.

        Args:
            name: which.
            chain: gives the PEM chain, where the services do not send it along.

        Raises:
            VerifierError: `collateral_expired` if what is kept is past its dates and there is no
                other; `collateral_missing` if nobody has it; `collateral_unavailable` for
                everything else, saying what.
        """
        ready = self._ready(name, chain)
        if ready is not None:
            return ready
        held, damage = self._held(name)
        now = self.clock()
        try:
            return await self._flights.run(name.text, partial(self._fetch, name, chain))
        except VerifierError as error:
            if held is not None and not held.is_current(now):
                if held.may_serve(now) and not self.force:
                    return held  # a RIM whose signer has ended: the appraisal's to refuse
                raise _past(held, now, error) from error
            if error.reason is Reason.COLLATERAL_MISSING and damage is None:
                raise
            raise _unavailable(error, damage) from error

    def _ready(self, name: Name, chain: Callable[[], bytes] = bytes) -> Part | None:
        """Return what is kept if it may be used now; see that an old one is fetched again."""
        held, _ = self._held(name)
        now = self.clock()
        if held is None or self.force or not held.may_serve(now):
            return None
        if not held.is_current(now) and now - held.fetched > RETRY_ENDED_S:
            return None
        old = name.role in _CHANGING and now - held.fetched > self.refresh_s
        if old and self.services.of(name):
            self._flights.start(name.text, partial(self._fetch, name, chain))
        return held

    def _held(self, name: Name) -> tuple[Part | None, VerifierError | None]:
        """Return what is kept; what is damaged counts as not there, and is told if none has it."""
        try:
            return self.store.get(name), None
        except VerifierError as error:
            return None, error

    async def _fetch(self, name: Name, chain: Callable[[], bytes]) -> Part:
        """Ask the services in their order; vet and keep what the first one has."""
        failed = VerifierError(
            Reason.COLLATERAL_MISSING, f"{name.text}: not in the store, and nobody to ask"
        )
        for service in self.services.of(name):
            try:
                body, signers = await service.fetch(name, chain())
                now = self.clock()
                part = vet(name, body, signers, self.anchors, fetched=now)
                part.check(now)
            except VerifierError as error:
                failed = error
                continue
            self.store.put(part)
            return part
        raise failed


def _past(held: Part, now: int, error: VerifierError) -> VerifierError:
    window = next(w for w in held.windows.each if not w.start <= now <= w.end)
    late = now > window.end
    return VerifierError(
        Reason.COLLATERAL_EXPIRED if late else Reason.COLLATERAL_UNAVAILABLE,
        f"{window.what}: from {x509.rfc3339(window.start)} to {x509.rfc3339(window.end)}, now "
        f"{x509.rfc3339(now)}; no other: {error.reason.value}: {error}",
    )


def _unavailable(error: VerifierError, damage: VerifierError | None) -> VerifierError:
    told = f"{error.reason.value}: {error}"
    if damage is not None:
        told = f"{damage.reason.value}: {damage}; no other: {told}"
    return VerifierError(Reason.COLLATERAL_UNAVAILABLE, told)


def _digest(*each: Part) -> bytes:
    return hashlib.sha256(b"".join(part.digest for part in each)).digest()


@final
@dataclass(frozen=True, slots=True)
class Gathering:
    """First what an operator put into a folder, then the store and the vendors."""

    folder: LocalSource
    stored: Stored
    clock: Clock
    cache: Cache

    async def find(self, kind: Literal["tdx", "snp"], cpu: bytes, handed_over: bytes) -> Found:
        """Return the endorsements of this evidence's platform.

        What the folder has is taken if all of it is current. If not, and nobody has better, then it
        is returned where this broker fetches nothing: the appraisal refuses it by name.

        Raises:
            VerifierError: as `Stored.find`.
        """
        found: Found | None = None
        try:
            found = self.folder.find(kind, cpu, handed_over)
            dates_of(found, self.cache).check(self.clock())
            return found
        except VerifierError as error:
            first = error
        try:
            return await self.stored.find(kind, cpu, handed_over)
        except VerifierError as error:
            if error.reason is not Reason.COLLATERAL_MISSING:
                raise
            if found is not None:
                return found
            raise VerifierError(error.reason, f"{first}; {error}") from error


def dates_of(found: Found, cache: Cache) -> Windows:
    """Return the dates of everything in endorsements whose signatures nobody checked.

    Raises:
        VerifierError: something in it is missing or cannot be read.
    """
    digest = hashlib.sha256(b"dates" + found.digest).digest()
    return cache.recall(Windows, digest, lambda: Windows.of(_windows(found)))


def _windows(found: Found) -> list[Window]:
    each = found.endorsements
    if isinstance(each, SnpEndorsements):
        if not each.crl:
            raise VerifierError(Reason.CRL_MISSING, "AMD CRL: none")
        named = {"VEK": each.vek, "ASK": each.ask, "ARK": each.ark}
        certificates = [of_certificate(x509.load_der(der, w), w) for w, der in named.items()]
        return [*certificates, of_crl(x509.load_crl(each.crl, "AMD CRL"), "AMD CRL")]
    info, qe = tcbinfo.parse(each.tcb_info), identity.parse(each.qe_identity)
    windows = [
        of_document(info.issue_date, info.next_update, "TCB info"),
        of_document(qe.issue_date, qe.next_update, "QE identity"),
        of_crl(x509.load_crl(each.root_ca_crl, "root CRL"), "root CRL"),
        of_crl(x509.load_crl(each.pck_crl, "PCK CRL"), "PCK CRL"),
    ]
    chains = {
        "TCB info chain": each.tcb_info_issuer_chain,
        "QE identity chain": each.qe_identity_issuer_chain,
        "PCK CRL chain": each.pck_crl_issuer_chain,
    }
    for what, text in chains.items():
        windows += [of_certificate(c, what) for c in x509.load_pem_chain(text, what, count=2)]
    return windows
