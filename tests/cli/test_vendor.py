"""What a vendor does without a broker: keys, genesis, policies."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ostiary import vendor
from tests.cli.conftest import Run, one_line
from tests.kit.runtime import SoftBroker
from verifier import dsse
from verifier.wire import canonical

CLEAN = """
name = "main"
keys = ["tiny-llama/1"]
manifests = ["{digest}"]

[release]
lease_seconds = 600
not_after = 2000000000

[[appraisal.reference]]
kind = "tdx"
name = "image"
mr_td = "{wide}"
rtmr0 = "{wide}"
rtmr1 = "{wide}"
rtmr2 = "{wide}"
mr_config_id = "{wide}"
""".format(digest="ab" * 32, wide="cd" * 48)


@pytest.fixture
def broker() -> SoftBroker:
    """Give a tenant."""
    return SoftBroker()


@pytest.fixture
def genesis(broker: SoftBroker, tmp_path: Path) -> Path:
    """Give its signed genesis in a file."""
    path = tmp_path / "genesis.json"
    path.write_bytes(broker.document)
    return path


def pem(
    path: Path, key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey, password: bytes = b""
) -> Path:
    """Write a private key."""
    protection = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection
    )
    path.write_bytes(encoded)
    path.chmod(0o600)
    return path


@pytest.fixture
def key(broker: SoftBroker, tmp_path: Path) -> Path:
    """Give its signer's key in a file."""
    return pem(tmp_path / "key.pem", broker.vendor)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """Give a policy that nobody objects to."""
    path = tmp_path / "policy.toml"
    path.write_text(CLEAN)
    return path


def test_keygen(ostiary: Run, tmp_path: Path) -> None:
    """A new key is for its owner only, its public half for the operator; nothing is overwritten."""
    path = tmp_path / "key.pem"
    said = ostiary("vendor", "keygen", path)
    assert said.status == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    private = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(private, Ed25519PrivateKey)
    spki = canonical.b64decode(Path(f"{path}.pub").read_text().strip())
    assert spki == dsse.spki(private.public_key())
    assert dsse.key_id(spki) in said.out
    assert path.read_text().splitlines()[1] not in said.out

    before = path.read_bytes()
    one_line(ostiary("vendor", "keygen", path), 2, "key_file", "exists")
    Path(f"{path}.pub").unlink()
    one_line(ostiary("vendor", "keygen", path), 2, "key_file", str(path))
    assert path.read_bytes() == before


def test_keygen_nowhere(ostiary: Run, tmp_path: Path) -> None:
    """A folder that is not there is named."""
    one_line(ostiary("vendor", "keygen", tmp_path / "no" / "key.pem"), 2, "key_file")


def test_sign_genesis(ostiary: Run, broker: SoftBroker, key: Path, tmp_path: Path) -> None:
    """A genesis is shown and signed by one of its signers, and by nobody else."""
    draft, out = tmp_path / "draft.json", tmp_path / "signed.json"
    draft.write_bytes(canonical.encode(broker.genesis))
    said = ostiary("vendor", "sign-genesis", draft, "--key", key, "--out", out)
    assert said.status == 0
    assert out.read_bytes() == broker.document
    for shown in (broker.digest.hex(), broker.genesis.broker.hex(), "SIMULATED", "1 of 1"):
        assert shown in said.out

    again = ostiary("vendor", "sign-genesis", draft, "--key", key, "--out", out)
    one_line(again, 2, "file", "exists")
    other = pem(tmp_path / "other.pem", Ed25519PrivateKey.generate())
    refused = ostiary("vendor", "sign-genesis", draft, "--key", other, "--out", tmp_path / "x")
    one_line(refused, 1, "not_a_signer", "operator")
    assert not (tmp_path / "x").exists()


def test_key_file(ostiary: Run, genesis: Path, policy: Path, key: Path, tmp_path: Path) -> None:
    """A key that others may read, of another kind, locked or missing is refused with advice."""

    def sign(path: Path) -> tuple[object, ...]:
        return ("policy", "sign", policy, "--genesis", genesis, "--key", path, "--out", out)

    out = tmp_path / "signed"
    key.chmod(0o640)
    one_line(ostiary(*sign(key)), 2, "key_file", f"chmod 600 {key}")
    key.chmod(0o600)
    p256 = pem(tmp_path / "p256.pem", ec.generate_private_key(ec.SECP256R1()))
    one_line(ostiary(*sign(p256)), 2, "key_file", "not an Ed25519 key")
    locked = pem(tmp_path / "locked.pem", Ed25519PrivateKey.generate(), b"password")
    one_line(ostiary(*sign(locked)), 2, "key_file", "PEM")
    one_line(ostiary(*sign(tmp_path / "none.pem")), 2, "key_file", "keygen")
    one_line(ostiary(*sign(genesis)), 2, "key_file")
    assert not out.exists()


