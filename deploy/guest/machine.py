"""Locks the machine, looks at it, says what it is, and refuses one that is not as it must be.

Runs once at boot, inside the guest image, before the runtime; standard library only.
Guarantees, when it ended with 0: no kernel module can be loaded any more, no other kernel started,
nothing is swapped, no crash is kept, the root is read-only on dm-verity, the firewall is loaded and
drops by default, and nothing listens to the network but what serves callers later.
Says on the console, which the host can read: the checks, and what a TPM, if there is one, holds.
Proves nothing to anybody: evidence does that. This is for whoever compares, and for tests.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MARK = "ostiary-machine:"
PCRS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15)
DHCP_CLIENT = 68
BOOT_LOG = Path("/sys/kernel/security/tpm0/binary_bios_measurements")


def main() -> int:
    """Lock, look, say; return 0 if everything is as it must be."""
    for name in ("modules_disabled", "kexec_load_disabled"):
        try:
            Path(f"/proc/sys/kernel/{name}").write_text("1\n")
        except OSError as error:
            say({"check": name, "error": str(error)})
    failed = []
    for name, good, seen in checks():
        say({"check": name, "good": good, "seen": seen})
        if not good:
            failed.append(name)
    for told in (programs(), listeners(), measurements()):
        say(told)
    for piece in boot_log():
        say(piece)
    say({"machine": "refused" if failed else "as it must be", "failed": failed})
    return 1 if failed else 0


def checks() -> Iterator[tuple[str, bool, Any]]:
    """Yield each check: its name, whether it is good, and what was seen."""
    lockdown = text("/sys/kernel/security/lockdown")
    yield "lockdown", "[confidentiality]" in lockdown, lockdown
    for name, wanted in (
        ("modules_disabled", "1"),
        ("kexec_load_disabled", "1"),
        ("core_pattern", "|/bin/false"),
        ("sysrq", "0"),
    ):
        seen = text(f"/proc/sys/kernel/{name}")
        yield name, seen == wanted, seen
    swaps = text("/proc/swaps").splitlines()[1:]
    yield "swap", not swaps, swaps
    kdump = text("/sys/kernel/kexec_crash_loaded"), text("/sys/kernel/kexec_crash_size")
    yield "kdump", kdump[0] in {"0", ""} and kdump[1] in {"0", ""}, kdump
    root = [
        line.split()[:4] for line in text("/proc/mounts").splitlines() if line.split()[1] == "/"
    ]
    yield "root", [each[2] for each in root] == ["erofs"] and "ro" in root[0][3].split(","), root
    kinds = {
        path.parent.parent.name: text(path) for path in Path("/sys/block").glob("dm-*/dm/uuid")
    }
    yield "verity", any(each.startswith("CRYPT-VERITY-") for each in kinds.values()), kinds
    writable = [
        line.split()[1]
        for line in text("/proc/mounts").splitlines()
        if line.split()[2] not in _MEMORY and "ro" not in line.split()[3].split(",")
    ]
    yield "writable disks", not writable, writable
    rules = firewall()
    drops = {each["hook"]: each["policy"] for each in rules if "hook" in each}
    yield "firewall", drops == dict.fromkeys(("input", "output", "forward"), "drop"), drops
    heard = [each for each in sockets() if not each[1].startswith(("127.", "[::1]"))]
    yield "listening", not heard, heard


_MEMORY = {
    *("proc", "sysfs", "devtmpfs", "devpts", "tmpfs", "ramfs", "securityfs", "cgroup2", "pstore"),
    *(
        "efivarfs",
        "bpf",
        "configfs",
        "mqueue",
        "tracefs",
        "hugetlbfs",
        "debugfs",
        "autofs",
        "fusectl",
    ),
}


def firewall() -> list[dict[str, Any]]:
    """Return the chains that are loaded in the kernel."""
    done = subprocess.run(
        ["/usr/sbin/nft", "--json", "list", "chains"], check=False, capture_output=True, text=True
    )
    try:
        return [each["chain"] for each in json.loads(done.stdout)["nftables"] if "chain" in each]
    except (ValueError, KeyError):
        return []


def sockets() -> list[tuple[str, str]]:
    """Return TCP sockets that listen, and UDP sockets that are bound, with their addresses."""
    found = []
    for protocol in ("tcp", "tcp6", "udp", "udp6"):
        for line in text(f"/proc/net/{protocol}").splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" or (protocol.startswith("udp") and words[3] == "07"):
                address, port = words[1].split(":")
                if protocol.startswith("udp") and int(port, 16) == DHCP_CLIENT:
                    continue
                local = "127.0.0.1" if address == "0100007F" else address
                found.append((protocol, f"{local}:{int(port, 16)}"))
    return found


def programs() -> dict[str, Any]:
    """Return what runs: the command names of all processes that are no kernel threads."""
    names = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            line = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if line:
            names.append(line.split(b"\0")[0].decode(errors="replace"))
    return {"programs": sorted(names)}


def listeners() -> dict[str, Any]:
    """Return what listens."""
    return {"listening": sockets()}


def measurements() -> dict[str, Any]:
    """Return PCRs as the kernel reads them from the TPM, where there is one."""
    banks: dict[str, dict[int, str]] = {}
    for folder in sorted(Path("/sys/class/tpm/tpm0").glob("pcr-*")):
        bank = folder.name.removeprefix("pcr-")
        banks[bank] = {each: text(folder / str(each)).lower() for each in PCRS}
    return {"pcrs": banks}


def boot_log() -> Iterator[dict[str, Any]]:
    """Yield the firmware's event log in pieces that the console's lines hold."""
    try:
        raw = BOOT_LOG.read_bytes()
    except OSError:
        return
    coded = base64.b64encode(zlib.compress(raw, 9)).decode()
    for at in range(0, len(coded), 800):
        yield {"boot_log": coded[at : at + 800], "at": at, "of": len(coded)}


def text(path: str | Path) -> str:
    """Return a file's text; nothing where it cannot be read."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def say(told: dict[str, Any]) -> None:
    """Print one line of JSON."""
    sys.stdout.write(f"{MARK} {json.dumps(told)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
