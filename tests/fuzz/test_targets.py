"""Fuzz targets: every one accepts its seeds and survives fixed inputs, without atheris."""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from broker.errors import BrokerError, Code
from fuzz import blind, run, seeds
from fuzz.targets import OURS, TARGETS, FindingError, attempt
from tests.kit import corpus
from verifier.errors import Reason, VerifierError
from verifier.tdx import identity, tcbinfo

BAD = (b"", b"\0", b"{}", b"[", b"\xff" * 64, bytes(4096), b"\x30\x80" * 512, b"[" * 20_000)


@pytest.fixture(scope="module")
def good() -> Mapping[str, Sequence[bytes]]:
    return seeds.make()


def test_every_target_has_seeds(good: Mapping[str, Sequence[bytes]]) -> None:
    """No target starts from nothing, and no seed is for nobody."""
    assert good.keys() == TARGETS.keys()
    assert all(good.values())


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_accepted(name: str, good: Mapping[str, Sequence[bytes]]) -> None:
    """A target gets past its seeds, so that fuzzing starts behind the first check."""
    for raw in good[name]:
        TARGETS[name](raw)


@pytest.mark.parametrize("name", TARGETS)
def test_fixed_inputs(name: str, good: Mapping[str, Sequence[bytes]]) -> None:
    """Garbage, every seed cut short and every seed with bits flipped: our errors or none."""
    for raw in (*BAD, *(other[0] for other in good.values())):
        attempt(TARGETS[name], raw)
    for raw in good[name]:
        for number in range(40):
            at = number * len(raw) // 40
            attempt(TARGETS[name], raw[:at])
            attempt(TARGETS[name], raw[:at] + bytes([raw[at] ^ 1 << number % 8]) + raw[at + 1 :])
            attempt(TARGETS[name], raw[:at] + b"\xff\xff\xff\xff" + raw[at + 4 :])


@pytest.mark.skipif(not corpus.NAMES, reason=corpus.ABSENT)
@pytest.mark.parametrize("name", corpus.NAMES)
def test_recorded_evidence(name: str) -> None:
    """Real quotes and reports pass the targets that are for them."""
    case = corpus.load(name)
    for file, targets in (
        ("quote.bin", ("tdx-quote",)),
        ("report.bin", ("snp-report",)),
        ("vcek.der", ("vek-certificate", "der-certificate")),
        ("collateral.json", ("tdx-collateral",)),
    ):
        for target in targets if case.has(file) else ():
            attempt(TARGETS[target], case.read(file))


def test_a_finding_is_a_finding() -> None:
    """Our own errors are swallowed; anything else, and a lossy printer, comes through."""

    def refuses(_: bytes) -> None:
        raise VerifierError(Reason.MALFORMED, "no")

    def breaks(_: bytes) -> None:
        raise IndexError("out of range")

    attempt(refuses, b"")
    with pytest.raises(IndexError):
        attempt(breaks, b"")
    assert not issubclass(FindingError, OURS)


def test_found_a_challenge_whose_kind_is_no_text() -> None:
    """Found by fuzzing: with a good MAC over it, a kind that is not UTF-8 is our refusal too."""
    raw = seeds.make()["broker-challenge"][1].replace(b"tdx", b"\xb6dx")

    with pytest.raises(BrokerError) as caught:
        TARGETS["broker-challenge"](raw)
    assert caught.value.code is Code.CHALLENGE_UNKNOWN


@pytest.mark.parametrize("name", ["tcb-info", "qe-identity"])
def test_found_half_a_surrogate_in_intels_json(name: str) -> None:
    """Found by fuzzing: text that is no Unicode in a checked member is refused like any other."""
    text = seeds.make()[name][0].decode()
    bent = text.replace('"UpToDate"', '"\\ud800"', 1)
    parse = tcbinfo.parse if name == "tcb-info" else identity.parse

    assert bent != text
    with pytest.raises(VerifierError) as caught:
        parse(bent)
    assert caught.value.reason is Reason.COLLATERAL_MALFORMED


@pytest.mark.parametrize("kind", ["azure-runtime", "event-log", "quoted-registers"])
def test_found_text_that_is_no_unicode(kind: str) -> None:
    """Found by a list of odd JSON: half a surrogate pair, and UTF-16, are refused by our error."""
    raw = next(seed for seed in seeds.make()[kind] if seed[:1] in b"[{")
    half = raw.replace(b'"', b'"\\ud800', 1)
    for bent in (raw.decode().encode("utf-16"), half, half[::-1].replace(b'"', b'x"', 1)[::-1]):
        assert bent != raw
        attempt(TARGETS[kind], bent)


def runner(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fuzz.run", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=corpus.ROOT,
    )


def test_the_runner_counts(tmp_path: Path) -> None:
    """`python -m fuzz.run` prints inputs and findings per target, two at a time."""
    names = ("framing-reader", "azure-tdreport")
    done = runner("--total", "1", "--jobs", "2", "--out", str(tmp_path), *names)

    assert done.returncode == 0, done.stdout + done.stderr
    guided = importlib.util.find_spec("atheris") is not None
    assert done.stdout.startswith("atheris" if guided else "NO atheris")
    assert ("!!! NO atheris" in done.stderr) is not guided
    for name in names:
        tried = json.loads((tmp_path / f"{name}.json").read_text())["tried"]
        assert tried > 100
        assert f"| {name:<18} | {tried:>10,} |" in done.stdout
    assert done.stdout.endswith("0 findings\n")


def test_the_runner_knows_its_targets() -> None:
    """An unknown target is an error, with the list of those that there are."""
    with pytest.raises(SystemExit) as stop:
        run.main(["no-such-target"])
    assert stop.value.code == 2


def test_seeds_are_kept_and_read_again(tmp_path: Path) -> None:
    """The same seeds start a run again, byte for byte."""
    folder = run.write_seeds(tmp_path, ["pem", "event-log"])
    made = blind.recorded(folder / "event-log")

    assert made == [(folder / "event-log" / f"{n:04}").read_bytes() for n in range(3)]
    assert blind.recorded(folder / "pem")
    assert blind.recorded(None) == []


def test_one_input_alone(tmp_path: Path) -> None:
    """`--replay` says that an input is accepted, or ends with what it raises."""
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(seeds.make()["framing-reader"][0])
    bad.write_bytes(b"\1")

    assert runner("--replay", str(good), "framing-reader").stdout == "framing-reader: accepted\n"
    done = runner("--replay", str(bad), "framing-reader")
    assert done.returncode == 1
    assert "framing-reader: verifier.errors.VerifierError: framed bytes end early" in done.stdout


def test_mutations_repeat() -> None:
    """Blind inputs are the same for the same number."""
    one, other = (random.Random("1 pem") for _ in range(2))  # noqa: S311 - not for secrets
    pool = seeds.make()["framing-reader"][0]
    first = [blind.mutate(pool, b"other", one) for _ in range(50)]

    assert first == [blind.mutate(pool, b"other", other) for _ in range(50)]
    assert len(set(first)) > 40


def test_parts_together_are_all_targets():
    """Machines that share the targets leave none out and take none twice."""
    names = list(TARGETS)
    parts = [run._part(names, f"{number}/3") for number in (1, 2, 3)]

    assert sorted(name for part in parts for name in part) == sorted(names)
    assert run._part(names, "1/1") == names
    for bad in ("0/3", "4/3", "1", "a/b", "1/9999"):
        with pytest.raises(ValueError, match="--part"):
            run._part(names, bad)
