"""The Python client of a vendor, an auditor or an operator of one tenant.

Guarantees: every request carries a token for that request alone, signed by the enrolled key; an
import key is used only if its digest is the pinned one; checkpoints and leaves are returned as they
came, to be checked with `verifier.tlog`. The DEK leaves `wrap_dek` only as RSA-OAEP ciphertext.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self, TypeVar, final
from urllib.parse import quote

import httpx
import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa

from inference_runtime.client import is_address
from ostiary import clock
from verifier import dsse
from verifier.wire import canonical, messages
from verifier.wire.canonical import B64
from verifier.wire.documents import GENESIS_TYPE, Genesis

JSON: Final = "application/json"
OCTETS: Final = "application/octet-stream"
CHUNK: Final = 1 << 20
MAX_ANSWER: Final = 256 << 20
"""Most bytes of an answer: a page of 256 of the largest leaves, in base64."""
TOKEN_SECONDS: Final = 240
IMPORT_KEY_BITS: Final = 4096


class ClientError(Exception):
    """The broker refused, cannot be reached, or is not who it should be. `code` is the broker's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@final
@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant as its members know it: the genesis that they signed, and its digest."""

    genesis: Genesis
    digest: bytes

    @classmethod
    def read(cls, document: bytes) -> Self:
        """Return the tenant of a signed genesis.

        Raises:
            VerifierError: it is malformed or not signed by its own signers.
        """
        genesis = canonical.decode(dsse.payload_unverified(document), Genesis)
        payload = dsse.verify(document, GENESIS_TYPE, genesis.signers, genesis.threshold)
        return cls(genesis, hashlib.sha256(payload).digest())

    @property
    def origin(self) -> str:
        """The origin line of the tenant's log."""
        return self.genesis.origin(self.digest)


def load_key(path: Path) -> ed25519.Ed25519PrivateKey:
    """Return the Ed25519 key in a PEM file that only its owner may read.

    Raises:
        ClientError: `key_file`, saying what to do.
    """
    try:
        if path.stat().st_mode & 0o077:
            raise ClientError("key_file", f"{path} can be read by others; run chmod 600 {path}")
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise ClientError(
            "key_file", f"{path}: {error.strerror}; ostiary vendor keygen makes a key"
        ) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ClientError("key_file", f"{path}: not a private key in PEM") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise ClientError("key_file", f"{path}: not an Ed25519 key")
    return key


def wrap_dek(spki: bytes, pinned: bytes, dek: memoryview) -> bytes:
    """Return the DEK wrapped to the HSM's import key, if that is the pinned one.

    Args:
        spki: the import key as the broker sent it (DER).
        pinned: SHA-256 of the SPKI that was confirmed out of band.
        dek: the 32 bytes of the data key.

    Raises:
        ClientError: `import_key_unpinned`.
    """
    if not hmac.compare_digest(hashlib.sha256(spki).digest(), pinned):
        raise ClientError(
            "import_key_unpinned",
            f"the broker offers import key {hashlib.sha256(spki).hexdigest()}, pinned is "
            f"{pinned.hex()}: confirm the new digest with the operator before you pin it",
        )
    try:
        key = serialization.load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ClientError("import_key_unpinned", "the pinned import key is no key") from error
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size != IMPORT_KEY_BITS:
        raise ClientError("import_key_unpinned", "the pinned import key is not RSA-4096")
    # SoftHSM 2.6.1 knows OAEP with SHA-1 only; OAEP does not rest on its collision resistance.
    digest = hashes.SHA1()  # noqa: S303 - see above
    scheme = padding.OAEP(mgf=padding.MGF1(digest), algorithm=digest, label=None)
    return key.encrypt(bytes(dek), scheme)


