"""`ostiary verify nvidia` and `ostiary explain` over every recorded case with a device in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ostiary.__main__ import main
from tests.kit import corpus, nvcli, nvgpu
from verifier import x509

NAMES = [
    name
    for name in nvgpu.NAMES
    if (nvgpu.FOLDER / name).is_dir() and nvcli.has_devices(nvgpu.load(name))
]
EXITS = {"accept": 0, "reject": 1, "unsupported": 3}
FULL = "hopper/h100-550.90.07-full"

recorded = pytest.mark.skipif(not NAMES, reason=corpus.ABSENT)


@recorded
@pytest.mark.parametrize("name", NAMES)
def test_every_case(name: str) -> None:
    """The command says of a case what its case.json says, and exactly what the library says."""
    case = nvgpu.load(name)
    status, out, err = corpus.run_cli(nvcli.arguments(case))
    result = json.loads(out)
    judged = case.judge(nonce=bytes.fromhex(nvcli.nonce_of(case)))

    assert err == ""
    assert result == judged.to_dict()
    assert status == EXITS[result["verdict"]]
    assert (status == 0) == (case.told["expected"]["result"] == "PASS")
    assert len(result["claims"]["devices"]) == len(case.sent())


@recorded
@pytest.mark.parametrize("name", NAMES)
def test_every_case_is_explained(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every reason is told with its advice, and each value once, however many devices."""
    words = nvcli.arguments(nvgpu.load(name))
    status, out, _ = corpus.run_cli(words)
    path = tmp_path / "result.json"
    path.write_text(out)

    assert main(["explain", str(path)]) == status
    said = capsys.readouterr().out
    reasons = json.loads(out)["reasons"]
    assert said.count("what to do: ") == len(reasons)
    assert all(reason in said for reason in reasons)
    blocks = [line for line in said.splitlines() if line.startswith("     seen ")]
    assert len(blocks) == len(set(blocks))


