"""Boots the guest image in an emulator, with a software TPM, and listens to its console.

The emulator translates every instruction (no KVM), so a boot takes a minute or several. What the
guest says of itself comes from deploy/guest/machine.py, one line of JSON each.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

IMAGE = Path(os.environ.get("OSTIARY_GUEST_IMAGE", ""))
SECONDS = int(os.environ.get("OSTIARY_GUEST_BOOT_SECONDS", "900"))
FIRMWARE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
VARIABLES = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
_RELAY = (
    "import socket,sys,threading,os,time\n"
    "time.sleep(8)\n"  # the broker answers late, so that callers find the runtime starting
    "s=socket.create_connection(('127.0.0.1',int(sys.argv[1])))\n"
    "def up():\n"
    "    while d:=os.read(0,65536): s.sendall(d)\n"
    "threading.Thread(target=up,daemon=True).start()\n"
    "while d:=s.recv(65536): os.write(1,d)\n"
)


def missing() -> str:
    """Return why no guest can be booted here, or nothing."""
    if not IMAGE.name:
        return "boots an emulator for minutes: run `make guest-test`"
    lacking = [name for name in ("qemu-system-x86_64", "swtpm") if shutil.which(name) is None]
    lacking += [str(path) for path in (FIRMWARE, VARIABLES) if not path.exists()]
    if lacking:
        return f"not here: {', '.join(lacking)} (apt-get install qemu-system-x86 ovmf swtpm)"
    return ""


@dataclass
class Boot:
    """One boot, from power on to power off. `front` are answers of the guest's own port."""

    console: str
    status: int
    front: list[tuple[int, str]] = field(default_factory=list)
    other_port_answered: bool = False

    @property
    def said(self) -> list[dict[str, Any]]:
        """What the machine said of itself."""
        return [json.loads(each) for each in re.findall(r"ostiary-machine: (\{.*\})", self.console)]

    def one(self, key: str) -> Any:
        """Return the one thing of this name that it said."""
        (found,) = [each[key] for each in self.said if key in each]
        return found

    @property
    def checks(self) -> dict[str, bool]:
        """The checks by name."""
        return {each["check"]: each["good"] for each in self.said if "good" in each}

    @property
    def boot_log(self) -> bytes:
        """The firmware's event log, as the guest's kernel keeps it."""
        pieces = sorted((each["at"], each["boot_log"]) for each in self.said if "boot_log" in each)
        return zlib.decompress(base64.b64decode("".join(piece for _, piece in pieces)))


def boot(
    work: Path,
    disk: Path,
    *,
    broker: int | None = None,
    extra: Sequence[str] = (),
    stop_at: str = "",
) -> Boot:
    """Boot a disk until the machine powers off, or until the console shows `stop_at`."""
    work.mkdir(parents=True, exist_ok=True)
    (work / "tpm").mkdir()
    shutil.copyfile(VARIABLES, work / "variables.fd")
    console, port, other = work / "console", _free_port(), _free_port()
    tpm = subprocess.Popen(
        [
            *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={work / 'tpm'}", "--terminate"),
            *("--ctrl", f"type=unixio,path={work / 'tpm.sock'}"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    network = f"user,id=n,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:8421"
    network += f",hostfwd=tcp:127.0.0.1:{other}-:22"
    if broker is not None:
        relay = work / "relay.py"
        relay.write_text(_RELAY)
        network += f",guestfwd=tcp:10.0.2.100:8420-cmd:{sys.executable} {relay} {broker}"
    command = [
        *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-machine", "q35,smm=off"),
        *(
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            "2048",
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
        ),
        *("-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={FIRMWARE}"),
        *("-drive", f"if=pflash,format=raw,unit=1,file={work / 'variables.fd'}"),
        *("-drive", f"if=none,id=d,format=raw,readonly=on,file={disk}"),
        *("-device", "virtio-blk-pci,drive=d,bootindex=1"),
        *("-chardev", f"socket,id=t,path={work / 'tpm.sock'}"),
        *("-tpmdev", "emulator,id=t,chardev=t", "-device", "tpm-tis,tpmdev=t"),
        *("-netdev", network, "-device", "virtio-net-pci,netdev=n,romfile="),
        *("-serial", f"file:{console}", *extra),
    ]
    over = threading.Event()
    found = Boot("", -1)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as machine:
        caller = threading.Thread(target=_call, args=(found, port, other, over))
        caller.start()
        try:
            found.status = _wait(machine, console, stop_at)
        finally:
            over.set()
            machine.kill()
            caller.join()
            tpm.terminate()
            tpm.wait()
    found.console = _text(console)
    return found


def _wait(machine: subprocess.Popen[bytes], console: Path, stop_at: str) -> int:
    for _ in range(SECONDS):
        try:
            return machine.wait(1)
        except subprocess.TimeoutExpired:
            if stop_at and stop_at in _text(console):
                return 0
    raise AssertionError(
        f"still up after {SECONDS} s; {console} ends with {_text(console)[-2000:]}"
    )


def _text(console: Path) -> str:
    raw = console.read_bytes() if console.exists() else b""
    text = raw.replace(b"\0", b"").decode(errors="replace")
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", text)


def _call(found: Boot, port: int, other: int, over: threading.Event) -> None:
    """Ask the guest's port, and one that nobody may reach, for as long as it is up."""
    while not over.wait(1):
        try:
            answer = httpx.get(f"http://127.0.0.1:{port}/v1/models", timeout=3)
            found.front.append((answer.status_code, answer.text))
        except httpx.HTTPError:
            pass
        try:
            with socket.create_connection(("127.0.0.1", other), timeout=1) as opened:
                opened.settimeout(1)
                found.other_port_answered |= bool(opened.recv(1))
        except OSError:
            pass


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def partitions(disk: Path) -> list[int]:
    """Return where each partition starts, in bytes (GPT: entries from sector 2, 128 bytes each)."""
    with disk.open("rb") as file:
        file.seek(2 * 512)
        entries = [file.read(128) for _ in range(128)]
    return [int.from_bytes(each[32:40], "little") * 512 for each in entries if any(each[:16])]


def tampered(disk: Path, target: Path, at: int) -> Path:
    """Return a copy of a disk with one bit of one byte flipped."""
    subprocess.run(["cp", "--sparse=always", str(disk), str(target)], check=True)
    with target.open("r+b") as file:
        file.seek(at)
        (old,) = file.read(1)
        file.seek(at)
        file.write(bytes([old ^ 1]))
    return target
