"""A broker in software for tests of the runtime: its own keys, a real log, real answers, real HTTP.

It is a broker that lies where a test wants it to: every field of leaf and answer can be another
one, and everything is signed properly all the same, so that a refusal is about that field.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, final

import msgspec
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from inference_runtime.exchange import Anchor, Bound, Identity
from inference_runtime.sealed import manifest as manifests
from inference_runtime.sealed.seal import ModelName, seal_model
from inference_runtime.sealed.secret import SecretKey
from ostiary.simulator.machine import LaunchRequest, launch_snp, launch_td
from ostiary.simulator.machines import SnpMachine, TdxMachine
from tests.kit import vendors
from tests.kit.tlog import Log
from verifier import dsse
from verifier.wire import binding, canonical, leaf, messages
from verifier.wire.canonical import B64, Hex
from verifier.wire.documents import GENESIS_TYPE, Genesis
from verifier.wire.messages import KeyRef

TENANT: Final = "acme"
MODEL: Final = KeyRef("tiny-llama", 1)
POLICY: Final = hashlib.sha256(b"a policy").digest()
RESULT: Final = b'{"verdict":"accept"}'
HASHES: Final = {"rsa-oaep-sha1": hashes.SHA1(), "rsa-oaep-sha256": hashes.SHA256()}  # noqa: S303 - what SoftHSM has


def sha256(raw: bytes) -> Hex:
    """Return a SHA-256 as messages carry it."""
    return Hex(hashlib.sha256(raw).digest())


def wrap(dek: bytes, spki: bytes, alg: str = "rsa-oaep-sha1") -> B64:
    """Return a DEK wrapped to an RSA key."""
    key = serialization.load_der_public_key(spki)
    assert isinstance(key, rsa.RSAPublicKey)
    digest = HASHES[alg]
    scheme = padding.OAEP(mgf=padding.MGF1(digest), algorithm=digest, label=None)
    return B64(key.encrypt(dek, scheme))


@final
class SoftBroker:
    """Broker, log and vendor of one tenant, in memory."""

    def __init__(self, *, simulated: bool = True, tenant: str = TENANT) -> None:
        """Enrol a tenant."""
        self.key = Ed25519PrivateKey.generate()
        self.vendor = Ed25519PrivateKey.generate()
        spki = dsse.spki(self.key.public_key())
        log_key = Log().key.public_key().public_bytes_raw()
        self.genesis = Genesis(
            v=1,
            tenant=tenant,
            created=vendors.NOW,
            signers=(B64(dsse.spki(self.vendor.public_key())),),
            threshold=1,
            broker=sha256(spki),
            broker_key=B64(spki),
            log_key=B64(log_key),
            tree=Hex(secrets.token_bytes(16)),
            simulated=simulated,
        )
        payload = canonical.encode(self.genesis)
        self.digest = hashlib.sha256(payload).digest()
        self.document = dsse.sign(GENESIS_TYPE, payload, self.vendor)
        self.log = Log(self.genesis.origin(self.digest))
        self.log.append(b"the genesis leaf", b"the policy leaf")
        self.deks: dict[KeyRef, bytes] = {MODEL: secrets.token_bytes(32)}
        self.manifests: dict[KeyRef, bytes] = {MODEL: hashlib.sha256(b"a manifest").digest()}
        self.lease_seconds = 3600
        self.renew_seconds = 1800
        self.alg = "rsa-oaep-sha1"
        self.epoch = 3

    @property
    def anchor(self) -> Anchor:
        """Whom a guest of this tenant obeys."""
        return Anchor(self.genesis, self.digest)

    @property
    def launch(self) -> bytes:
        """What a launch for this tenant puts into MRCONFIGID."""
        return binding.anchor(bytes(self.genesis.broker), self.digest)

    def td(self) -> TdxMachine:
        """Return a simulated TD launched for this tenant."""
        return TdxMachine(vendors.platform(), launch_td(LaunchRequest(self.launch)))

    def snp(self) -> SnpMachine:
        """Return a simulated SNP guest launched for this tenant."""
        launched = launch_snp(LaunchRequest(self.launch[:32]), "Genoa")
        return SnpMachine(vendors.chip("Genoa"), launched)

    def bound(
        self,
        who: Identity,
        *,
        keys: tuple[KeyRef, ...] = (MODEL,),
        lease: str = "",
        purpose: messages.Purpose = "release",
    ) -> Bound:
        """Return what a guest remembers of its question, without a machine."""
        challenge = secrets.token_bytes(150)
        report_data = binding.report_data(
            challenge=challenge,
            purpose=purpose,
            genesis=self.digest,
            broker=bytes(self.genesis.broker),
            recipients=who.recipients,
            keys=keys,
            lease=lease,
            kind="tdx",
            gpus=(),
            ak=b"",
            claims=b"{}",
        )
        evidence = messages.Evidence(cpu=B64(b"a quote"))
        return Bound(challenge, keys, lease, b"{}", report_data, evidence)

    def _common(
        self, request: messages.ReleaseRequest | messages.RenewRequest, lease: messages.Lease
    ) -> dict[str, Any]:
        return {
            "v": 1,
            "genesis": Hex(self.digest),
            "time": int(time.time()),
            "epoch": self.epoch,
            "state": Hex(bytes(32)),
            "challenge": sha256(request.challenge),
            "recipients": Hex(binding.recipients_digest(request.recipients)),
            "kind": "tdx",
            "evidence": sha256(canonical.encode(request.evidence)),
            "collateral": sha256(b"collateral"),
            "result": sha256(RESULT),
            "lease": lease.id,
            "not_after": lease.not_after,
            "simulated": self.genesis.simulated,
        }

    def lease(self, name: str = "") -> messages.Lease:
        """Return a lease from now on."""
        now = int(time.time())
        return messages.Lease(
            name or secrets.token_hex(16), now + self.lease_seconds, now + self.renew_seconds
        )

    def release_leaf(
        self, request: messages.ReleaseRequest, lease: messages.Lease, /, **changes: Any
    ) -> leaf.ReleaseLeaf:
        """Return the leaf of a release, with other fields where a test says so."""
        keys = tuple(
            leaf.ReleasedKey(
                ref.id, ref.version, Hex(bytes(32)), 1, Hex(self.manifests[ref]), Hex(POLICY)
            )
            for ref in request.keys
        )
        wrap_key = messages.recipient(request.recipients, messages.WRAP_RSA)
        fields = {"keys": keys, "recipient": sha256(wrap_key)}
        return leaf.ReleaseLeaf(**self._common(request, lease) | fields | changes)

    def renewal_leaf(
        self, request: messages.RenewRequest, lease: messages.Lease, /, **changes: Any
    ) -> leaf.RenewalLeaf:
        """Return the leaf of a renewal."""
        fields = {"keys": request.keys, "policy": Hex(POLICY)}
        return leaf.RenewalLeaf(**self._common(request, lease) | fields | changes)

    def logged(self, entry: leaf.AnyLeaf) -> dict[str, Any]:
        """Put a leaf into the log and return what answers carry of it."""
        raw = canonical.encode(entry)
        self.log.append(raw)
        receipt = self.log.receipt(len(self.log.leaves) - 1)
        return {"leaf": B64(raw), "receipt": receipt.decode()}

    def release_answer(
        self,
        request: messages.ReleaseRequest,
        *,
        logged: dict[str, Any] | None = None,
        **changes: Any,
    ) -> messages.ReleaseAnswer:
        """Return the answer to a request; `logged` are other fields of its leaf."""
        lease = self.lease()
        entry = self.release_leaf(request, lease, **logged or {})
        wrap_key = messages.recipient(request.recipients, messages.WRAP_RSA)
        fields: dict[str, Any] = {
            "v": 1,
            "broker": self.genesis.broker,
            "genesis": Hex(self.digest),
            "challenge": sha256(request.challenge),
            "recipients": Hex(binding.recipients_digest(request.recipients)),
            "policies": (Hex(POLICY),),
            "keys": tuple(
                messages.WrappedKey(
                    ref.id,
                    ref.version,
                    Hex(self.manifests[ref]),
                    self.alg,  # type: ignore[arg-type]  # tests set it
                    wrap(self.deks[ref], wrap_key, self.alg),
                )
                for ref in request.keys
            ),
            "lease": lease,
            "result": B64(RESULT),
        }
        return messages.ReleaseAnswer(**fields | self.logged(entry) | changes)

    def renewal_answer(
        self,
        request: messages.RenewRequest,
        *,
        logged: dict[str, Any] | None = None,
        **changes: Any,
    ) -> messages.RenewalAnswer:
        """Return the answer to a renewal; `logged` are other fields of its leaf."""
        lease = self.lease(request.lease)
        fields: dict[str, Any] = {
            "v": 1,
            "broker": self.genesis.broker,
            "genesis": Hex(self.digest),
            "challenge": sha256(request.challenge),
            "recipients": Hex(binding.recipients_digest(request.recipients)),
            "lease": lease,
            "result": B64(RESULT),
        }
        entry = self.renewal_leaf(request, lease, **logged or {})
        return messages.RenewalAnswer(**fields | self.logged(entry) | changes)

    def sign(
        self, answer: msgspec.Struct | bytes, payload_type: str = messages.ANSWER_TYPE
    ) -> bytes:
        """Return the envelope of an answer."""
        payload = answer if isinstance(answer, bytes) else canonical.encode(answer)
        return dsse.sign(payload_type, payload, self.key)

    def seal(self, folder: Path, out: Path) -> None:
        """Seal a model as this tenant's vendor does; its DEK and manifest are the answers' then."""
        name = ModelName(MODEL.id, MODEL.version, self.digest, MODEL.id, MODEL.version)
        with SecretKey(bytearray(self.deks[MODEL])) as dek:
            sealed = seal_model(
                folder,
                out,
                dek,
                name,
                lambda payload: dsse.sign(manifests.PAYLOAD_TYPE, payload, self.vendor),
            )
        self.manifests[MODEL] = sealed.digest


Scripted = tuple[int, dict[str, str], bytes]


def problem(status: int, code: str) -> Scripted:
    """Return a problem document as a broker sends it."""
    raw = json.dumps({"type": f"/problems/{code}", "title": "x", "status": status, "code": code})
    return status, {"content-type": "application/problem+json"}, raw.encode()


@dataclass
class Served:
    """A `SoftBroker` at a port of this machine, and how it behaves."""

    broker: SoftBroker
    sealed: Path | None = None
    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Method and target of every request so far."""
    script: Callable[[str, str], Scripted | None] = lambda _method, _target: None
    """Gives another answer than the broker's, where a test wants it."""
    renewal: Callable[[messages.RenewRequest], messages.RenewalAnswer] | None = None
    release: threading.Event = field(default_factory=threading.Event)
    """Ends what hangs."""
    hanging: bool = False
    """Whether renewals hang until `release`."""

    def count(self, method: str, target: str) -> int:
        """Return how often something was asked."""
        return self.asked.count((method, target))

    def answer(self, method: str, target: str, body: bytes, span: str | None) -> Scripted:
        """Return status, headers and body for a request."""
        self.asked.append((method, target))
        if (other := self.script(method, target)) is not None:
            return other
        broker, json_type = self.broker, {"content-type": "application/json"}
        if (method, target) == ("POST", "/v1/challenges"):
            canonical.decode(body, messages.ChallengeRequest)
            answer = messages.ChallengeAnswer(
                v=1,
                challenge=B64(secrets.token_bytes(150)),
                expires=int(time.time()) + 60,
                document=B64(broker.document),
            )
            return 200, json_type, canonical.encode(answer)
        if (method, target) == ("POST", "/v1/releases"):
            request = canonical.decode(body, messages.ReleaseRequest)
            return 200, json_type, broker.sign(broker.release_answer(request))
        if (method, target) == ("POST", "/v1/renewals"):
            if self.hanging:
                self.release.wait(60)
            renewal = canonical.decode(body, messages.RenewRequest)
            self._check_signature(renewal)
            make = self.renewal or broker.renewal_answer
            return 200, json_type, broker.sign(make(renewal))
        if target.startswith(f"/v1/tenants/{TENANT}/leases/"):
            told = {"leaf": 0} if method == "DELETE" else {"epoch": broker.epoch, "state": "live"}
            return 200, json_type, json.dumps(told).encode()
        return self._file(target, span)

    def _check_signature(self, request: messages.RenewRequest) -> None:
        """Raise unless the instance key signed what the quote carries as its report data."""
        report_data = bytes(request.evidence.cpu[48 + 520 : 48 + 584])
        spki = messages.recipient(request.recipients, messages.INSTANCE)
        key = serialization.load_der_public_key(spki)
        assert isinstance(key, Ed25519PublicKey)
        key.verify(request.signature, messages.renewal_message(report_data, request.lease))

    def _file(self, target: str, span: str | None) -> Scripted:
        root = f"/v1/tenants/{TENANT}/models/{MODEL.id}/{MODEL.version}/"
        if self.sealed is None or not target.startswith(root):
            return problem(404, "not_found")
        name = target.removeprefix(root)
        path = self.sealed / ("manifest.json" if name == "manifest" else name)
        if not path.is_file():
            return problem(404, "not_found")
        raw = path.read_bytes()
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", span or "")
        if match is None:
            return 200, {}, raw
        return 206, {}, raw[int(match[1]) : int(match[2]) + 1]


@contextmanager
def served(broker: SoftBroker, sealed: Path | None = None) -> Iterator[Served]:
    """Serve a broker over HTTP until the block ends."""
    found = Served(broker, sealed)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            size = int(self.headers.get("content-length", "0"))
            status, headers, body = found.answer(
                self.command, self.path, self.rfile.read(size), self.headers.get("range")
            )
            self.send_response(status)
            for name, value in ({"content-length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_DELETE = do_POST  # noqa: N815 - the names that http.server looks for

        def log_message(self, *_: object) -> None:
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            return  # a client that went away is part of the tests

    server = Server(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.release.set()
        server.shutdown()
        server.server_close()
        thread.join()
