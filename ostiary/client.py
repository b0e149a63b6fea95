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
from typing import Any, Final, Self, final
from urllib.parse import quote

import httpx
import jwt
import msgspec
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa

from ostiary import clock
from verifier import dsse
from verifier.wire import canonical, messages
from verifier.wire.canonical import B64
from verifier.wire.documents import GENESIS_TYPE, Genesis

JSON: Final = "application/json"
OCTETS: Final = "application/octet-stream"
CHUNK: Final = 1 << 20
TOKEN_SECONDS: Final = 240


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
    except (OSError, ValueError, TypeError) as error:
        raise ClientError("key_file", f"{path}: not a readable private key") from error
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
    key = serialization.load_der_public_key(spki)
    if not isinstance(key, rsa.RSAPublicKey):
        raise ClientError("import_key_unpinned", "the pinned import key is not RSA")
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
        self.tenant = tenant
        self._key = key
        self._key_id = dsse.key_id(dsse.spki(key.public_key()))
        self._http = httpx.Client(
            base_url=base_url, timeout=httpx.Timeout(60.0, connect=5.0), transport=transport
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
        return msgspec.json.decode(self._call("POST", "/import-keys"), type=_ImportKey).spki_bytes()

    def import_keys(self) -> list[bytes]:
        """Return the SPKIs (DER) of the import keys that live."""
        answer = msgspec.json.decode(self._call("GET", "/import-keys"), type=list[_ImportKey])
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
        """Upload one sealed file, streamed; `progress` is told how many more bytes went."""
        digest = hashlib.sha256()
        with source.open("rb") as file:
            while piece := file.read(CHUNK):
                digest.update(piece)

        def pieces() -> Iterator[bytes]:
            with source.open("rb") as file:
                while piece := file.read(CHUNK):
                    yield piece
                    if progress is not None:
                        progress(len(piece))

        target = f"/models/{model}/{version}/files/{quote(path)}"
        size = source.stat().st_size
        self._call("PUT", target, pieces(), sha256=digest.hexdigest(), media=OCTETS, size=size)

    def checkpoint(self) -> bytes:
        """Return the newest signed checkpoint of the tenant's log (a C2SP note)."""
        return self._call("GET", "/log/checkpoint")

    def leaves(self, start: int = 0, limit: int = 256) -> list[bytes]:
        """Return leaves of the log as they stand in it."""
        raw = self._call("GET", f"/log/leaves?start={start}&limit={limit}")
        return [canonical.b64decode(text) for text in msgspec.json.decode(raw, type=list[str])]

    def receipt(self, index: int) -> bytes:
        """Return a receipt (C2SP tlog-proof) for the leaf at `index`."""
        return self._call("GET", f"/log/proof?index={index}")

    def consistency(self, old: int, new: int) -> bytes:
        """Return a consistency proof between two sizes, one base64 hash a line."""
        return self._call("GET", f"/log/consistency?old={old}&new={new}")

    def state(self) -> Any:  # noqa: ANN401 - JSON for people
        """Return keys, epoch and state digest as the broker sees them."""
        return msgspec.json.decode(self._call("GET", "/state"))

    def leases(self) -> Any:  # noqa: ANN401 - JSON for people
        """Return the tenant's leases."""
        return msgspec.json.decode(self._call("GET", "/leases"))

    def audit(self, limit: int = 50) -> Any:  # noqa: ANN401 - JSON for people
        """Return the newest audit records, denials with all their reasons among them."""
        return msgspec.json.decode(self._call("GET", f"/audit?limit={limit}"))

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
            answer = self._http.request(method, target, content=body or None, headers=headers)
        except httpx.HTTPError as error:
            raise ClientError(
                "unreachable", f"{method} {target}: {type(error).__name__}: is the broker running?"
            ) from error
        if answer.is_success:
            return answer.content
        raise _refused(method, target, answer)

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


def _refused(method: str, target: str, answer: httpx.Response) -> ClientError:
    try:
        problem = msgspec.json.decode(answer.content, type=dict[str, Any])
    except msgspec.MsgspecError:
        problem = {}
    code = str(problem.get("code", "http"))
    title = problem.get("title", answer.reason_phrase)
    return ClientError(code, f"{method} {target}: {answer.status_code} {code}: {title}")
