"""The private folder, the environment that is made from nothing, and what is cleared away."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import mkdtemp

import pytest

from inference_runtime.engine.protocol import EngineError, EngineFault
from inference_runtime.engine.vllm.home import SHARED, Home, on_tmpfs
from inference_runtime.engine.vllm.options import VllmSettings, arguments, environment

pytestmark = pytest.mark.skipif(not on_tmpfs(SHARED), reason=f"{SHARED} is not on tmpfs here")


HOLD = """
import mmap, sys
with open(sys.argv[1], "r+b") as file:
    mapped = mmap.mmap(file.fileno(), 0)
print(flush=True)
sys.stdin.read()
"""


def test_a_folder_on_a_disk_is_refused() -> None:
    """Small files and caches are plaintext of a kind: they may not lie on a disk."""
    folder = Path(__file__).parent
    assert not on_tmpfs(folder)
    assert not on_tmpfs(folder / "absent")
    with pytest.raises(EngineError) as refused:
        Home(folder)

    assert refused.value.fault is EngineFault.NO_PRIVATE_MEMORY


def test_the_environment_is_made_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of ours leaks in, every folder is private, and nothing can be fetched or reported."""
    monkeypatch.setenv("OSTIARY_SECRET", "canary")
    monkeypatch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1")
    monkeypatch.setenv("LD_PRELOAD", "x.so")
    home = Home()
    try:
        found = home.environment() | environment(VllmSettings(cpu=True, tensor_parallel_size=2))

        assert not {"OSTIARY_SECRET", "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "LD_PRELOAD"} & set(found)
        assert found["VLLM_PLUGINS"] == "ostiary"
        assert found["HF_HUB_OFFLINE"] == found["VLLM_NO_USAGE_STATS"] == "1"
        for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "VLLM_CACHE_ROOT", "HF_HOME"):
            assert Path(found[name]).is_relative_to(home.path)
            assert Path(found[name]).stat().st_mode & 0o777 == 0o700
    finally:
        home.close()

    assert not home.path.exists()


@pytest.mark.parametrize("settings", [VllmSettings(), VllmSettings(tensor_parallel_size=4)])
def test_no_argument_trusts_code_or_logs_requests(settings: VllmSettings) -> None:
    """The command line never has the two switches that would give a model or a log too much."""
    home = Home()
    try:
        words = arguments(settings, home, "--trust-remote-code")
    finally:
        home.close()

    assert not [word for word in words if word.startswith("--trust")]
    assert not [word for word in words if "log-requests" in word or "api-key" in word]
    assert f"--tensor-parallel-size={settings.tensor_parallel_size}" in words
    assert "--no-enable-prefix-caching" in words
    assert "--enforce-eager" not in words
    assert environment(settings) == {}


def test_what_the_engine_left_in_shared_memory_is_cleared() -> None:
    """Fresh files of its kinds go; older ones, others' and those still mapped stay."""
    mark = Path(mkdtemp()).name
    older = SHARED / f"psm_{mark}-older"
    older.write_bytes(b"x")
    home = Home()
    left = [SHARED / f"{kind}{mark}" for kind in ("vllm_dist_", "psm_", "sem.mp-")]
    other = SHARED / f"other-{mark}"
    used = SHARED / f"psm_{mark}-used"
    for path in (*left, other, used):
        path.write_bytes(bytes(4096))
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            HOLD,
            str(used),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        home.close()

        assert [path.exists() for path in left] == [False, False, False]
        assert all(path.exists() for path in (older, other, used))
    finally:
        holder.communicate(b"")
        for path in (older, other, used):
            path.unlink()


def test_a_name_that_leads_elsewhere_is_not_written() -> None:
    """A file is written once and never through a link."""
    home = Home()
    try:
        home.write("a.json", b"{}")
        with pytest.raises(EngineError):
            home.write("a.json", b"{}")
        (home.model / "b.json").symlink_to(home.path / "elsewhere")
        with pytest.raises(EngineError):
            home.write("b.json", b"{}")
        assert not (home.path / "elsewhere").exists()
    finally:
        home.close()
