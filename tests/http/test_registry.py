"""The registry over HTTP: manifest and files in by the vendor, exact ranges out to leases."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from inference_runtime.sealed import manifest as manifests
from inference_runtime.sealed.seal import ModelName, SealedModel, seal_model
from inference_runtime.sealed.secret import SecretKey
from tests.kit.broker import House, problem
from tests.kit.broker_guest import identity
from tests.kit.broker_home import RIVAL, TENANT
from verifier import dsse

ROOT = f"/v1/tenants/{TENANT}/models/tiny/1"
NAMES = ("config.json", "weights/one file.gguf")
OCTETS = "application/octet-stream"


@dataclass(frozen=True)
class Shelf:
    """A house with a sealed model that its vendor signed."""

    house: House
    sealed: SealedModel
    files: dict[str, bytes]

    def put(
        self, name: str, body: bytes | AsyncIterator[bytes], *, said: bytes | None = None
    ) -> httpx.Response:
        """Upload a file; `said` is what the token was made for."""
        target = f"{ROOT}/files/{name.replace(' ', '%20')}"
        signed = said if said is not None else body if isinstance(body, bytes) else b""
        bearer = self.house.token("PUT", target, signed)
        return self.house.send(
            "PUT", target, body, authorization=f"Bearer {bearer}", content_type=OCTETS
        )

    def get(self, name: str, lease: str, *, range: str | None = None) -> httpx.Response:  # noqa: A002 - the header's name
        """Download as the runtime that holds a lease."""
        target = f"{ROOT}/files/{name.replace(' ', '%20')}"
        issuer = f"lease:{lease}"
        return self.house.call("GET", target, key=identity().instance, issuer=issuer, range=range)


def seal(house: House, where: Path, key: Ed25519PrivateKey, **contents: bytes) -> SealedModel:
    """Seal a model for the tenant."""
    folder = where / "model"
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(contents.get(Path(name).stem.partition(" ")[0], b"data " * 99))
    of = ModelName("tiny", 1, house.tenant.digest, "tiny", 1)
    return seal_model(
        folder,
        where / "sealed",
        SecretKey.generate(),
        of,
        lambda payload: dsse.sign(manifests.PAYLOAD_TYPE, payload, key),
        threads=1,
    )


@pytest.fixture
def shelf(own: House, tmp_path: Path) -> Shelf:
    """Give a broker with a registered manifest and no file yet."""
    sealed = seal(own, tmp_path, own.key)
    answer = own.call("PUT", f"{ROOT}/manifest", sealed.envelope)
    assert answer.json() == {"manifest": sealed.digest.hex()}
    files = {name: (tmp_path / "sealed" / "files" / name).read_bytes() for name in NAMES}
    return Shelf(own, sealed, files)


def test_there_and_back(shelf: Shelf) -> None:
    """What the vendor uploads a runtime with a lease downloads, whole and by ranges."""
    lease = shelf.house.released().lease.id
    for name, raw in shelf.files.items():
        problem(shelf.get(name, lease), "not_found", 404)
        assert shelf.put(name, raw).json() == {"size": len(raw)}
        whole = shelf.get(name, lease)
        assert (whole.status_code, whole.content) == (200, raw)
        for first, last in ((0, 0), (5, 9), (len(raw) - 1, len(raw) - 1), (3, len(raw) + 99)):
            part = shelf.get(name, lease, range=f"bytes={first}-{last}")
            assert part.content == raw[first : last + 1]
            assert part.status_code == 206
            end = min(last, len(raw) - 1)
            assert part.headers["content-range"] == f"bytes {first}-{end}/{len(raw)}"
    issuer = f"lease:{lease}"
    found = shelf.house.call("GET", f"{ROOT}/manifest", key=identity().instance, issuer=issuer)
    assert found.content == shelf.sealed.envelope


ODD = (
    "bytes=-5",
    "bytes=5-",
    "bytes=9-5",
    "bytes=0-1,3-4",
    "bytes=1000000-1000001",
    "bytes=00-5",
    "bytes= 0-5",
    "bytes=0-99999999999999999999",
    "items=0-5",
    "",
)


def test_odd_ranges(shelf: Shelf) -> None:
    """One range, spelled in one way; everything else is refused, never read wrongly."""
    shelf.put(NAMES[0], shelf.files[NAMES[0]])
    lease = shelf.house.released().lease.id
    for value in ODD:
        problem(shelf.get(NAMES[0], lease, range=value), "malformed", 400)


def test_other_bytes(shelf: Shelf) -> None:
    """A file is stored only if it is the one of the manifest: size, digest, and what was signed."""
    name, raw = NAMES[0], shelf.files[NAMES[0]]
    for body, code in (
        (raw[:-1], "malformed"),
        (raw[:-1] + bytes((raw[-1] ^ 1,)), "malformed"),
        (raw + b"\0", "too_large"),
        (b"", "malformed"),
        (shelf.files[NAMES[1]], "malformed"),
    ):
        answer = shelf.put(name, body)
        assert answer.json()["code"] in {code, "too_large"}
        problem(answer, answer.json()["code"])
    problem(shelf.put(name, raw, said=b"something else"), "unauthenticated")
    objects = shelf.house.prepared.home / "objects"
    digest = hashlib.sha256(raw).hexdigest()
    assert not (objects / "sha256" / digest[:2] / digest).exists()
    assert list((objects / "tmp").iterdir()) == []


def test_endless_upload(shelf: Shelf) -> None:
    """An upload that does not end is cut off at the manifest's size."""

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(65536)

    problem(shelf.put(NAMES[0], endless()), "too_large", 413)


