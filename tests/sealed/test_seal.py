"""Sealing a folder: whole or not at all, and nothing but regular files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from inference_runtime.errors import Fault, RuntimeFault
from inference_runtime.sealed.layout import FIRST, PLAIN
from inference_runtime.sealed.seal import ModelName, SealedModel, seal_model
from tests.kit.sealed import GENESIS, NAME, MemorySource, Vendor, pattern
from verifier import dsse


def seal(folder: Path, out: Path, vendor: Vendor | None = None) -> SealedModel:
    vendor = vendor or Vendor()
    return seal_model(folder, out, vendor.dek(), NAME, vendor.sign, threads=2)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "a").write_bytes(b"plaintext that must not appear")
    (folder / "sub" / "b").write_bytes(pattern(FIRST + 4 * PLAIN))
    return folder


def test_what_is_written(model: Path, tmp_path: Path) -> None:
    """The output holds manifest and sealed files, no plaintext and nothing half done."""
    out = tmp_path / "out"
    sealed = seal(model, out)
    written = MemorySource.of(out).files

    assert set(written) == {"manifest.json", "files/a", "files/sub/b"}
    assert written["manifest.json"] == sealed.envelope
    assert [file.sealed_size for file in sealed.manifest.files] == [
        len(written["files/a"]),
        len(written["files/sub/b"]),
    ]
    assert not any(b"plaintext" in raw or pattern(64) in raw for raw in written.values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]


def test_nothing_random_repeats(model: Path, tmp_path: Path) -> None:
    """Sealing again under the same key gives another version id, other salts, other bytes."""
    vendor = Vendor()
    one, two = seal(model, tmp_path / "1", vendor), seal(model, tmp_path / "2", vendor)
    headers = [
        raw[1:40]
        for out in ("1", "2")
        for name, raw in MemorySource.of(tmp_path / out).files.items()
        if name.startswith("files/")
    ]

    assert one.manifest.model_version_id != two.manifest.model_version_id
    assert len(set(headers)) == 4


def test_progress_adds_up(model: Path, tmp_path: Path) -> None:
    """The callback is told every plaintext byte once."""
    done: list[int] = []
    vendor = Vendor()
    seal_model(model, tmp_path / "out", vendor.dek(), NAME, vendor.sign, progress=done.append)

    assert sum(done) == 30 + FIRST + 4 * PLAIN
    assert len(done) == 6


def test_links_are_refused(model: Path, tmp_path: Path) -> None:
    """A link to a file, to a folder or to nothing, and a model that is a link, are refused."""
    for target in ("a", "sub", "nowhere"):
        (model / "link").symlink_to(target)
        with pytest.raises(RuntimeFault, match="link") as caught:
            seal(model, tmp_path / "out")
        (model / "link").unlink()

        assert caught.value.code is Fault.SEAL_INPUT
    (tmp_path / "alias").symlink_to(model)
    with pytest.raises(RuntimeFault, match="alias"):
        seal(tmp_path / "alias", tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_special_files_are_refused(model: Path, tmp_path: Path) -> None:
    """A pipe in the model is refused at once, and not waited for."""
    os.mkfifo(model / "pipe")

    with pytest.raises(RuntimeFault, match="pipe") as caught:
        seal(model, tmp_path / "out")

    assert caught.value.code is Fault.SEAL_INPUT


@pytest.mark.parametrize("name", [b"a\nb", b"a\\b", b"\xff", "e\u0301".encode()])
def test_names_that_no_manifest_carries(model: Path, tmp_path: Path, name: bytes) -> None:
    """Names with control characters, not in UTF-8 or not in form C are refused."""
    (Path(os.fsdecode(os.fsencode(model) + b"/" + name))).write_bytes(b"")

    with pytest.raises(RuntimeFault) as caught:
        seal(model, tmp_path / "out")

    assert caught.value.code is Fault.SEAL_INPUT


def test_empty_or_absent_folder(tmp_path: Path) -> None:
    """No file to seal is a refusal, not an empty model."""
    (tmp_path / "empty" / "sub").mkdir(parents=True)
    (tmp_path / "file").write_bytes(b"")
    for name in ("empty", "absent", "file"):
        with pytest.raises(RuntimeFault, match=name) as caught:
            seal(tmp_path / name, tmp_path / "out")

        assert caught.value.code is Fault.SEAL_INPUT


def test_output_that_exists_or_cannot_be(model: Path, tmp_path: Path) -> None:
    """Nothing is overwritten, not even an empty folder, and nothing is put inside the model."""
    (tmp_path / "there").mkdir()
    for out in (tmp_path / "there", tmp_path / "no" / "parent", model / "out", model):
        with pytest.raises(RuntimeFault) as caught:
            seal(model, out)

        assert caught.value.code is Fault.SEAL_OUTPUT
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "there"]
    assert sorted(path.name for path in model.iterdir()) == ["a", "sub"]


@pytest.mark.parametrize("how", ["grow", "shrink", "rewrite"])
@pytest.mark.parametrize("when", [0, 2], ids=["before it is opened", "while it is read"])
def test_a_file_that_changes_while_it_is_sealed(
    model: Path, tmp_path: Path, how: str, when: int
) -> None:
    """A file that grows, shrinks or is rewritten meanwhile is refused, and nothing is left."""

    def grow() -> None:
        with (model / "sub" / "b").open("ab") as file:
            file.write(b"more")

    def shrink() -> None:
        os.truncate(model / "sub" / "b", 10)

    def rewrite() -> None:
        with (model / "sub" / "b").open("r+b") as file:
            file.write(b"other")

    vendor = Vendor()
    os.utime(model / "sub" / "b", (0, 0))  # file systems with coarse clocks see the rewrite too
    change = {"grow": grow, "shrink": shrink, "rewrite": rewrite}[how]
    calls = iter(range(100))

    def progress(_: int) -> None:
        if next(calls) == when:
            change()

    with pytest.raises(RuntimeFault, match="sub/b") as caught:
        seal_model(
            model, tmp_path / "out", vendor.dek(), NAME, vendor.sign, threads=1, progress=progress
        )

    assert caught.value.code is Fault.SEAL_CHANGED
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_signer_that_fails_or_signs_something_else(model: Path, tmp_path: Path) -> None:
    """Without the right signature there is no sealed model."""
    vendor = Vendor()

    def other(payload: bytes) -> bytes:
        return vendor.sign(payload.replace(b'"version":1', b'"version":2'))

    def kind(payload: bytes) -> bytes:
        return dsse.sign("text/plain", payload, Ed25519PrivateKey.generate())

    for sign in (other, kind, lambda _: b"{}"):
        with pytest.raises(RuntimeFault) as caught:
            seal_model(model, tmp_path / "out", vendor.dek(), NAME, sign)

        assert caught.value.code is Fault.MANIFEST_SIGNATURE
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_name_that_no_manifest_carries(model: Path, tmp_path: Path) -> None:
    """A bad model id is refused, and nothing is left."""
    vendor = Vendor()
    name = ModelName("Not An Id", 1, GENESIS, "k", 1)

    with pytest.raises(RuntimeFault) as caught:
        seal_model(model, tmp_path / "out", vendor.dek(), name, vendor.sign)

    assert caught.value.code is Fault.MANIFEST_INVALID
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_killed_seal_leaves_no_manifest(model: Path, tmp_path: Path) -> None:
    """Killed after the files are sealed and before the end, only a hidden folder is left."""
    script = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        from inference_runtime.sealed.seal import seal_model
        from inference_runtime.sealed.secret import SecretKey
        from tests.kit.sealed import NAME
        def die(payload):
            os.kill(os.getpid(), signal.SIGKILL)
        seal_model(Path(sys.argv[1]), Path(sys.argv[2]), SecretKey.generate(), NAME, die)
    """)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script, str(model), str(tmp_path / "out")],
        cwd=root,
        check=False,
        timeout=60,
    )
    left = [path for path in tmp_path.rglob("*") if path.is_file() and model not in path.parents]

    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert left  # the sealed files were there: it did die late
    assert not any(path.name == "manifest.json" for path in left)
    seal(model, tmp_path / "out")  # and the next one is not in its way


def test_a_file_that_goes_away(model: Path, tmp_path: Path) -> None:
    """A file that was listed and is gone when its turn comes is refused by name."""
    vendor = Vendor()

    def progress(_: int) -> None:
        (model / "sub" / "b").unlink(missing_ok=True)

    with pytest.raises(RuntimeFault, match="sub/b") as caught:
        seal_model(model, tmp_path / "out", vendor.dek(), NAME, vendor.sign, progress=progress)

    assert caught.value.code is Fault.SEAL_INPUT
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
