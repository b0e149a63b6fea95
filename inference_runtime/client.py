"""Speaks HTTP to a broker: challenges, releases, renewals, and the registry of sealed files.

Guarantees: bounded answers (as sent: compressed ones are refused), bounded waits, retries only
where asking twice does no harm (a challenge, a ranged read; never a release, whose challenge is
spent by the first try). Believes nothing it hears: `exchange.py` checks every answer.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, final

import httpx
import jwt
import msgspec
import tenacity

from inference_runtime import clock
from inference_runtime.errors import Fault, RuntimeFault
from inference_runtime.exchange import Identity
from verifier.errors import VerifierError
from verifier.wire import canonical, messages
from verifier.wire.canonical import Hex

JSON: Final = "application/json"
_MAX_ANSWER: Final = 4 << 20
_TIMEOUT: Final = httpx.Timeout(30.0, connect=5.0)
_SHORT: Final = httpx.Timeout(3.0)
"""For what is asked beside serving, and may fail."""
_SMALL: Final = 64 << 10
_ANSWER_SECONDS: Final = 120.0
"""A whole answer takes no longer, however slowly its bytes come."""
_RETRY_SECONDS: Final = 20.0
_MAX_PORT: Final = 65535
_TOO_MANY: Final = 429
_BROKEN: Final = 500
_ASK_AGAIN: Final = frozenset(
    {"challenge_unknown", "challenge_expired", "challenge_spent", "permit_spent", "state_moved"}
)
"""Codes of the broker that are about this exchange only: it restarted, or a policy changed."""
_TOKEN_SECONDS: Final = 120


def _may_help(error: BaseException) -> bool:
    return isinstance(error, RuntimeFault) and error.code is Fault.BROKER_UNAVAILABLE


_again = tenacity.retry(
    retry=tenacity.retry_if_exception(_may_help),
    stop=tenacity.stop_after_attempt(5) | tenacity.stop_after_delay(_RETRY_SECONDS),
    wait=tenacity.wait_exponential(multiplier=0.1, max=3) + tenacity.wait_random(0, 0.1),
    reraise=True,
)


def is_address(url: str) -> bool:
    """Tell whether this is an http or https URL with a host and a possible port."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    port = 1 if parsed.port is None else parsed.port
    host = parsed.host
    return (
        parsed.scheme in {"http", "https"}
        and "%" not in host
        and host != ""
        and 0 < port <= _MAX_PORT
    )


@final
@dataclass(frozen=True, slots=True, repr=False)
class Held:
    """A lease in the hand of who holds its key."""

    identity: Identity
    broker: bytes
    tenant: str
    lease: str

    @property
    def path(self) -> str:
        """Where the broker has it."""
        return f"/v1/tenants/{self.tenant}/leases/{self.lease}"

    def token(self, method: str) -> str:
        """Return a bearer token for one request."""
        return lease_token(self.identity, self.lease, self.broker, method, self.path)


class _Standing(msgspec.Struct, frozen=True):
    epoch: int


