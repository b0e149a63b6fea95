"""`ostiary verify --provenance`: a real quote, and bundles of a Sigstore of our own."""

from __future__ import annotations

import hashlib
import importlib.util
import json

import pytest

from tests.kit import corpus
from tests.kit.vendors import NOW

if importlib.util.find_spec("sigstore") is None:
    pytest.skip("extra `provenance` is not installed", allow_module_level=True)

from tests.kit import sigstore as kit

CASE = "tdx/v4-00806f-gcp-uptodate-2026-01"
SIGNED = NOW - 200 * kit.DAY
POLICY = """
[[provenance]]
subject = "mr_td"
identity = "{identity}"
issuer = "{issuer}"
predicate_type = "{predicate}"
repository = "{repository}"
ref = "{ref}"
trusted_roots = ["{root}"]

[[reference]]
kind = "tdx"
name = "guest"
mr_td = "{mr_td}"
rtmr0 = "{rtmr0}"
rtmr1 = "{rtmr1}"
rtmr2 = "{rtmr2}"
"""


@pytest.fixture
def verify(tmp_path):
    """Return a function that verifies the case with these options more."""
    if not (corpus.EVIDENCE / CASE).is_dir():
        pytest.skip(corpus.ABSENT)
    arguments = corpus.load(CASE).arguments()
    body = json.loads(corpus.run_cli(arguments)[1])["claims"]["body"]
    house = kit.instance()
    root = house.trusted_root()
    (tmp_path / "root.json").write_bytes(root)
    for name, digest in (("good", body["mr_td"]), ("other", "ab" * 48)):
        made = house.attest(kit.statement({"sha384": digest}), kit.Signer(at=SIGNED))
        (tmp_path / f"{name}.json").write_bytes(kit.raw(made))
    (tmp_path / "bad.json").write_bytes(b"{}")

    def run(*options, ref=kit.REF):
        policy = POLICY.format(
            identity=kit.IDENTITY,
            issuer=kit.ISSUER,
            predicate=kit.PREDICATE,
            repository=kit.REPOSITORY,
            ref=ref,
            root=hashlib.sha256(root).hexdigest(),
            **body,
        )
        (tmp_path / "policy.toml").write_text(policy)
        told = [str(tmp_path / each) if each.endswith(".json") else each for each in options]
        return corpus.run_cli([*arguments, "--policy", str(tmp_path / "policy.toml"), *told])

    return run


def test_accepted(verify):
    """A real quote whose MRTD the named workflow attested is accepted; the result says by whom."""
    status, out, _ = verify("--provenance", "good.json", "--trusted-root", "root.json")

    (told,) = json.loads(out)["claims"]["provenance"]
    assert (status, told["identity"]) == (0, kit.IDENTITY)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ((), "provenance_missing"),
        (("--provenance", "other.json", "--trusted-root", "root.json"), "provenance_missing"),
        (("--provenance", "bad.json", "--trusted-root", "root.json"), "provenance_invalid"),
        (("--provenance", "good.json", "--trusted-root", "bad.json"), "provenance_root"),
    ],
)
def test_refused(verify, options, reason):
    """Nothing, another artefact's bundle, a bad one and another root are refused by name."""
    status, out, _ = verify(*options)

    assert status == 1
    assert reason in json.loads(out)["reasons"]


def test_another_ref(verify):
    """A bundle from another ref than the policy's is refused."""
    status, out, _ = verify(
        "--provenance", "good.json", "--trusted-root", "root.json", ref="refs/tags/v2"
    )

    assert (status, json.loads(out)["reasons"]) == (1, ["provenance_identity"])


@pytest.mark.parametrize(
    "options",
    [
        ("--provenance", "good.json"),
        ("--trusted-root", "root.json"),
        ("--provenance", "absent.json", "--trusted-root", "root.json"),
    ],
)
def test_unreadable(verify, options):
    """One option without the other, and files that are not there, are exit status 2."""
    assert verify(*options)[0] == 2
