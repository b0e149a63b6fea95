"""What is written into the private folder, and that nothing is if any file is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from inference_runtime.engine.protocol import EngineError, EngineFault
from inference_runtime.engine.vllm import files
from inference_runtime.engine.vllm.home import SHARED, Home, on_tmpfs
from inference_runtime.errors import Fault, RuntimeFault
from tests.kit import vllm as kit
from tests.kit.sealed import MemorySource

Tamper = Callable[[kit.Sealed, str], MemorySource]


@pytest.fixture
def home() -> Iterator[Home]:
    """Give a private folder in memory."""
    if not on_tmpfs(SHARED):
        pytest.skip(f"{SHARED} is not on tmpfs here")
    found = Home()
    yield found
    found.close()


def flipped(sealed: kit.Sealed, name: str) -> MemorySource:
    raw = bytearray(sealed.source.files[f"files/{name}"])
    raw[len(raw) // 2] ^= 1
    return sealed.changed({f"files/{name}": bytes(raw)})


def cut(sealed: kit.Sealed, name: str) -> MemorySource:
    return sealed.changed({f"files/{name}": sealed.source.files[f"files/{name}"][:-1]})


def longer(sealed: kit.Sealed, name: str) -> MemorySource:
    return sealed.changed({f"files/{name}": sealed.source.files[f"files/{name}"] + b"x"})


def swapped(sealed: kit.Sealed, name: str) -> MemorySource:
    """Put another file of the same model there, of the same size if it is sealed anew."""
    other = "generation_config.json" if name != "generation_config.json" else "config.json"
    return sealed.changed({f"files/{name}": sealed.source.files[f"files/{other}"]})


def missing(sealed: kit.Sealed, name: str) -> MemorySource:
    left = {path: raw for path, raw in sealed.source.files.items() if path != f"files/{name}"}
    return MemorySource(left)


def replayed(sealed: kit.Sealed, name: str) -> MemorySource:
    """Put the same plaintext there, as it was sealed for another version of the model."""
    where = sealed.plain.parent / f"again-{name}"
    other = kit.seal(sealed.plain, where)
    return sealed.changed({f"files/{name}": other.source.files[f"files/{name}"]})


SHARD = "model-00003-of-00004.safetensors"
NAMES = ["config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json", SHARD]


def test_the_folder_holds_the_small_files_and_headers_only(sealed: kit.Sealed, home: Home) -> None:
    """Small files are as they were sealed; of weights there is the header and no tensor."""
    prepared = files.prepare(sealed.model(), home)
    plain = {path.name: path.read_bytes() for path in sealed.plain.iterdir()}

    assert {path.name for path in home.model.iterdir()} == set(plain)
    for path in home.model.iterdir():
        assert path.stat().st_mode & 0o777 == 0o400
        if path.suffix == ".safetensors":
            length = 8 + int.from_bytes(plain[path.name][:8], "little")
            assert path.read_bytes() == plain[path.name][:length] == prepared.heads[path.name]
            assert "model.layers" in json.dumps(json.loads(path.read_bytes()[8:]))
        else:
            assert path.read_bytes() == plain[path.name]
    assert [place.stat().st_mode & 0o777 for place in (home.path, home.model)] == [0o700, 0o700]
    assert on_tmpfs(home.model)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tamper", [flipped, cut, longer, swapped, missing, replayed])
def test_a_wrong_file_stops_the_start_with_its_name(
    sealed: kit.Sealed, home: Home, tamper: Tamper, name: str
) -> None:
    """Altered, cut, longer, swapped, missing or of another version: named, and nothing written."""
    with pytest.raises(RuntimeFault, match=name) as refused:
        files.prepare(sealed.model(tamper(sealed, name)), home)

    assert refused.value.code.value.startswith("sealed_")
    assert list(home.model.iterdir()) == []


def test_a_wrong_file_that_nobody_needs_stops_the_start_too(
    plain: Path, home: Home, tmp_path: Path
) -> None:
    """Every small file of the manifest is checked, also those that are never written."""
    folder = tmp_path / "with-notes"
    folder.mkdir()
    for path in plain.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "README.md").write_text("notes")
    (folder / "modeling.py").write_text("print('never')")
    sealed = kit.seal(folder, tmp_path)
    files.prepare(sealed.model(), home)

    assert not (home.model / "README.md").exists()
    assert not (home.model / "modeling.py").exists()
    with pytest.raises(RuntimeFault, match=r"modeling\.py"):
        files.prepare(sealed.model(flipped(sealed, "modeling.py")), home)


def test_a_weight_file_that_is_none_is_refused_by_name(
    plain: Path, home: Home, tmp_path: Path
) -> None:
    """A file called safetensors has to begin like one."""
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "config.json").write_bytes((plain / "config.json").read_bytes())
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(EngineError, match=r"model\.safetensors") as refused:
        files.prepare(kit.seal(folder, tmp_path).model(), home)

    assert refused.value.fault is EngineFault.BAD_MODEL


def test_a_long_header_is_read_whole(plain: Path, home: Home, tmp_path: Path) -> None:
    """A header that is longer than a segment comes in pieces, and is the same."""
    folder = tmp_path / "long"
    folder.mkdir()
    (folder / "config.json").write_bytes((plain / "config.json").read_bytes())
    header = json.dumps({"__metadata__": {"note": "x" * (3 << 20)}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    prepared = files.prepare(kit.seal(folder, tmp_path).model(), home)

    assert prepared.heads["model.safetensors"] == (folder / "model.safetensors").read_bytes()


def test_a_closed_model_shows_nothing(sealed: kit.Sealed, home: Home) -> None:
    """Once the key is gone no head and no file comes out any more."""
    model = sealed.model()
    model.close()
    for call in (lambda: model.head("config.json", 8), model.open_all):
        with pytest.raises(RuntimeFault) as refused:
            call()
        assert refused.value.code is Fault.KEY_WIPED
    with pytest.raises(RuntimeFault):
        files.prepare(model, home)
    with pytest.raises(RuntimeFault) as refused:
        sealed.model().head("absent.json", 8)
    assert refused.value.code is Fault.SEALED_MISSING