@final
class BrokerClient:
    """One connection pool to one broker. Use it as a context manager."""

    def __init__(self, base_url: str, *, transport: httpx.BaseTransport | None = None) -> None:
        """Prepare to speak to `base_url`; nothing is sent yet.

        Raises:
            RuntimeFault: `broker_unavailable` if that is no address.
        """
        if not is_address(base_url):
            raise RuntimeFault(
                Fault.BROKER_UNAVAILABLE,
                f"{base_url!r} is not the address of a broker, such as http://127.0.0.1:8420",
            )
        self._http = httpx.Client(
            base_url=base_url,
            timeout=_TIMEOUT,
            transport=transport,
            headers={"accept-encoding": "identity"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    @_again
    def challenge(
        self, tenant: str, purpose: messages.Purpose, kind: messages.Kind, identity: Identity
    ) -> messages.ChallengeAnswer:
        """Return a fresh challenge.

        Raises:
            RuntimeFault: `broker_unavailable`, `broker_refused` or `answer_invalid`.
        """
        request = messages.ChallengeRequest(
            v=1, tenant=tenant, purpose=purpose, kind=kind, caller=Hex(identity.caller)
        )
        raw = self._send("POST", "/v1/challenges", canonical.encode(request))
        try:
            return canonical.decode(raw, messages.ChallengeAnswer)
        except VerifierError as error:
            raise RuntimeFault(Fault.ANSWER_INVALID, f"the challenge: {error}") from error

    def release(self, body: bytes) -> bytes:
        """Send a release request and return the signed answer, unchecked.

        Raises:
            RuntimeFault: `broker_unavailable`, `broker_refused` or `broker_ask_again`.
        """
        return self._send("POST", "/v1/releases", body)

    def renew(self, body: bytes) -> bytes:
        """Send a renewal and return the signed answer, unchecked.

        Raises:
            RuntimeFault: `broker_unavailable`, `broker_refused` or `broker_ask_again`.
        """
        return self._send("POST", "/v1/renewals", body)

    def standing(self, held: Held) -> int:
        """Return the tenant's state epoch as the broker tells it now to who holds this lease.

        Unsigned: it only tells when to ask for a renewal, whose answer is signed.

        Raises:
            RuntimeFault: `broker_unavailable`, `broker_refused` (the lease is over, as it seems) or
                `answer_invalid`.
        """
        headers = {"authorization": f"Bearer {held.token('GET')}"}
        raw = self._send("GET", held.path, b"", headers=headers, limit=_SMALL, timeout=_SHORT)
        try:
            return msgspec.json.decode(raw, type=_Standing).epoch
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise RuntimeFault(Fault.ANSWER_INVALID, "how the lease stands: no JSON") from error

    def give_back(self, held: Held) -> None:
        """End the lease before its time; asked once, and not waited for long.

        Raises:
            RuntimeFault: `broker_unavailable` or `broker_refused`.
        """
        headers = {"authorization": f"Bearer {held.token('DELETE')}"}
        self._send("DELETE", held.path, b"", headers=headers, limit=_SMALL, timeout=_SHORT)

    @_again
    def read(
        self,
        path: str,
        headers: Callable[[], Mapping[str, str]],
        *,
        limit: int,
    ) -> bytes:
        """Return what stands at `path`, at most `limit` bytes; `headers` are made for each try.

        Raises:
            RuntimeFault: `broker_unavailable` or `broker_refused`.
        """
        return self._send("GET", path, b"", headers=headers(), limit=limit)

    @_again
    def size(self, path: str, headers: Callable[[], Mapping[str, str]]) -> int:
        """Return the size in bytes of what stands at `path`.

        Raises:
            RuntimeFault: `broker_unavailable`, `broker_refused` or `answer_invalid`.
        """
        try:
            answer = self._http.head(path, headers=dict(headers()))
        except httpx.HTTPError as error:
            raise _unreachable("HEAD", path, error) from error
        if not answer.is_success:
            raise RuntimeFault(_fault(answer.status_code, b""), _problem("HEAD", path, answer, b""))
        length = answer.headers.get("content-length", "")
        if not (length.isascii() and length.isdecimal()):
            raise RuntimeFault(Fault.ANSWER_INVALID, f"HEAD {path}: no length")
        return int(length)

    def _send(
        self,
        method: str,
        path: str,
        body: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        limit: int = _MAX_ANSWER,
        timeout: httpx.Timeout = _TIMEOUT,
    ) -> bytes:
        sent = dict(headers or {})
        if body:
            sent["content-type"] = JSON
        try:
            with self._http.stream(
                method, path, content=body, headers=sent, timeout=timeout
            ) as answer:
                raw = _bounded(answer, limit)
        except httpx.HTTPError as error:
            raise _unreachable(method, path, error) from error
        if answer.status_code not in {200, 201, 206}:
            raise RuntimeFault(_fault(answer.status_code, raw), _problem(method, path, answer, raw))
        return raw


def _bounded(answer: httpx.Response, limit: int) -> bytes:
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise RuntimeFault(Fault.ANSWER_INVALID, "a compressed answer, which was not asked for")
    if not answer.is_success:
        limit = _MAX_ANSWER  # a problem document may be longer than the range that was asked for
    pieces, size, end = [], 0, clock.monotonic() + _ANSWER_SECONDS
    for piece in answer.iter_raw():
        size += len(piece)
        if size > limit:
            raise RuntimeFault(Fault.ANSWER_INVALID, f"an answer of more than {limit} bytes")
        if clock.monotonic() > end:
            raise RuntimeFault(
                Fault.BROKER_UNAVAILABLE, f"no whole answer in {_ANSWER_SECONDS:.0f} s"
            )
        pieces.append(piece)
    return b"".join(pieces)


def _unreachable(method: str, path: str, error: httpx.HTTPError) -> RuntimeFault:
    return RuntimeFault(
        Fault.BROKER_UNAVAILABLE, f"{method} {path}: {type(error).__name__}: {error}"
    )


def _fault(status: int, raw: bytes) -> Fault:
    """Return what an answer that is no success means for whoever asked."""
    if status >= _BROKEN or status == _TOO_MANY:
        return Fault.BROKER_UNAVAILABLE
    try:
        again = msgspec.json.decode(raw, type=_Problem).code in _ASK_AGAIN
    except (msgspec.MsgspecError, ValueError, RecursionError):
        again = False
    return Fault.BROKER_ASK_AGAIN if again else Fault.BROKER_REFUSED


class _Problem(msgspec.Struct, frozen=True):
    code: str


def _problem(method: str, path: str, answer: httpx.Response, raw: bytes) -> str:
    text = raw[:500].decode("utf-8", "replace")
    return f"{method} {path}: {answer.status_code}: {text}"


def lease_token(identity: Identity, lease: str, broker: bytes, method: str, target: str) -> str:
    """Return a bearer token for one registry read: signed by the instance key of a live lease."""
    now = clock.now()
    return jwt.encode(
        {
            "iss": f"lease:{lease}",
            "aud": broker.hex(),
            "iat": now,
            "exp": now + _TOKEN_SECONDS,
            "jti": secrets.token_hex(16),
            "htm": method,
            "htu": target,
            "bsha": hashlib.sha256(b"").hexdigest(),
        },
        identity.instance,
        algorithm="EdDSA",
        headers={"kid": hashlib.sha256(identity.instance_spki).hexdigest()},
    )
