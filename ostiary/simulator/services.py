"""The simulated vendors' services over HTTP, on loopback: PCS, PCCS, KDS, THIM; RIM and OCSP.

Guarantees: real paths, parameters, headers and status codes, so the real fetchers run unchanged:

    /{sgx,tdx}/certification/v4/tcb?fmspc=&update=         TCB-Info-Issuer-Chain
    /{sgx,tdx}/certification/v4/qe/identity?update=        SGX-Enclave-Identity-Issuer-Chain
    /sgx/certification/v4/pckcrl?ca=&encoding=der          SGX-PCK-CRL-Issuer-Chain
    /sgx/certification/v4/rootcacrl                        hexadecimal text, as a PCCS has it
    /IntelSGXRootCA.der                                    DER, as Intel's content server has it
    /{vcek,vlek}/v1/<product>/{cert_chain,crl}             PEM, DER
    /vcek/v1/<product>/<hwid>?blSPL=&teeSPL=&snpSPL=&ucodeSPL=[&fmcSPL=]
    /vlek/v1/<product>/cert?...                            DER
    /SevSnpVM/certificates/<chip id>/<tcb>?api-version=    PEM, as Azure's cache has it
    /metadata/THIM/amd/certification                       JSON, for the first chip; wants Metadata
    /v1/rim/..., /crl/..., POST /                          NVIDIA's, see `nvidia/services.py`

Faults can be set for paths: statuses with headers, other bodies, slow bytes. Proves nothing: the
keys are the simulator's.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, final
from urllib.parse import parse_qsl, quote, urlsplit

from ostiary.simulator import certificates, tcb
from ostiary.simulator.amd import Chip, FakeAmd
from ostiary.simulator.intel import FMSPC, FakeIntel
from ostiary.simulator.nvidia.services import NvidiaServices
from ostiary.simulator.pck import CaRole
from ostiary.simulator.snp import PRODUCTS, Product, Tcb

_JSON: Final = "application/json"
_DER: Final = "application/octet-stream"
_PEM: Final = "application/x-pem-file"
_V4: Final = "certification/v4"
_CAS: Final[dict[str, CaRole]] = {"platform": "platform_ca", "processor": "processor_ca"}
_API_VERSION: Final = "2020-10-15-preview"
_MAX_BODY: Final = 16 * 1024
"""Largest body of a POST in bytes: an OCSP request has some hundreds."""
_EARLY: Final = 2
"""How far the early set's evaluation number is ahead of the standard set's."""


@final
@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. `drip_s` seconds pass before each byte of the body, for slow servers."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    drip_s: float = 0.0


NOT_FOUND: Final = Reply(404)


@final
@dataclass(slots=True)
class Vendors:
    """What the services know: the vendors, and the chips that left the factory.

    `clock` gives the moment that collateral is issued around; `evaluation` is the number of the
    standard set; `revoked_pcks` stand in the PCK CRLs. Change them between requests as you like.
    """

    clock: Callable[[], int]
    intel: FakeIntel | None = None
    amd: FakeAmd | None = None
    chips: Sequence[Chip] = ()
    products: Sequence[Product] = PRODUCTS
    fmspcs: Sequence[bytes] = (FMSPC,)
    evaluation: int = 18
    revoked_pcks: Sequence[int] = ()
    nvidia: NvidiaServices | None = None

    def reply(self, target: str, headers: Mapping[str, str]) -> Reply:
        """Return the answer to a GET for `target`, path and query."""
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query))
        path = parts.path.strip("/").split("/")
        if self.intel is not None and path[0] in {"sgx", "tdx", "IntelSGXRootCA.der"}:
            return self._intel(self.intel, parts.path.strip("/"), query)
        if self.amd is not None and path[0] in {"vcek", "vlek"}:
            return self._amd(self.amd, path, query)
        if parts.path == "/metadata/THIM/amd/certification":
            return self._thim(headers)
        if path[:2] == ["SevSnpVM", "certificates"]:
            return self._cache(path[2:], query)
        if self.nvidia is not None:
            return _plain(self.nvidia.get(parts.path))
        return NOT_FOUND

    def posted(self, target: str, body: bytes) -> Reply:
        """Return the answer to a POST: only NVIDIA's OCSP responder takes any."""
        if self.nvidia is None:
            return NOT_FOUND
        return _plain(self.nvidia.post(urlsplit(target).path, body))

    def _intel(self, intel: FakeIntel, path: str, query: Mapping[str, str]) -> Reply:
        if path == "IntelSGXRootCA.der":
            crl = intel.crl("root", self.clock())
            return Reply(200, crl, {"Content-Type": "application/pkix-crl"})
        if path == f"sgx/{_V4}/rootcacrl":
            text = intel.crl("root", self.clock()).hex().encode()
            return Reply(200, text, {"Content-Type": "text/plain; charset=utf-8"})
        if path == f"sgx/{_V4}/pckcrl":
            return self._pck_crl(intel, query)
        tee, _, what = path.partition(f"/{_V4}/")
        kind: tcb.Tee = "tdx" if tee == "tdx" else "sgx"
        return self._document(intel, kind, what, query)

    def _document(
        self, intel: FakeIntel, tee: tcb.Tee, what: str, query: Mapping[str, str]
    ) -> Reply:
        now, update = self.clock(), query.get("update", "standard")
        number = self.evaluation + (_EARLY if update == "early" else 0)
        fmspc = query.get("fmspc", "")
        if update not in {"standard", "early"}:
            return Reply(400)
        if what == "tcb" and fmspc in {known.hex() for known in self.fmspcs}:
            info = tcb.tcb_info(
                now,
                fmspc=bytes.fromhex(fmspc),
                pceid=bytes(2),
                tee=tee,
                evaluation_number=number,
            )
            return _signed(intel, "tcbInfo", info, "TCB-Info-Issuer-Chain")
        if what == "qe/identity":
            identity = tcb.qe_identity(now, tee=tee, evaluation_number=number)
            return _signed(intel, "enclaveIdentity", identity, "SGX-Enclave-Identity-Issuer-Chain")
        return NOT_FOUND

    def _pck_crl(self, intel: FakeIntel, query: Mapping[str, str]) -> Reply:
        role = _CAS.get(query.get("ca", ""))
        if role is None or query.get("encoding") != "der":
            return Reply(400)
        crl = intel.crl(role, self.clock(), revoked=self.revoked_pcks)
        chain = quote(intel.chain(role), safe="")
        headers = {"Content-Type": "application/pkix-crl", "SGX-PCK-CRL-Issuer-Chain": chain}
        return Reply(200, crl, headers)

    def _amd(self, amd: FakeAmd, path: Sequence[str], query: Mapping[str, str]) -> Reply:
        if len(path) != 4 or path[1] != "v1" or path[2] not in self.products:  # noqa: PLR2004 - kind, v1, product, what
            return NOT_FOUND
        cloud, what = path[0] == "vlek", path[3]
        product = next(known for known in PRODUCTS if known == path[2])
        if what == "cert_chain":
            roles = ("asvk" if cloud else "ask", "ark")
            text = certificates.pem(*(amd.certificate(product, role) for role in roles))  # type: ignore[arg-type]  # both are roles
            return Reply(200, text.encode(), {"Content-Type": _PEM})
        if what == "crl":
            return Reply(200, amd.crl(product, self.clock()), {"Content-Type": _DER})
        for chip in self.chips:
            hwid = chip.chip_id[:8] if product == "Turin" else chip.chip_id
            asked = "cert" if cloud else hwid.hex()
            same = (chip.product, chip.vlek, asked) == (product, cloud, what)
            if same and query == _levels(product, chip.tcb):
                return Reply(200, chip.chain[0], {"Content-Type": _DER})
        return NOT_FOUND

    def _thim(self, headers: Mapping[str, str]) -> Reply:
        if headers.get("Metadata", "").lower() != "true":
            return Reply(400)
        if not self.chips:
            return NOT_FOUND
        chip = self.chips[0]
        number = int.from_bytes(chip.tcb.encode(chip.product), "little")
        document = {
            "vcekCert": certificates.pem(chip.chain[0]),
            "tcbm": f"{number:016X}",
            "certificateChain": certificates.pem(*chip.chain[1:]),
            "cacheControl": "86400",
        }
        return Reply(200, json.dumps(document).encode(), {"Content-Type": _JSON})

    def _cache(self, rest: Sequence[str], query: Mapping[str, str]) -> Reply:
        if query != {"api-version": _API_VERSION}:
            return Reply(400)
        for chip in self.chips:
            number = int.from_bytes(chip.tcb.encode(chip.product), "little")
            if list(rest) == [chip.chip_id.hex(), f"{number:x}"]:
                text = certificates.pem(*chip.chain)
                return Reply(200, text.encode(), {"Content-Type": "text/plain"})
        return NOT_FOUND