@final
class TenantClient:
    """Calls one broker for one tenant with one enrolled key. Use it as a context manager."""

    def __init__(
        self,
        base_url: str,
        tenant: Tenant,
        key: ed25519.Ed25519PrivateKey,
        *,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Prepare to call `base_url`; nothing is sent yet.

        Raises:
            ClientError: `unreachable` if that is no address.
        """
        if not is_address(base_url):
            raise ClientError(
                "unreachable",
                f"{base_url!r} is not the address of a broker, such as http://127.0.0.1:8420",
            )
        self.tenant = tenant
        self._key = key
        self._key_id = dsse.key_id(dsse.spki(key.public_key()))
        self._http = httpx.Client(
            base_url=base_url,
            timeout=httpx.Timeout(60.0, connect=5.0),
            transport=transport,
            headers={"accept-encoding": "identity"},
        )
        self._root = f"/v1/tenants/{tenant.genesis.tenant}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def create_import_key(self) -> bytes:
        """Have a new import key made and return its SPKI (DER)."""
        return _read(self._call("POST", "/import-keys"), _ImportKey).spki_bytes()

    def import_keys(self) -> list[bytes]:
        """Return the SPKIs (DER) of the import keys that live."""
        answer = _read(self._call("GET", "/import-keys"), list[_ImportKey])
        return [entry.spki_bytes() for entry in answer]

    def push_key(self, statement: bytes, ciphertext: bytes) -> None:
        """Hand in a wrapped DEK with its signed statement (DSSE)."""
        message = messages.KeyImport(v=1, statement=B64(statement), ciphertext=B64(ciphertext))
        body = canonical.encode(message)
        self._call("POST", "/keys", body)

    def order_key(self, order: bytes) -> None:
        """Hand in a signed order (DSSE) that moves a key to another state."""
        self._call("POST", "/key-orders", order)

    def push_policy(self, document: bytes) -> None:
        """Hand in a signed release policy (DSSE)."""
        self._call("PUT", "/policies", document)

    def push_provenance(self, policy: bytes, raw: bytes) -> None:
        """Hand in a `ProvenanceSet` for the policy version whose payload has this SHA-256."""
        self._call("PUT", f"/policies/{policy.hex()}/provenance", raw)

    def provenance(self, policy: bytes) -> bytes:
        """Return the `ProvenanceSet` that the broker has for a policy version."""
        return self._call("GET", f"/policies/{policy.hex()}/provenance")

    def push_manifest(self, model: str, version: int, envelope: bytes) -> None:
        """Register a sealed model's signed manifest."""
        self._call("PUT", f"/models/{model}/{version}/manifest", envelope)

    def push_file(
        self,
        model: str,
        version: int,
        path: str,
        source: Path,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Upload one sealed file, streamed; `progress` is told how many more bytes went.

        Raises:
            ClientError: the broker's refusal, or `file`.
        """
        target = f"/models/{model}/{version}/files/{quote(path)}"
        try:
            # One open file for both readings: the digest is of what is sent, or the broker refuses.
            with source.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                size = file.tell()
                file.seek(0)
                pieces = _pieces(file, size, progress)
                self._call("PUT", target, pieces, sha256=digest, media=OCTETS, size=size)
        except OSError as error:
            raise ClientError("file", f"{source}: {error.strerror}") from error

    def checkpoint(self) -> bytes:
        """Return the newest signed checkpoint of the tenant's log (a C2SP note)."""
        return self._call("GET", "/log/checkpoint")

    def leaves(self, start: int = 0, limit: int = 256) -> list[bytes]:
        """Return leaves of the log as they stand in it."""
        raw = self._call("GET", f"/log/leaves?start={start}&limit={limit}")
        return [canonical.b64decode(text) for text in _read(raw, list[str])]

    def receipt(self, index: int) -> bytes:
        """Return a receipt (C2SP tlog-proof) for the leaf at `index`."""
        return self._call("GET", f"/log/proof?index={index}")

    def consistency(self, old: int, new: int) -> bytes:
        """Return a consistency proof between two sizes, one base64 hash a line."""
        return self._call("GET", f"/log/consistency?old={old}&new={new}")

    def result(self, lease: str, audience: str, nonce: str, dialect: str) -> bytes:
        """Return a token (EAR) about the newest evidence of a live lease; `nonce` is hex."""
        asked = f"aud={quote(audience, safe='')}&nonce={quote(nonce, safe='')}&dialect={dialect}"
        return self._call("GET", f"/leases/{quote(lease, safe='')}/result?{asked}")

    def state(self) -> dict[str, Any]:
        """Return keys, epoch and state digest as the broker sees them."""
        return _read(self._call("GET", "/state"), dict[str, Any])

    def epoch(self) -> int:
        """Return the state epoch, which orders are given from."""
        return _read(self._call("GET", "/state"), _State).epoch

    def leases(self) -> list[dict[str, Any]]:
        """Return the tenant's leases."""
        return _read(self._call("GET", "/leases"), list[dict[str, Any]])

    def audit(self, limit: int = 50) -> list[dict[str, Any]]:
        """Return the newest audit records, denials with all their reasons among them."""
        return _read(self._call("GET", f"/audit?limit={limit}"), list[dict[str, Any]])

    def explanation(self, entry: int) -> str:
        """Return what one of them means, and what to do about it."""
        return _read(self._call("GET", f"/audit/{entry}"), _Refusal).explanation

    def _call(
        self,
        method: str,
        path: str,
        body: bytes | Iterator[bytes] = b"",
        *,
        sha256: str | None = None,
        media: str = JSON,
        size: int | None = None,
    ) -> bytes:
        target = self._root + path
        if sha256 is None:
            sha256 = hashlib.sha256(body if isinstance(body, bytes) else b"").hexdigest()
        headers = {"authorization": f"Bearer {self._token(method, target, sha256)}"}
        if body:
            headers["content-type"] = media
        if size is not None:
            headers["content-length"] = str(size)
        try:
            with self._http.stream(method, target, content=body or None, headers=headers) as answer:
                raw = _bounded(answer)
        except httpx.HTTPError as error:
            raise ClientError(
                "unreachable", f"{method} {target}: {type(error).__name__}: is the broker running?"
            ) from error
        if answer.is_success:
            return raw
        raise _refused(method, target, answer, raw)

    def _token(self, method: str, target: str, sha256: str) -> str:
        now = clock.now()
        return jwt.encode(
            {
                "iss": self.tenant.genesis.tenant,
                "aud": self.tenant.genesis.broker.hex(),
                "iat": now,
                "exp": now + TOKEN_SECONDS,
                "jti": secrets.token_hex(16),
                "htm": method,
                "htu": target,
                "bsha": sha256,
            },
            self._key,
            algorithm="EdDSA",
            headers={"kid": self._key_id},
        )


class _ImportKey(msgspec.Struct, frozen=True):
    spki: str

    def spki_bytes(self) -> bytes:
        return canonical.b64decode(self.spki)


class _State(msgspec.Struct, frozen=True):
    epoch: int


class _Refusal(msgspec.Struct, frozen=True):
    explanation: str


class _Problem(msgspec.Struct, frozen=True):
    code: str = "http"
    title: str = ""


T = TypeVar("T")


def _read(raw: bytes, kind: type[T]) -> T:
    """Return what a broker said in JSON, or `answer_invalid`."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ClientError("answer_invalid", f"the broker's answer: {error}") from error


def _pieces(file: BinaryIO, size: int, progress: Callable[[int], None] | None) -> Iterator[bytes]:
    while size and (piece := file.read(min(CHUNK, size))):
        size -= len(piece)
        yield piece
        if progress is not None:
            progress(len(piece))


def _bounded(answer: httpx.Response) -> bytes:
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise ClientError("answer_invalid", "a compressed answer, which was not asked for")
    pieces, size = [], 0
    for piece in answer.iter_raw():
        size += len(piece)
        if size > MAX_ANSWER:
            raise ClientError("answer_invalid", f"an answer of more than {MAX_ANSWER} bytes")
        pieces.append(piece)
    return b"".join(pieces)


def _refused(method: str, target: str, answer: httpx.Response, raw: bytes) -> ClientError:
    try:
        problem = msgspec.json.decode(raw, type=_Problem)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        problem = _Problem()
    # What a stranger may have sent is shown, but never as control characters of a terminal.
    shown = [
        "".join(letter for letter in text[:200] if letter.isprintable())
        for text in (problem.code, problem.title or answer.reason_phrase)
    ]
    return ClientError(shown[0], f"{method} {target}: {answer.status_code} {shown[0]}: {shown[1]}")
