"""`ostiary verify nvidia` on simulated sets in files, and what it cannot read."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from ostiary.cli import verify_nvidia
from ostiary.simulator.nvidia import ocsp
from ostiary.simulator.services import Vendors, serving
from tests.kit import corpus, nvcli, nvgpu
from tests.kit.nvgpu import Judge
from verifier.collateral import gpus
from verifier.collateral.nvidia import NvidiaService
from verifier.collateral.sources import Services, Stored
from verifier.collateral.store import Store
from verifier.collateral.web import Web
from verifier.nvgpu import endorsements, needs
from verifier.result import Appraisal, Verdict


def test_a_board_with_everything(tmp_path: Path) -> None:
    """8 GPUs and 4 switches with RIMs, OCSP answers, CRLs and a policy are accepted."""
    words = nvcli.write(Judge(nvgpu.make(8, "ppcie")), tmp_path)
    result = verify_nvidia.judge(nvcli.parsed([*words, "--json"]), nvgpu.anchors())

    assert result.verdict is Verdict.ACCEPT, result.reasons
    assert result.simulated
    assert [line.split()[:2] for line in verify_nvidia.lines(result)] == [
        ["accept", f"{kind}[{at}]"]
        for kind, count in (("gpu", 8), ("switch", 4))
        for at in range(count)
    ]
    assert not [c.name for c in result.checks if c.ok is None and "revocation" in c.name]


def test_a_revoked_device_is_named(tmp_path: Path) -> None:
    """One OCSP answer that says revoked denies the set, and its device's line says why."""
    whole = nvgpu.make(2)
    judge = Judge(whole)
    serial = whole.gpus[1].identity.brom_serial
    assert judge.endorsements is not None
    said = ocsp.Answer("revoked")
    bad = nvgpu.known().responder.respond(serial, "gh100_ica", nvgpu.NOW, said)
    judge.endorsements = endorsements.GpuEndorsements(
        judge.endorsements.rims, (*judge.endorsements.ocsp, bad), judge.endorsements.crls
    )
    words = nvcli.write(judge, tmp_path)
    result = verify_nvidia.judge(nvcli.parsed(words), nvgpu.anchors())

    assert [reason.value for reason in result.reasons] == ["certificate_revoked"]
    good, bad_line = verify_nvidia.lines(result)
    assert good.startswith("accept ")
    assert bad_line.startswith("reject ")
    assert bad_line.endswith("(certificate_revoked)")


def test_no_simulator_is_admitted_by_the_command(tmp_path: Path) -> None:
    """The command itself pins NVIDIA's roots: what is good for the simulator is nobody's there."""
    words = nvcli.write(Judge(nvgpu.make()), tmp_path)
    status, out, err = corpus.run_cli([*words, "--json"])
    result = json.loads(out)

    assert (status, err) == (1, "")
    assert result["reasons"][0] == "root_unknown"
    assert result["claims"]["devices"][0]["genuine"] is False
    status, out, _ = corpus.run_cli(words)
    assert "NOT genuine (root_unknown)" in out


def test_what_was_fetched_into_a_store_is_enough(tmp_path: Path) -> None:
    """All files below the store's `objects` can be named, and what is needed is picked out."""
    judge = Judge(nvgpu.make(8, "ppcie"))
    store = tmp_path / "store"

    async def fetch(url: str) -> None:
        web = Web()
        services = Services(nvidia=NvidiaService(web, *[url] * 3))
        stored = Stored(Store(store, nvgpu.anchors()), services, nvgpu.anchors(), lambda: judge.now)
        wanted = needs.read(judge.sent, now=judge.now, anchors=nvgpu.anchors())
        await gpus.gather(stored, wanted)
        await stored.aclose()
        await web.aclose()

    with serving(Vendors(lambda: nvgpu.NOW, nvidia=nvgpu.known())) as server:
        asyncio.run(fetch(server.url))
    words = nvcli.write(judge, tmp_path)
    objects = [str(path) for path in (store / "objects").glob("*/*")]
    at = words.index("--rim")
    given = ["--rim", *objects, "--ocsp", *objects, "--policy", words[-1]]
    result = verify_nvidia.judge(nvcli.parsed([*words[:at], *given]), nvgpu.anchors())

    assert result.verdict is Verdict.ACCEPT, result.reasons
    assert len(objects) >= 24


