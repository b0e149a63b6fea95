"""Room 3's source, as the settings want it: folder, store, and the vendors if this broker fetches.

Guarantees: without `collateral_fetch = true` no socket is opened for endorsements, whatever else is
set; the services asked are those that the settings name, by default the vendors' own.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from broker.clock import Clock
from broker.errors import BrokerError, Code, refuse_as
from broker.settings import Settings
from verifier.anchors import Anchors
from verifier.cache import Cache
from verifier.collateral import nvidia
from verifier.collateral.amd import BURST, AmdService
from verifier.collateral.azure import ThimCache, ThimGuest
from verifier.collateral.folder import FolderSource
from verifier.collateral.intel import IntelService
from verifier.collateral.nvidia import NvidiaService
from verifier.collateral.sources import Gathering, Services, Stored
from verifier.collateral.store import Store
from verifier.collateral.web import Budget, Web

STORE: Final = "store"
"""The store's folder, inside the collateral folder."""


@asynccontextmanager
async def open_endorsements(
    home: Path, settings: Settings, anchors: Anchors, cache: Cache, now: Clock
) -> AsyncIterator[Gathering]:
    """Give the source of endorsements for these settings.

    Raises:
        BrokerError: `settings_invalid` for a URL that is none, or a CA file that cannot be read.
    """
    folder = home / settings.collateral
    web = Web(tls=_tls(home, settings)) if settings.collateral_fetch else None
    try:
        stored = Stored(
            Store(folder / STORE, anchors),
            Services() if web is None else _services(home, web, settings),
            anchors,
            now,
            update=settings.collateral_update,
            cache=cache,
        )
        try:
            yield Gathering(FolderSource(folder), stored, now, cache)
        finally:
            await stored.aclose()
    finally:
        if web is not None:
            await web.aclose()


def _services(home: Path, web: Web, settings: Settings) -> Services:
    per_minute = settings.amd_kds_per_minute
    with refuse_as(Code.SETTINGS_INVALID, "a collateral service"):
        return Services(
            intel=IntelService(web, settings.intel_pcs, settings.intel_root_crl),
            amd=AmdService(web, settings.amd_kds, Budget(BURST, per_minute)),
            thim=(
                *((ThimGuest(web, settings.azure_imds),) if settings.azure_imds else ()),
                *((ThimCache(web, settings.azure_cache),) if settings.azure_cache else ()),
            ),
            nvidia=NvidiaService(
                web,
                settings.nvidia_rim,
                settings.nvidia_ocsp,
                settings.nvidia_crl,
                key=_nvidia_key(home, settings),
                budget=Budget(nvidia.BURST, settings.nvidia_per_minute),
            ),
        )


def _tls(home: Path, settings: Settings) -> ssl.SSLContext | None:
    """Return the trust of a PCCS with an authority of its own, if the settings name one."""
    if not settings.collateral_ca:
        return None
    path = home / settings.collateral_ca
    try:
        return ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError) as error:
        raise BrokerError(Code.SETTINGS_INVALID, f"{path}: {error}") from error


def _nvidia_key(home: Path, settings: Settings) -> str:
    """Return NVIDIA's service key, which stands in a file of its own."""
    if not settings.nvidia_key:
        return ""
    path = home / settings.nvidia_key
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BrokerError(
            Code.SETTINGS_INVALID, f"{path}: NVIDIA's service key cannot be read"
        ) from error
