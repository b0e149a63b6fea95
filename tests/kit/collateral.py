"""Collateral for tests: the simulated vendors' services, a clock, and sources that ask them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from ostiary.simulator import tcb
from ostiary.simulator.intel import FMSPC
from ostiary.simulator.services import Vendors, VendorServer, serving
from tests.kit import vendors
from tests.kit.vendors import NOW
from verifier.collateral import parts
from verifier.collateral.amd import AmdService
from verifier.collateral.azure import ThimCache, ThimGuest
from verifier.collateral.intel import IntelService
from verifier.collateral.parts import Part
from verifier.collateral.sources import Service, Services, Stored
from verifier.collateral.store import Store
from verifier.collateral.vet import vet
from verifier.collateral.web import Budget, Limits, Web

T = TypeVar("T")

DAY: Final = 86_400
LIMITS: Final = Limits(total_s=2.0, connect_s=1.0, attempts=3, pause_s=0.01, patience_s=2.0)


@dataclass
class Clock:
    """The moment that a test lives in."""

    now: int = NOW

    def __call__(self) -> int:
        return self.now


@dataclass
class Site:
    """A running set of services, and what asks them."""

    server: VendorServer
    folder: Path
    clock: Clock = field(default_factory=Clock)

    @property
    def store(self) -> Store:
        """Return the store as another process would open it."""
        return Store(self.folder, vendors.anchors("Genoa", "Turin"))

    @asynccontextmanager
    async def stored(
        self,
        *,
        fetch: bool = True,
        limits: Limits = LIMITS,
        budget: Budget | None = None,
        thim: str = "",
        **options: Any,
    ) -> AsyncIterator[Stored]:
        """Give a source over this site's services and store."""
        web = Web(limits)
        url = self.server.url
        forms: dict[str, tuple[Service, ...]] = {
            "": (),
            "guest": (ThimGuest(web, url),),
            "cache": (ThimCache(web, url),),
        }
        services = Services(
            intel=IntelService(web, url),
            amd=AmdService(web, url, budget or Budget(1000, 1000)),
            thim=forms[thim],
        )
        options = {"remember_s": 0.0} | options
        anchors = vendors.anchors("Genoa", "Turin")
        source = Stored(
            Store(self.folder, anchors),
            services if fetch else Services(),
            anchors,
            self.clock,
            **options,
        )
        try:
            yield source
        finally:
            await source.aclose()
            await web.aclose()

    def run(self, use: Callable[[Stored], Coroutine[Any, Any, T]], **options: Any) -> T:
        """Return what `use` makes of a source."""

        async def within() -> T:
            async with self.stored(**options) as source:
                return await use(source)

        return asyncio.run(within())

    def found_tdx(self, **options: Any) -> Any:
        """Return what the source finds for the session's TDX machine."""
        quote = vendors.good_quote()
        return self.run(lambda source: source.find("tdx", quote, b""), **options)


@contextmanager
def site(folder: Path) -> Iterator[Site]:
    """Give services that know the session's Intel, AMD and chips."""
    clock = Clock()
    known = Vendors(
        clock,
        vendors.fake_intel(),
        vendors.fake_amd("Genoa"),
        (vendors.chip("Genoa"), vendors.chip("Turin")),
    )
    with serving(known) as server:
        yield Site(server, folder, clock)


def tcb_part(
    number: int = 18, issued: int = NOW - DAY, *, update: parts.Update = "standard"
) -> Part:
    """Return vetted TCB info of the session's platform."""
    intel = vendors.fake_intel()
    info = tcb.tcb_info(NOW, fmspc=FMSPC, pceid=bytes(2), evaluation_number=number, issued=issued)
    text = tcb.to_text(info)
    body = f'{{"tcbInfo":{text},"signature":"{intel.sign_text(text)}"}}'
    name = parts.tcb("tdx", FMSPC, update)
    chain = intel.chain("tcb_signing").encode()
    return vet(name, body.encode(), chain, vendors.anchors(), fetched=NOW)


def crl_part(issued: int = NOW - DAY) -> Part:
    """Return a vetted PCK CRL."""
    intel = vendors.fake_intel()
    crl = intel.crl("platform_ca", NOW, this_update=issued)
    chain = intel.chain("platform_ca").encode()
    return vet(parts.pck_crl("platform"), crl, chain, vendors.anchors(), fetched=NOW)
