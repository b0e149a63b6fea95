"""Judging forged SEV-SNP evidence: strict rules, forged roots, every generation and kind of key."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kit.snp import AMAZON, appraise, open_policy
from tests.kit.snp_forge import NOW, Evidence, Forge, pinned
from verifier.anchors import Anchors
from verifier.cache import Cache
from verifier.policy import AppraisalPolicy, SnpRules
from verifier.result import AttestationResult
from verifier.snp.product import GENOA, MILAN, TURIN
from verifier.snp.report import KEY_VCEK, KEY_VLEK

GENERATIONS = (MILAN, GENOA, TURIN)
FORGES = [
    Forge(generation, key, version)
    for generation in GENERATIONS
    for key in (KEY_VCEK, KEY_VLEK)
    for version in (3, 5)
]
every_forge = pytest.mark.parametrize("forge", FORGES, ids=str)
every_vcek = pytest.mark.parametrize("forge", [f for f in FORGES if f.key == KEY_VCEK], ids=str)
every_vlek = pytest.mark.parametrize("forge", [f for f in FORGES if f.key == KEY_VLEK], ids=str)
one_of_each = pytest.mark.parametrize("forge", [f for f in FORGES if f.version == 5], ids=str)

VLEK_RULES: dict[str, Any] = {"signing_keys": ("VCEK", "VLEK"), "csps": (AMAZON,)}


def strict(**rules: Any) -> AppraisalPolicy:
    """Return strict rules that admit VLEK too, for the forged measurement."""
    policy = open_policy(b"\x0e" * 0x200)
    return AppraisalPolicy(snp=SnpRules(**(VLEK_RULES | rules)), reference=policy.reference)


def judge(
    evidence: Evidence,
    *,
    policy: AppraisalPolicy | None = None,
    now: int = NOW,
    anchors: Anchors | None = None,
    cache: Cache | None = None,
) -> AttestationResult:
    """Appraise forged evidence with the forged roots trusted."""
    return appraise(
        evidence.report,
        evidence.endorsements,
        now=now,
        policy=policy or strict(),
        report_data=b"\x0d" * 64,
        anchors=anchors or pinned(),
        cache=cache,
    )