def test_other_names(shelf: Shelf) -> None:
    """Only a path that the manifest names is stored or read, compared as text."""
    lease = shelf.house.released().lease.id
    odd = (
        "other",
        "../manifest",
        "..%2f..%2fbroker.toml",
        "%2e%2e/x",
        "config.json/",
        "/etc/passwd",
    )
    for name in odd:
        answer = shelf.put(name, b"x")
        problem(answer, answer.json()["code"])
        assert answer.status_code in {400, 401, 404, 405}
        assert shelf.get(name, lease).status_code in {401, 404}


def test_manifest_of_somebody_else(shelf: Shelf, tmp_path: Path) -> None:
    """A manifest counts if the tenant signed it, for this name, and it never changes."""
    house = shelf.house
    (tmp_path / "again").mkdir()
    stranger = seal(house, tmp_path / "again", Ed25519PrivateKey.generate())
    problem(house.call("PUT", f"{ROOT}/manifest", stranger.envelope), "forbidden", 403)
    other = f"/v1/tenants/{TENANT}/models/tiny/2/manifest"
    problem(house.call("PUT", other, shelf.sealed.envelope), "malformed", 400)
    elsewhere = f"/v1/tenants/{RIVAL}/models/tiny/1/manifest"
    rival = house.prepared.signers[RIVAL]
    answer = house.call("PUT", elsewhere, shelf.sealed.envelope, key=rival, issuer=RIVAL)
    problem(answer, "forbidden", 403)
    (tmp_path / "third").mkdir()
    changed = seal(house, tmp_path / "third", house.key)
    problem(house.call("PUT", f"{ROOT}/manifest", changed.envelope), "conflict", 409)
    assert house.call("PUT", f"{ROOT}/manifest", shelf.sealed.envelope).is_success


def test_manifest_with_a_way_out(shelf: Shelf) -> None:
    """A signed manifest whose paths lead out of the model is refused all the same."""
    payload = dsse.payload_unverified(shelf.sealed.envelope)
    good = msgspec.json.decode(payload)
    for path in ("../x", "/x", "a//b", "a/./b", "", "a\nb", "x" * 600):
        files = [good["files"][0] | {"path": path}]
        bad = dsse.sign(
            manifests.PAYLOAD_TYPE,
            msgspec.json.encode(good | {"files": files, "version": 1}),
            shelf.house.key,
        )
        problem(shelf.house.call("PUT", f"{ROOT}/manifest", bad), "malformed", 400)


def test_media_type(shelf: Shelf) -> None:
    """A file comes as octets, a manifest as JSON."""
    target = f"{ROOT}/files/{NAMES[0]}"
    raw = shelf.files[NAMES[0]]
    problem(shelf.house.call("PUT", target, raw, content_type="text/plain"), "malformed", 400)
    manifest = shelf.sealed.envelope
    answer = shelf.house.call("PUT", f"{ROOT}/manifest", manifest, content_type=OCTETS)
    problem(answer, "malformed", 400)


def test_head(shelf: Shelf) -> None:
    """HEAD tells the size and nothing else."""
    name, raw = NAMES[0], shelf.files[NAMES[0]]
    shelf.put(name, raw)
    answer = shelf.house.call("HEAD", f"{ROOT}/files/{name}")

    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len(raw))


def test_ciphertext_only(shelf: Shelf) -> None:
    """What lies in the broker's home opens without its key to nobody: no plaintext is there."""
    for name, raw in shelf.files.items():
        shelf.put(name, raw)
    stored = b"".join(
        path.read_bytes()
        for path in (shelf.house.prepared.home / "objects").rglob("*")
        if path.is_file()
    )
    assert all(raw in stored for raw in shelf.files.values())
    assert b"data data" not in stored
