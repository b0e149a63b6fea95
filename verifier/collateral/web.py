"""HTTP to the vendors' services: the only file of the verifier that knows the network.

Guarantees: one question (a GET, or a POST that only asks) returns at most so many bytes, of a media
type that was asked for, within a total time that a slow server cannot stretch; redirects,
compressed bodies and any status but 200 are refused. Only what may pass by itself (no connection,
429, 5xx) is tried again, and what `Retry-After` says is obeyed. No proxy or credential is taken
from the environment. What comes back is not believed: `vet` looks at signatures.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final
from urllib.parse import urlsplit

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt

from verifier.errors import Reason, VerifierError

if TYPE_CHECKING:
    import ssl

_OK: Final = 200
_TOO_MANY: Final = 429
_NOT_FOUND: Final = 404
_SERVER_ERRORS: Final = range(500, 600)
_SECONDS: Final = re.compile(r"[0-9]{1,6}", re.ASCII)


@final
@dataclass(frozen=True, slots=True)
class Limits:
    """What one GET may cost.

    `total_s` bounds one attempt from connecting to the last byte, `connect_s` its beginning,
    `attempts` how often it is tried. Between attempts it waits `pause_s`, twice that, and so on, or
    as long as the server asks, but if that is more than `patience_s` it gives up at once.
    """

    total_s: float = 10.0
    connect_s: float = 5.0
    attempts: int = 3
    pause_s: float = 0.5
    patience_s: float = 10.0


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """A body, and the headers that came with it."""

    body: bytes
    headers: httpx.Headers


@final
class Budget:
    """How many requests one service may be sent: a bucket that fills steadily.

    Args:
        burst: requests at once.
        per_minute: requests a minute in the long run.
    """

    __slots__ = ("_burst", "_level", "_per_second", "_seen")

    def __init__(self, burst: int, per_minute: float) -> None:
        self._burst = float(burst)
        self._per_second = per_minute / 60
        self._level = float(burst)
        self._seen: float | None = None

    def spend(self, what: str) -> None:
        """Take one request out of the bucket. Never waits: the caller's guest asks again.

        Raises:
            VerifierError: `collateral_unavailable` if it is empty.
        """
        now = asyncio.get_running_loop().time()
        passed = 0.0 if self._seen is None else now - self._seen
        self._seen = now
        self._level = min(self._burst, self._level + passed * self._per_second)
        if self._level < 1:
            raise VerifierError(
                Reason.COLLATERAL_UNAVAILABLE, f"{what}: our own budget of requests is spent"
            )
        self._level -= 1


class _PassingError(Exception):
    """Something that may be better next time; `wait_s` is what the server asked for, if it did."""

    def __init__(self, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


def check_base(url: str) -> str:
    """Return a service's base URL, as an operator set it, without a slash at its end.

    Plain HTTP is for this machine and for link-local addresses (a cloud's metadata service) only.

    Raises:
        VerifierError: `malformed`.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise VerifierError(Reason.MALFORMED, f"{url[:200]!r}: {error}") from error
    plain = not (parts.username or parts.password or parts.query or parts.fragment)
    if not host or not plain or not url.isascii() or not url.isprintable():
        raise VerifierError(Reason.MALFORMED, f"{url[:200]!r} is not the base URL of a service")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_near(host)):
        raise VerifierError(
            Reason.MALFORMED, f"{url[:200]!r}: https expected; http only on this machine"
        )
    return url.rstrip("/")


def _is_near(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_link_local


@final
class Web:
    """A client for all services. Close it with `aclose`.

    Args:
        limits: what one GET may cost.
        tls: trust of another kind than the public authorities, as for a PCCS of one's own.
    """

    __slots__ = ("_client", "_limits")

    def __init__(self, limits: Limits | None = None, tls: ssl.SSLContext | None = None) -> None:
        self._limits = limits or Limits()
        self._client = httpx.AsyncClient(
            follow_redirects=False,
            trust_env=False,
            verify=True if tls is None else tls,
            timeout=httpx.Timeout(self._limits.total_s, connect=self._limits.connect_s),
            headers={"accept-encoding": "identity", "user-agent": "ostiary"},
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def get(
        self,
        url: str,
        *,
        types: frozenset[str],
        limit: int,
        headers: Mapping[str, str] | None = None,
        budget: Budget | None = None,
        content: bytes | None = None,
    ) -> Answer:
        """Return what is at `url`.

        Args:
            url: where.
            types: media types that the answer may have.
            limit: most bytes of body.
            headers: what else to send.
            budget: what each attempt is taken from.
            content: a question, which is posted; it must change nothing at the service.

        Raises:
            VerifierError: `collateral_missing` for 404, `too_large`, `collateral_malformed` for
                another media type, `collateral_unavailable` for everything else.
        """
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._limits.attempts),
            retry=retry_if_exception_type(_PassingError),
            wait=self._pause,
            sleep=asyncio.sleep,
            reraise=True,
        )

        async def attempt() -> Answer:
            if budget is not None:
                budget.spend(url)
            return await self._once(url, types, limit, headers or {}, content)

        try:
            return await retrying(attempt)
        except _PassingError as error:
            raise VerifierError(Reason.COLLATERAL_UNAVAILABLE, f"{url}: {error}") from error

    def _pause(self, state: RetryCallState) -> float:
        """Return the seconds until the next attempt."""
        error = state.outcome.exception() if state.outcome is not None else None
        asked = error.wait_s if isinstance(error, _PassingError) else None
        if asked is not None:
            return asked
        return float(self._limits.pause_s * 2 ** (state.attempt_number - 1))

    async def _once(
        self,
        url: str,
        types: frozenset[str],
        limit: int,
        headers: Mapping[str, str],
        content: bytes | None,
    ) -> Answer:
        try:
            async with (
                asyncio.timeout(self._limits.total_s),
                self._client.stream(
                    "GET" if content is None else "POST", url, headers=headers, content=content
                ) as response,
            ):
                self._check(url, response, types)
                body = bytearray()
                # Raw: a compressed body was refused, so nothing can grow after it was counted.
                async for piece in response.aiter_raw():
                    body += piece
                    if len(body) > limit:
                        raise VerifierError(Reason.TOO_LARGE, f"{url}: more than {limit} bytes")
                return Answer(bytes(body), response.headers)
        except TimeoutError as error:
            raise _PassingError(f"no whole answer in {self._limits.total_s} s") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _PassingError(f"{type(error).__name__}: {error}") from error

    def _check(self, url: str, response: httpx.Response, types: frozenset[str]) -> None:
        status = response.status_code
        if status == _TOO_MANY or status in _SERVER_ERRORS:
            asked = response.headers.get("retry-after", "")
            wait_s = float(asked) if _SECONDS.fullmatch(asked) else None
            if wait_s is not None and wait_s > self._limits.patience_s:
                raise VerifierError(
                    Reason.COLLATERAL_UNAVAILABLE, f"{url}: {status}, come back in {asked} s"
                )
            raise _PassingError(f"status {status}", wait_s)
        if status == _NOT_FOUND:
            raise VerifierError(Reason.COLLATERAL_MISSING, f"{url}: not there")
        if status != _OK:
            raise VerifierError(Reason.COLLATERAL_UNAVAILABLE, f"{url}: status {status}")
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in types:
            raise VerifierError(
                Reason.COLLATERAL_MALFORMED,
                f"{url}: media type {kind[:80]!r}, one of {sorted(types)} expected",
            )
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise VerifierError(Reason.COLLATERAL_MALFORMED, f"{url}: an encoded body")