@recorded
def test_a_board_is_explained_shortly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What eight GPUs lack stands there once, with the ids to fetch."""
    _, out, _ = corpus.run_cli(nvcli.arguments(nvgpu.load("hgx/hgx8-h100-4xls10-ppcie-590.12")))
    path = tmp_path / "result.json"
    path.write_text(out)
    main(["explain", str(path)])
    said = capsys.readouterr().out

    for name, wanted in (
        ("gpu[0-7].rim.driver", "NV_GPU_DRIVER_GH100_590.12"),
        ("gpu[0-7].rim.vbios", "NV_GPU_VBIOS_G520_0200_885_9600A50001"),
        ("switch[0-3].rim.switch", "NV_SWITCH_BIOS_5612_0002_890_9610730001"),
    ):
        assert f"   {name}\n     expected {wanted}\n" in said


@recorded
def test_for_people() -> None:
    """Without --json a device is one line that begins with its verdict."""
    words = [word for word in nvcli.arguments(nvgpu.load(FULL)) if word != "--json"]
    status, out, _ = corpus.run_cli(words)

    assert status == 0
    (line,) = [line for line in out.splitlines() if "gpu[0] " in line]
    assert line.startswith("accept      gpu[0]  genuine GH100 41431d480fe5e87274 spt driver ")
    assert line.endswith(" driver 550.90.07 VBIOS 96.00.9F.00.01")


@recorded
@pytest.mark.parametrize("kept", [0, 1])
def test_without_its_rims_a_device_is_not_accepted(kept: int) -> None:
    """A genuine device of which one RIM or both are missing is told to be genuine, and refused."""
    case = nvgpu.load(FULL)
    rims = [name for name in case.told["files"] if name.endswith(".xml")]
    status, out, _ = corpus.run_cli(nvcli.arguments(case, rims[:kept]))
    (device,) = json.loads(out)["claims"]["devices"]

    assert status == 1
    assert (device["verdict"], device["reasons"]) == ("reject", ["collateral_missing"])
    assert device["genuine"] is True
    assert "compared" not in device["claims"]


@recorded
def test_without_revocation_said_aloud() -> None:
    """--no-revocation is in the result, and OCSP files that say nothing of a chain are refused."""
    words = nvcli.arguments(nvgpu.load(FULL))
    _, out, _ = corpus.run_cli(words)
    aloud = [c for c in json.loads(out)["checks"] if c["name"].endswith("revocation")]
    assert len(aloud) == 3
    assert {(c["ok"], c["expected"]) for c in aloud} == {
        (None, "not judged: the caller asked for none")
    }
    at = words.index("--no-revocation")
    chain = nvgpu.FOLDER / FULL / "chain.pem"
    status, out, _ = corpus.run_cli([*words[:at], "--ocsp", str(chain), *words[at + 1 :]])
    assert (status, json.loads(out)["reasons"]) == (1, ["revocation_missing"])


@recorded
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"--at": "2026-11-20T00:00:00Z"}, "rim_expired"),
        ({"--nonce": "00" * 32}, "nonce_mismatch"),
    ],
)
def test_time_and_nonce_decide(change: dict[str, str], reason: str) -> None:
    """Dates are judged at --at, and freshness by --nonce, whatever files say."""
    words = nvcli.arguments(nvgpu.load(FULL))
    for option, value in change.items():
        words[words.index(option) + 1] = value
    status, out, _ = corpus.run_cli(words)

    assert (status, json.loads(out)["reasons"]) == (1, [reason])


@recorded
def test_what_a_file_says_of_its_devices_is_not_believed(tmp_path: Path) -> None:
    """A switch that a file calls a GPU is refused by its certificate; one alone is recognised."""
    case = nvgpu.load("ls10/ls10-96.10.55-full")
    path = tmp_path / "evidence.json"
    path.write_text(nvcli.as_json(case.sent()).replace("LS10", "HOPPER"))
    words = nvcli.arguments(case)
    rest = words[words.index("--rim") :]
    status, out, _ = corpus.run_cli(["verify", "nvidia", "--evidence", str(path), *rest])
    assert (status, json.loads(out)["reasons"]) == (1, ["kind_mismatch"])

    status, out, _ = corpus.run_cli(words)
    assert (status, json.loads(out)["claims"]["devices"][0]["kind"]) == (0, "switch")


@recorded
@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("hopper/device-chain-missing-brom", ["chain.pem"]),
        ("hopper/device-chain-negatives", [f"chain_case{at}.pem" for at in range(2, 5)]),
    ],
)
def test_chains_alone(name: str, files: list[str]) -> None:
    """A report with a chain that lacks a certificate, or begins at the boot ROM, is refused."""
    words = nvcli.arguments(nvgpu.load(FULL))
    for file in files:
        words[words.index("--chain") + 1] = str(nvgpu.FOLDER / name / file)
        status, out, _ = corpus.run_cli(words)

        assert (status, json.loads(out)["reasons"]) == (1, ["chain_invalid"])


@recorded
def test_the_public_rims_of_2023() -> None:
    """Of all VBIOS RIMs that NVIDIA published in 2023, the one that the report names is taken."""
    public = nvgpu.load("rims/vbios-prod-2023-public")
    case = nvgpu.load("hopper/h100-535.86.09-rim-mismatch")
    words = nvcli.arguments(case, [])
    names = [name for name in public.told["files"] if name.endswith(".swidtag")]
    paths = [str(nvgpu.FOLDER / public.name / name) for name in names]
    words[words.index("--at") + 1] = x509.rfc3339(public.now)
    status, out, _ = corpus.run_cli([*words, "--rim", *paths])
    checks = {c["name"]: c for c in json.loads(out)["checks"]}

    assert status == 1
    assert checks["gpu[0].rim.vbios"]["ok"], checks["gpu[0].rim.vbios"]
    assert checks["gpu[0].rim.driver"]["reason"] == "collateral_missing"