def _plain(found: tuple[str, bytes] | None) -> Reply:
    if found is None:
        return NOT_FOUND
    media_type, body = found
    return Reply(200, body, {"Content-Type": media_type})


def _levels(product: Product, level: Tcb) -> dict[str, str]:
    """Return the query that asks for a TCB (AMD 57230)."""
    asked = {
        "blSPL": str(level.bootloader),
        "teeSPL": str(level.tee),
        "snpSPL": str(level.snp),
        "ucodeSPL": str(level.microcode),
    }
    return asked | ({"fmcSPL": str(level.fmc)} if product == "Turin" else {})


def _signed(intel: FakeIntel, member: str, document: tcb.Document, header: str) -> Reply:
    text = tcb.to_text(document)
    body = f'{{"{member}":{text},"signature":"{intel.sign_text(text)}"}}'
    chain = quote(intel.chain("tcb_signing"), safe="")
    return Reply(200, body.encode(), {"Content-Type": _JSON, header: chain})


@final
class VendorServer(ThreadingHTTPServer):
    """The services on a loopback port of their own. `asked` counts requests by path."""

    daemon_threads = True

    def __init__(self, vendors: Vendors, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.vendors = vendors
        self.asked: Counter[str] = Counter()
        self.faults: list[tuple[str, int, Reply]] = []
        self.ended = threading.Event()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fail(self, beginning: str, reply: Reply, times: int = 1 << 30) -> None:
        """Give this answer to the next requests whose path begins so."""
        with self._lock:
            self.faults.append((beginning, times, reply))

    def heal(self) -> None:
        """Forget all faults."""
        with self._lock:
            self.faults.clear()

    def answer(self, target: str, headers: Mapping[str, str], body: bytes | None = None) -> Reply:
        """Return the answer to one GET, or POST with a body: a fault's, or the vendors'."""
        with self._lock:
            self.asked[urlsplit(target).path] += 1
            for at, (beginning, times, reply) in enumerate(self.faults):
                if target.startswith(beginning):
                    self.faults[at : at + 1] = [(beginning, times - 1, reply)] * (times > 1)
                    return reply
            if body is not None:
                return self.vendors.posted(target, body)
            return self.vendors.reply(target, headers)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - the library's signature
        """Say nothing of clients that go away in the middle: some are meant to."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: VendorServer
    timeout = 10.0

    def do_GET(self) -> None:
        """Answer one request."""
        self._send(self.server.answer(self.path, self.headers))  # type: ignore[arg-type]  # reads like a Mapping

    def do_POST(self) -> None:
        """Answer one request that has a body."""
        said = self.headers.get("Content-Length", "")
        size = int(said) if said.isascii() and said.isdigit() else _MAX_BODY + 1
        if size > _MAX_BODY:
            # What was not read must not be taken for the next request.
            self.close_connection = True
            self._send(Reply(413, headers={"Connection": "close"}))
            return
        body = self.rfile.read(size)
        self._send(self.server.answer(self.path, self.headers, body))  # type: ignore[arg-type]  # same

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for header, value in reply.headers.items():
            self.send_header(header, value)
        if "Content-Length" not in reply.headers:
            self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            if not reply.drip_s:
                self.wfile.write(reply.body)
                return
            for byte in reply.body:
                if self.server.ended.wait(reply.drip_s):
                    return
                self.wfile.write(bytes((byte,)))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Keep quiet."""


@contextmanager
def serving(vendors: Vendors, port: int = 0) -> Iterator[VendorServer]:
    """Give a running server; it ends with the block."""
    server = VendorServer(vendors, port)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
