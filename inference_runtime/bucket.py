"""Sealed files from any HTTP server that answers ranges: a bucket, a mirror, a plain web server.

Guarantees: nothing about the bytes; `sealed.open` authenticates each of them. A read goes on where
a dropped connection left it, and is given up after `PATIENCE_S` seconds without a byte, or at once
when the load is called off. Takes no more memory than the caller's buffers. Follows no redirect and
uses no proxy; a query in the address (a signature that a cloud asks for) is sent and never shown.
"""

from __future__ import annotations

import re
from threading import Event
from typing import Final, Self, final
from urllib.parse import quote

import httpx
import tenacity

from inference_runtime.client import is_address
from inference_runtime.errors import Fault, RuntimeFault

PATIENCE_S: Final = 60.0
"""Seconds without a byte until a read is given up."""
_TIMEOUT: Final = httpx.Timeout(15.0, connect=5.0)
_CONNECTIONS: Final = 16
_SPAN: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")
_PARTIAL: Final = 206
_NO_SUCH: Final = frozenset({404, 410})
_NO_RANGE: Final = 416
_BUSY: Final = frozenset({408, 425, 429})
_BROKEN: Final = 500
_MANIFEST: Final = 24 << 20


class _Dropped(Exception):  # noqa: N818 - an event more than an error
    """Nothing came this time; another try may do."""


@final
class Bucket:
    """A sealed model under one address; a `sealed.source.Source`. Use it as a context manager."""

    def __init__(
        self,
        address: str,
        *,
        transport: httpx.BaseTransport | None = None,
        patience: float = PATIENCE_S,
        stopping: Event | None = None,
    ) -> None:
        """Prepare to read below `address`; nothing is asked yet.

        Raises:
            RuntimeFault: `source_unavailable` if that is no address.
        """
        if not is_address(address):
            raise RuntimeFault(
                Fault.SOURCE_UNAVAILABLE,
                "that is not an address of sealed files, such as https://bucket.example/model/1",
            )
        url = httpx.URL(address)
        self._root = url.path.rstrip("/")
        self._url = url
        self._host = url.host
        self._stopping = stopping or Event()
        self._patience = patience
        self._http = httpx.Client(
            timeout=_TIMEOUT,
            transport=transport,
            trust_env=False,
            headers={"accept-encoding": "identity"},
            limits=httpx.Limits(max_connections=_CONNECTIONS),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._http.close()

    def manifest(self) -> bytes:
        """Return the signed manifest, unchecked.

        Raises:
            RuntimeFault: `sealed_missing` or `source_unavailable`.
        """
        size = self.size("manifest.json")
        if size > _MANIFEST:
            raise RuntimeFault(Fault.SEALED_EXTRA, f"manifest.json: {size} bytes is too much")
        return self.read("manifest.json", 0, size)

    def size(self, name: str) -> int:
        """Return the bytes of `name`; see `Source.size`."""
        found: int = self._patient(name)(self._size, name)
        return found

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Return bytes of `name`; see `Source.read`."""
        buffer = bytearray(length)
        filled = self.read_into(name, offset, memoryview(buffer))
        return bytes(memoryview(buffer)[:filled])

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """Fill `buffer`; see `BufferedSource.read_into`. Goes on where a connection dropped."""
        filled = 0
        while filled < len(buffer):
            # Each byte that came begins the patience anew.
            count: int = self._patient(name)(self._some, name, offset + filled, buffer[filled:])
            if count == 0:
                break
            filled += count
        return filled

    def _patient(self, name: str) -> tenacity.Retrying:
        """Return what tries again while nothing comes."""

        def give_up(state: tenacity.RetryCallState) -> None:
            why = state.outcome.exception() if state.outcome is not None else None
            raise RuntimeFault(
                Fault.SOURCE_UNAVAILABLE,
                f"{name}: {self._host} gave nothing for {self._patience:.0f} s, or the load was "
                f"called off ({why})",
            ) from why

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Dropped),
            wait=tenacity.wait_exponential(multiplier=0.1, max=5) + tenacity.wait_random(0, 0.2),
            stop=tenacity.stop_after_delay(self._patience)
            | tenacity.stop_when_event_set(self._stopping),
            sleep=tenacity.sleep_using_event(self._stopping),
            retry_error_callback=give_up,
        )

    def _size(self, name: str) -> int:
        try:
            answer = self._http.head(self._of(name))
        except httpx.TransportError as error:
            raise _Dropped(type(error).__name__) from error
        self._require(answer, name, frozenset({200}))
        length = answer.headers.get("content-length", "")
        if not (length.isascii() and length.isdecimal()):
            raise RuntimeFault(Fault.SOURCE_UNAVAILABLE, f"{name}: {self._host} tells no size")
        return int(length)

    def _some(self, name: str, start: int, buffer: memoryview) -> int:
        """Fill as much of `buffer` as one answer gives; 0 at the file's end."""
        last = start + len(buffer) - 1
        filled = 0
        try:
            with self._http.stream(
                "GET", self._of(name), headers={"range": f"bytes={start}-{last}"}
            ) as answer:
                if answer.status_code == _NO_RANGE:
                    return 0
                self._require(answer, name, frozenset({_PARTIAL}))
                self._require_span(answer, name, start, last)
                for piece in answer.iter_raw():
                    if filled + len(piece) > len(buffer):
                        raise RuntimeFault(
                            Fault.SOURCE_UNAVAILABLE, f"{name}: {self._host} sent more than asked"
                        )
                    buffer[filled : filled + len(piece)] = piece
                    filled += len(piece)
        except httpx.TransportError as error:
            if filled == 0:
                raise _Dropped(type(error).__name__) from error
        return filled

    def _of(self, name: str) -> httpx.URL:
        return self._url.copy_with(path=f"{self._root}/{quote(name)}")

    def _require(self, answer: httpx.Response, name: str, good: frozenset[int]) -> None:
        status = answer.status_code
        if status in _NO_SUCH:
            raise RuntimeFault(Fault.SEALED_MISSING, f"{name}: {self._host} has no such file")
        if status in _BUSY or status >= _BROKEN:
            raise _Dropped(f"status {status}")
        if status not in good:
            ranges = " (it does not answer ranges)" if status == 200 else ""  # noqa: PLR2004 - HTTP
            raise RuntimeFault(
                Fault.SOURCE_UNAVAILABLE, f"{name}: {self._host} answered {status}{ranges}"
            )

    def _require_span(self, answer: httpx.Response, name: str, start: int, last: int) -> None:
        """Refuse a range that is not the one asked for, or cut at the file's end."""
        found = _SPAN.fullmatch(answer.headers.get("content-range", ""))
        if found is None or int(found[1]) != start or int(found[2]) > last:
            raise RuntimeFault(
                Fault.SOURCE_UNAVAILABLE, f"{name}: {self._host} answered with another range"
            )