def test_a_count_that_the_policy_does_not_say(tmp_path: Path) -> None:
    """A policy about two GPUs refuses one."""
    words = nvcli.write(Judge(nvgpu.make()), tmp_path)
    Path(words[-1]).write_text("[gpu]\ncount = 2\n")
    result = verify_nvidia.judge(nvcli.parsed(words), nvgpu.anchors())

    assert [reason.value for reason in result.reasons] == ["gpu_count"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"--nonce": ["00" * 31]}, "--nonce: 32 bytes expected, 31 seen"),
        ({"--nonce": ["xy" * 32]}, "--nonce: "),
        ({"--at": ["yesterday"]}, "--at: "),
        ({"--evidence": ["/nonexistent"]}, "--evidence: "),
        ({"--rim": ["/nonexistent"]}, "--rim: "),
        ({"--ocsp": None, "--no-revocation": []}, "--crl and --no-revocation"),
        ({"--ocsp": None}, "one of the arguments --ocsp --no-revocation is required"),
        ({"--evidence": None}, "one of the arguments --evidence --report is required"),
        ({"--evidence": None, "--report": ["{chain}"]}, "--report goes with --chain"),
        ({"--chain": ["{chain}"]}, "--chain goes with --report"),
        (
            {"--evidence": None, "--report": ["{chain}"], "--chain": ["{chain}"]}
            | {"--switch-evidence": ["{chain}"]},
            "--report goes with --chain, and with nothing else",
        ),
    ],
)
def test_what_cannot_be_read(
    changes: dict[str, list[str] | None], told: str, tmp_path: Path
) -> None:
    """Options that are missing, contradict one another or name no such file are exit status 2."""
    judge = Judge(nvgpu.make())
    chain = tmp_path / "chain.pem"
    chain.write_bytes(judge.sent[0].chain)
    words = nvcli.write(judge, tmp_path)
    for option, values in changes.items():
        if option in words:
            at = words.index(option)
            ends = [i for i in range(at + 1, len(words)) if words[i].startswith("--")]
            del words[at : ends[0] if ends else len(words)]
        if values is not None:
            words += [option, *(value.format(chain=chain) for value in values)]
    status, out, err = corpus.run_cli(words)

    assert (status, out) == (2, "")
    assert told in err


@pytest.mark.parametrize(
    "text",
    ["", "{", "{}", "[]", "[1]", '[{"arch": 1}]', '[{"arch": "HOPPER", "evidence": "!"}]', "\xff"],
)
def test_evidence_that_is_no_evidence(text: str, tmp_path: Path) -> None:
    """A file that is no list of devices is unreadable, not refused."""
    words = nvcli.write(Judge(nvgpu.make()), tmp_path)
    (tmp_path / "evidence.json").write_bytes(text.encode("latin-1"))
    status, out, err = corpus.run_cli(words)

    assert (status, out) == (2, "")
    assert err.startswith("ostiary verify: --evidence: ")


def test_more_parts_than_any_set_has(tmp_path: Path) -> None:
    """Too many parts are a refusal, and a part that is too large is unreadable."""
    words = nvcli.write(Judge(nvgpu.make()), tmp_path)
    rim = words[words.index("--rim") + 1]
    at = words.index("--rim") + 1
    many = [*words[:at], *[rim] * (endorsements.MAX_PARTS + 1), *words[at:], "--json"]
    status, out, _ = corpus.run_cli(many)
    assert (status, json.loads(out)["reasons"]) == (1, ["too_large"])

    Path(rim).write_bytes(bytes((1 << 20) + 1))
    status, _, err = corpus.run_cli(words)
    assert status == 2
    assert "more than 1048576 bytes" in err


def test_a_chain_of_nothing_is_refused(tmp_path: Path) -> None:
    """A chain that cannot be read is a refusal that says so, not an error of the command."""
    judge = Judge(nvgpu.make())
    words = nvcli.write(judge, tmp_path)
    report, chain = tmp_path / "report.bin", tmp_path / "chain.pem"
    report.write_bytes(judge.sent[0].report)
    chain.write_bytes(b"no certificates")
    at = words.index("--evidence")
    words[at : at + 2] = ["--report", str(report), "--chain", str(chain)]
    status, out, _ = corpus.run_cli([*words, "--json"])

    assert (status, json.loads(out)["claims"]["devices"][0]["genuine"]) == (1, False)


def test_results_without_devices_have_no_lines() -> None:
    """Results of other kinds are printed as before."""
    assert verify_nvidia.lines(Appraisal("tdx").result()) == []
