"""A vendor, an auditor and an operator at a broker that serves: every verb as they would use it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from ostiary.demo_model import make_demo_model
from tests.cli.conftest import Run, Site, one_line
from tests.cli.test_vendor import CLEAN
from verifier import dsse
from verifier.wire import canonical


@dataclass(frozen=True)
class Handed:
    """A model that was handed in: where it is, and what was said on the way."""

    sealed: Path
    manifest: str
    policy: Path
    import_key: str


_HANDED: list[Handed] = []


@pytest.fixture
def handed(site: Site, ostiary: Run, tmp_path_factory: pytest.TempPathFactory) -> Handed:
    """Hand a model in, once: import key, seal, push, policy, order."""
    if _HANDED:
        return _HANDED[0]
    root = tmp_path_factory.mktemp("vendor")
    model, sealed = root / "model", root / "sealed"
    make_demo_model(model)
    assert ostiary("vendor", "import-key", *site.options).status == 0
    told = ostiary("broker", "--home", site.home, "import-keys").out.split()
    assert told[::2] == ["acme", "created"] or told[0] == "acme"
    pin = told[1]
    said = ostiary(
        *("model", "seal", model, sealed, "--model", "tiny-llama/1"),
        *("--import-key-sha256", pin, *site.options),
    )
    assert said.status == 0, said
    manifest = next(line.split()[1] for line in said.out.splitlines() if "manifest" in line)
    said = ostiary("model", "push", sealed, *site.options)
    assert said.status == 0, said
    policy, signed = root / "policy.toml", root / "policy.json"
    policy.write_text(CLEAN.replace("ab" * 32, manifest))
    own = ("--genesis", site.genesis, "--key", site.key)
    assert ostiary("policy", "lint", policy).status == 0
    assert ostiary("policy", "sign", policy, "--out", signed, *own).status == 0
    said = ostiary("policy", "push", signed, *site.options)
    assert said.status == 0, said
    said = ostiary(
        "key", "order", "tiny-llama/1", "active", "--reason", "it is time", *site.options
    )
    assert said.status == 0, said
    _HANDED.append(Handed(sealed, manifest, signed, pin))
    return _HANDED[0]


def test_list(site: Site, ostiary: Run, handed: Handed) -> None:
    """`key list` shows the key, its state and the policy that holds for it, as JSON."""
    shown = json.loads(ostiary("key", "list", *site.options).out)
    (key,) = shown["state"]["keys"]
    assert (key["id"], key["version"], key["state"]) == ("tiny-llama", 1, "active")
    assert (key["manifest"], key["policy_version"]) == (handed.manifest, 1)
    assert shown["leases"] == []


def test_log(site: Site, ostiary: Run, handed: Handed, tmp_path: Path) -> None:
    """The log is shown leaf by leaf, taken home and checked there; a bit changed is found."""
    del handed
    said = ostiary("log", "show", *site.options)
    kinds = [line.split()[-1] for line in said.out.splitlines()]
    assert kinds == ["Genesis", "ImportKey", "Key", "Policy", "Key"]

    home = tmp_path / "home"
    said = ostiary("log", "fetch", 2, "--out", home, *site.options)
    assert said.status == 0
    command = said.out.splitlines()[1].replace("'", "").split()
    assert command[:3] == ["ostiary", "log", "verify"]
    said = ostiary(*command[1:])
    assert said.status == 0, said
    assert said.out.rstrip().endswith("accept")

    leaf = home / "leaf.json"
    leaf.write_bytes(leaf.read_bytes().replace(b'"epoch":2', b'"epoch":3'))
    said = ostiary(*command[1:])
    assert said.status == 1
    assert "reject" in said.out
    again = ostiary("log", "fetch", 2, "--out", home, *site.options)
    one_line(again, 2, "exists")
    one_line(ostiary("log", "fetch", 99, "--out", home, *site.options), 1, "no leaf 99")
    assert ostiary("log", "fetch", "-1", "--out", home, *site.options).status == 2


def test_pin(site: Site, ostiary: Run, handed: Handed, tmp_path: Path) -> None:
    """Nothing is sealed to an import key whose digest is not the one that was confirmed."""
    del handed
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "x").write_bytes(b"x")
    seal = ("model", "seal", tmp_path / "model", tmp_path / "sealed", "--model", "m/1")
    said = ostiary(*seal, "--import-key-sha256", "00" * 32, *site.options)
    one_line(said, 1, "import_key_unpinned", "operator")
    for digest in ("00", "zz" * 32, "AB" * 32, "", "0x" + "00" * 31):
        said = ostiary(*seal, "--import-key-sha256", digest, *site.options)
        assert said.status == 2
        assert "--import-key-sha256" in said.err
    assert not (tmp_path / "sealed").exists()


def test_again(site: Site, ostiary: Run, handed: Handed) -> None:
    """What is in force is not put in force again, and an order that says nothing new is refused."""
    said = ostiary("policy", "push", handed.policy, *site.options)
    one_line(said, 1, "policy_rolled_back", "409")
    said = ostiary("key", "order", "tiny-llama/1", "pre-activation", *site.options)
    assert said.status == 1
    one_line(ostiary("key", "order", "nothing/1", "active", *site.options), 1)


@pytest.mark.parametrize("ref", ["tiny-llama", "tiny-llama/", "/1", "x/0", "x/01", "X/1", "x/1/2"])
def test_reference(site: Site, ostiary: Run, ref: str) -> None:
    """A key version is `id/version` in one spelling."""
    one_line(ostiary("key", "order", ref, "active", *site.options), 2, "malformed")


def test_state_that_is_none(site: Site, ostiary: Run) -> None:
    """Key states are those of SP 800-57; the answer lists them."""
    said = ostiary("key", "order", "tiny-llama/1", "revoked", *site.options)
    assert said.status == 2
    assert "compromised" in said.err


def test_stranger(site: Site, ostiary: Run, tmp_path: Path) -> None:
    """A key that nobody enrolled gets nowhere."""
    key = tmp_path / "other.pem"
    assert ostiary("vendor", "keygen", key).status == 0
    options = ("--broker", site.url, "--genesis", site.genesis, "--key", key)
    one_line(ostiary("key", "list", *options), 1, "unauthenticated", "401")


def test_nobody_there(site: Site, ostiary: Run) -> None:
    """A broker that does not run, and an address that is none, are told apart from refusals."""
    own = ("--genesis", site.genesis, "--key", site.key)
    said = ostiary("key", "list", "--broker", "http://127.0.0.1:1", *own)
    one_line(said, 1, "unreachable", "is the broker running?")
    said = ostiary("key", "list", "--broker", "127.0.0.1:1", *own)
    one_line(said, 1, "unreachable", "such as http://")


def test_push_of_something_else(site: Site, ostiary: Run, tmp_path: Path) -> None:
    """A folder that is no sealed model is refused by what it lacks."""
    one_line(ostiary("model", "push", tmp_path, *site.options), 2, "manifest.json")
    (tmp_path / "manifest.json").write_bytes(b"{}")
    one_line(ostiary("model", "push", tmp_path, *site.options), 2, "malformed")


def test_push_of_a_damaged_model(site: Site, ostiary: Run, handed: Handed, tmp_path: Path) -> None:
    """A sealed file that is not the manifest's, or is missing, is refused."""
    copy = tmp_path / "sealed"
    (copy / "files").mkdir(parents=True)
    for path in handed.sealed.rglob("*"):
        if path.is_file():
            (copy / path.relative_to(handed.sealed)).write_bytes(path.read_bytes())
    path = min((copy / "files").iterdir())
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + bytes((raw[-1] ^ 1,)))
    one_line(ostiary("model", "push", copy, *site.options), 1, path.name)
    path.unlink()
    one_line(ostiary("model", "push", copy, *site.options), 2, path.name, "No such file")


def test_keys_stay_secret(site: Site, ostiary: Run, handed: Handed) -> None:
    """Nothing that the vendor's commands wrote holds the key that signs."""
    del ostiary
    private = serialization.load_pem_private_key(site.key.read_bytes(), None)
    secret = private.private_bytes(
        serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
    )
    for path in (*handed.sealed.rglob("*"), handed.policy, site.root / "serve.txt"):
        if path.is_file():
            raw = path.read_bytes()
            assert secret not in raw
            assert secret.hex().encode() not in raw
    said = canonical.b64decode((site.root / "key.pem.pub").read_text().strip())
    assert said == dsse.spki(private.public_key())  # type: ignore[arg-type]  # Ed25519
