"""NRAS's second opinion on the command line: a no denies, a yes is a note, nothing in between."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ostiary.cli import verify_nvidia
from ostiary.cli.inputs import UnreadableError
from tests.kit import nvcli, nvgpu, nvrim
from tests.kit.nvgpu import Judge
from verifier import x509
from verifier.errors import Reason
from verifier.nvgpu import chain
from verifier.nvgpu.device import DeviceKind
from verifier.result import AttestationResult, Verdict

NOW = nvgpu.NOW


def claims_of_now(bend: Callable[[dict[str, Any]], None] = lambda _: None) -> Any:
    """Return what signs claims as of the tests' moment, bent first."""

    def sign(claims: dict[str, Any]) -> str:
        told = claims | {"iat": NOW, "nbf": NOW, "exp": NOW + 3600}
        told["eat_nonce"] = nvgpu.NONCE.hex()
        bend(told)
        return nvrim.token(told)

    return sign


def judged(
    folder: Path, answers: dict[str, bytes], *more: str, judge: Judge | None = None
) -> AttestationResult:
    words = nvcli.write(judge or Judge(nvgpu.make(8, "ppcie")), folder)
    (folder / "keys.json").write_bytes(nvrim.jwks())
    for option, raw in answers.items():
        path = folder / f"{option[2:]}.json"
        path.write_bytes(raw)
        words += [option, str(path)]
    if answers:
        words += ["--nras-keys", str(folder / "keys.json")]
    return verify_nvidia.judge(nvcli.parsed([*words, *more]), nvgpu.anchors())


def serials(judge: Judge, kind: DeviceKind) -> list[int]:
    chains = [chain.load(each.chain) for each in judge.sent if each.kind is kind]
    return [x509.serial_number(each.certificates[0]) for each in chains]


def answers(judge: Judge, sign: Any) -> dict[str, bytes]:
    gpus, switches = (serials(judge, kind) for kind in DeviceKind)
    return {
        "--nras": nvrim.nras_answer(gpus, sign=sign),
        "--switch-nras": nvrim.nras_answer(switches, prefix="SWITCH", sign=sign),
    }


def test_a_yes_is_a_note(tmp_path: Path) -> None:
    """The verdict rests on our own checks; the opinion is told, and so is when it ends."""
    judge = Judge(nvgpu.make(8, "ppcie"))
    result = judged(tmp_path, answers(judge, claims_of_now()), judge=judge)
    notes = [check for check in result.checks if check.name.startswith("nras")]

    assert result.verdict is Verdict.ACCEPT
    assert [(note.name, note.ok) for note in notes] == [("nras_gpu", None), ("nras_switch", None)]
    assert result.expires is not None
    assert result.expires <= NOW + 3600


def test_a_yes_repairs_nothing(tmp_path: Path) -> None:
    """A set that we refuse stays refused."""
    judge = Judge(nvgpu.make(8, "ppcie"))
    said = answers(judge, claims_of_now())
    result = judged(tmp_path, said, "--policy", str(_policy(tmp_path, 4)), judge=judge)

    assert result.verdict is Verdict.REJECT
    assert Reason.GPU_COUNT in result.reasons


def _policy(folder: Path, count: int) -> Path:
    path = folder / "four.toml"
    path.write_text(f"[gpu]\ncount = {count}\n")
    return path


@pytest.mark.parametrize(
    ("bend", "reason"),
    [
        (lambda claims: claims.update(eat_nonce="00" * 32), Reason.NONCE_MISMATCH),
        (lambda claims: claims.update(exp=NOW - 3600), Reason.COLLATERAL_EXPIRED),
        (lambda claims: claims.update(iss="https://example.org"), Reason.COLLATERAL_MISMATCH),
    ],
)
def test_anything_else_denies(
    tmp_path: Path, bend: Callable[[dict[str, Any]], None], reason: Reason
) -> None:
    """An answer to somebody else, of old, or by somebody else denies what we alone accept."""
    judge = Judge(nvgpu.make(8, "ppcie"))
    result = judged(tmp_path, answers(judge, claims_of_now(bend)), judge=judge)

    assert result.verdict is Verdict.REJECT
    assert reason in result.reasons


def test_a_no_denies(tmp_path: Path) -> None:
    """NRAS's own refusal is one."""
    judge = Judge(nvgpu.make(8, "ppcie"))
    said = answers(judge, claims_of_now())
    said["--nras"] = nvrim.nras_answer(
        serials(judge, DeviceKind.GPU),
        sign=claims_of_now(lambda claims: claims.update(measres="fail")),
    )
    result = judged(tmp_path, said, judge=judge)

    assert Reason.NRAS_REFUSED in result.reasons


def test_a_service_that_cannot_be_had_denies(tmp_path: Path) -> None:
    """Where an opinion was asked for, none is a refusal that says so."""
    result = judged(tmp_path, {}, "--ask-nras", "http://127.0.0.1:1")

    assert result.verdict is Verdict.REJECT
    assert result.reasons == (Reason.COLLATERAL_UNAVAILABLE,)


def test_options_that_do_not_fit(tmp_path: Path) -> None:
    """Keys without an answer, an answer for half the set, and both ways at once."""
    judge = Judge(nvgpu.make(8, "ppcie"))
    said = answers(judge, claims_of_now())
    for given, more in (
        ({}, ("--nras-keys", str(tmp_path / "keys.json"))),
        ({"--nras": said["--nras"]}, ()),
        (said, ("--ask-nras",)),
    ):
        with pytest.raises(UnreadableError):
            judged(tmp_path, given, *more, judge=judge)


def test_keys_that_cannot_be_read_deny(tmp_path: Path) -> None:
    """A file that is no JWKS is a refusal of the opinion, for each kind of device."""
    judge = Judge(nvgpu.make(8, "ppcie"))
    words = nvcli.write(judge, tmp_path)
    (tmp_path / "keys.json").write_text(json.dumps([]))
    for option, raw in answers(judge, claims_of_now()).items():
        path = tmp_path / f"{option[2:]}.json"
        path.write_bytes(raw)
        words += [option, str(path)]
    words += ["--nras-keys", str(tmp_path / "keys.json")]
    result = verify_nvidia.judge(nvcli.parsed(words), nvgpu.anchors())

    assert result.reasons == (Reason.COLLATERAL_MALFORMED,)