def test_lint(ostiary: Run, policy: Path) -> None:
    """A clean policy has no objections; each careless line has one that says why, and status 1."""
    said = ostiary("policy", "lint", policy)
    assert (said.status, said.out) == (0, "0 objections\n")

    careless = {
        "not_after = 2000000000": ("", "never runs out"),
        'mr_config_id = "' + "cd" * 48 + '"': ("", "another tenant or broker"),
        "[release]": ("[appraisal.tdx]\nallow_debug = true\n[release]", "read its memory"),
    }
    for line, (instead, objection) in careless.items():
        policy.write_text(CLEAN.replace(line, instead))
        said = ostiary("policy", "lint", policy)
        assert said.status == 1, line
        assert objection in said.out
        assert "1 objections" in said.out
    policy.write_text(CLEAN[: CLEAN.index("[[")] + "[appraisal]\n")
    said = ostiary("policy", "lint", policy)
    assert said.status == 1
    assert "refuses every machine" in said.out


BAD = {
    "not TOML": "x = = 1",
    "unknown field": CLEAN + "\ncolour = 1",
    "unknown field above": "colour = 1\n" + CLEAN,
    "wrong type": CLEAN.replace('"main"', "1"),
    "not hexadecimal": CLEAN.replace("ab" * 32, "zz" * 32),
    "upper case": CLEAN.replace("ab" * 32, "AB" * 32),
    "lease too short": CLEAN.replace("lease_seconds = 600", "lease_seconds = 1"),
    "unknown kind": CLEAN.replace('kind = "tdx"', 'kind = "sgx"'),
    "empty": "",
    "too large": "#" + "x" * (2 << 20),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_policy(ostiary: Run, policy: Path, genesis: Path, key: Path, name: str) -> None:
    """A policy that cannot be read is refused by lint and by sign alike, in one line."""
    policy.write_text(BAD[name])
    one_line(ostiary("policy", "lint", policy), 2)
    out = policy.with_suffix(".json")
    signing = ("policy", "sign", policy, "--genesis", genesis, "--key", key, "--out", out)
    one_line(ostiary(*signing), 2)
    assert not out.exists()


def test_sign_policy(ostiary: Run, policy: Path, genesis: Path, key: Path, tmp_path: Path) -> None:
    """A signed policy names its number and, after the first, its predecessor."""
    first, second = tmp_path / "1.json", tmp_path / "2.json"
    options = ("--genesis", genesis, "--key", key)
    assert ostiary("policy", "sign", policy, "--out", first, *options).status == 0
    said = ostiary(
        *("policy", "sign", policy, "--out", second, "--version", 2, "--after", first, *options)
    )
    assert "version 2" in said.out
    assert vendor.policy_file(second.read_bytes()) == vendor.policy_file(first.read_bytes())
    assert vendor.policy_digest(first.read_bytes()).hex().encode() in dsse.payload_unverified(
        second.read_bytes()
    )
    garbage = ostiary(
        *("policy", "sign", policy, "--out", tmp_path / "3", "--after", policy, *options)
    )
    one_line(garbage, 2, "malformed")


def test_tampered_genesis(ostiary: Run, policy: Path, genesis: Path, key: Path) -> None:
    """A genesis that its signers did not sign is refused before anything is signed for it."""
    raw = genesis.read_bytes()
    genesis.write_bytes(raw.replace(b'"sig":"', b'"sig":"A', 1))
    out = policy.with_suffix(".json")
    said = ostiary("policy", "sign", policy, "--genesis", genesis, "--key", key, "--out", out)
    one_line(said, 2)
    assert not out.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_file_of_somebody_else(ostiary: Run, policy: Path) -> None:
    """A file that may not be read is named."""
    policy.chmod(0)
    one_line(ostiary("policy", "lint", policy), 2, "Permission denied")
