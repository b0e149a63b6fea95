"""A vendor hands in Sigstore bundles at a broker that serves, with a policy and after it."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

if importlib.util.find_spec("sigstore") is None:
    pytest.skip("extra `provenance` is not installed", allow_module_level=True)

from ostiary import vendor
from ostiary.client import Tenant, TenantClient, load_key
from tests.cli.conftest import Run, Site, one_line
from tests.cli.test_vendor import CLEAN
from tests.kit import sigstore
from tests.kit.provenance import about, encoded, rules

RULE = """
[[appraisal.provenance]]
subject = "mr_td"
identity = "{identity}"
issuer = "{issuer}"
trusted_roots = ["{root}"]
predicate_type = "{predicate}"
"""
LAUNCH = bytes.fromhex("cd" * 48)


@dataclass(frozen=True)
class Drawn:
    """A signed policy that demands provenance, and what may go with it, in files."""

    policy: Path
    signed: Path
    bundle: Path
    root: Path

    @property
    def given(self) -> tuple[object, ...]:
        """What a good command hands in."""
        return ("--provenance", self.bundle, "--trusted-root", self.root)


def rule(root: str = "") -> str:
    """Return a demand in TOML."""
    wanted = rules("mr_td")
    return RULE.format(
        identity=wanted.identity,
        issuer=wanted.issuer,
        root=root or wanted.trusted_roots[0].hex(),
        predicate=wanted.predicate_type,
    )


@pytest.fixture
def drawn(site: Site, ostiary: Run, tmp_path: Path) -> Drawn:
    """Give a policy for a key that the broker does not have, so that it never takes effect."""
    found = Drawn(*(tmp_path / name for name in ("p.toml", "p.json", "b.json", "root.json")))
    found.policy.write_text(CLEAN.replace("tiny-llama", "nobody") + rule())
    found.bundle.write_bytes(about(LAUNCH))
    found.root.write_bytes(sigstore.instance().trusted_root())
    own = ("--genesis", site.genesis, "--key", site.key)
    said = ostiary("policy", "sign", found.policy, "--out", found.signed, *own)
    assert said.status == 0, said
    assert "note: the policy demands provenance" in said.out
    return found


def held(site: Site, drawn: Drawn) -> bytes:
    """Return what the broker has for the policy."""
    tenant = Tenant.read(site.genesis.read_bytes())
    with TenantClient(site.url, tenant, load_key(site.key)) as client:
        return client.provenance(vendor.policy_digest(drawn.signed.read_bytes()))


def test_lint(ostiary: Run, drawn: Drawn) -> None:
    """A demand is no objection, and what it takes is said; rules without a common root are one."""
    said = ostiary("policy", "lint", drawn.policy)
    assert said.status == 0
    assert said.out.startswith("0 objections\nnote: the policy demands provenance")
    drawn.policy.write_text(drawn.policy.read_text() + rule("00" * 32))
    said = ostiary("policy", "lint", drawn.policy)
    assert said.status == 1
    assert "no trusted root that all rules pin" in said.out


def test_push(site: Site, ostiary: Run, drawn: Drawn) -> None:
    """Bundles are there before the policy is, and stay to be replaced when it is refused."""
    push = ("policy", "push", drawn.signed, *drawn.given, *site.options)
    one_line(ostiary(*push), 1, "policy_invalid")  # no such key
    assert held(site, drawn) == encoded(drawn.bundle.read_bytes())

    drawn.bundle.write_bytes(about(LAUNCH, at=sigstore.SIGNED - 1))
    said = ostiary("policy", "provenance", drawn.signed, *drawn.given, *site.options)
    assert said.status == 0, said
    assert "is replaced" in said.out
    assert held(site, drawn) == encoded(drawn.bundle.read_bytes())


def test_what_is_not_sent(site: Site, ostiary: Run, drawn: Drawn, tmp_path: Path) -> None:
    """Options that do not fit, foreign roots and bad bundles are refused here already."""
    verb = ("policy", "provenance", drawn.signed)
    one_line(ostiary(*verb, *site.options), 1, "--trusted-root are required")
    one_line(ostiary(*verb, *drawn.given[:2], *site.options), 2, "go together")
    one_line(ostiary(*verb, *drawn.given[2:], *site.options), 2, "go together")
    missing = ("--provenance", tmp_path / "none", *drawn.given[2:])
    one_line(ostiary(*verb, *missing, *site.options), 2, "--provenance", "No such file")
    drawn.root.write_bytes(sigstore.Instance.create().trusted_root())
    one_line(ostiary(*verb, *drawn.given, *site.options), 2, "provenance_root", "pinned")
    drawn.root.write_bytes(sigstore.instance().trusted_root())
    drawn.bundle.write_bytes(b"{}")
    one_line(ostiary(*verb, *drawn.given, *site.options), 2, "provenance_invalid")


def test_a_policy_that_demands_none(site: Site, ostiary: Run, drawn: Drawn, tmp_path: Path) -> None:
    """Bundles for a policy that nobody would hold them against are refused."""
    drawn.policy.write_text(CLEAN)
    signed = tmp_path / "none.json"
    own = ("--genesis", site.genesis, "--key", site.key)
    said = ostiary("policy", "sign", drawn.policy, "--out", signed, *own)
    assert "note: the policy demands provenance" not in said.out
    push = ("policy", "push", signed, *drawn.given, *site.options)
    one_line(ostiary(*push), 1, "demands no provenance")


def test_without_the_library(
    site: Site, ostiary: Run, drawn: Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vendor need not have `sigstore`: the broker says what it thinks of a bundle."""
    monkeypatch.setitem(sys.modules, "sigstore.models", None)
    verb = ("policy", "provenance", drawn.signed, *drawn.given, *site.options)
    assert ostiary(*verb).status == 0
    drawn.bundle.write_bytes(b"{}")
    one_line(ostiary(*verb), 1, "provenance_refused")
