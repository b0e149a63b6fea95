"""Run in a network namespace of its own, as root: is the firewall what it says? Prints JSON.

This namespace is the guest, 10.9.0.2; a second one is the world outside, 10.9.0.1 and 10.9.0.7.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys

_NETWORK = 0x40000000  # CLONE_NEWNET
GUEST, BROKER, STRANGER = "10.9.0.2", "10.9.0.1", "10.9.0.7"


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def enter(pid: int) -> None:
    handle = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(handle, _NETWORK) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def reaches(source: str, target: str, port: int) -> bool:
    try:
        with socket.create_connection((target, port), timeout=0.5, source_address=(source, 0)):
            return True
    except OSError:
        return False


def from_outside(pid: int, source: str, port: int) -> bool:
    """Try from the other namespace, in a child: entering one is for good."""
    child = os.fork()
    if child == 0:
        enter(pid)
        os._exit(0 if reaches(source, GUEST, port) else 1)
    return os.waitpid(child, 0)[1] == 0


def serve(*places: tuple[str, int]) -> list[socket.socket]:
    return [socket.create_server(place) for place in places]


def tried(pid: int) -> dict[str, bool]:
    found = {f"out {port}": reaches(GUEST, BROKER, port) for port in (8420, 8443, 9999)}
    return found | {f"in {port}": from_outside(pid, BROKER, port) for port in (8421, 9999)}


def main() -> int:
    ready, told = os.pipe()
    up, go = os.pipe()
    outside = os.fork()
    if outside == 0:
        if ctypes.CDLL(None, use_errno=True).unshare(_NETWORK) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        os.write(told, b"1")
        os.read(up, 1)
        for address in (BROKER, STRANGER):
            run("ip", "address", "add", f"{address}/24", "dev", "veth1")
        run("ip", "link", "set", "veth1", "up")
        kept = serve(*((BROKER, port) for port in (8420, 8443, 9999)))
        os.write(told, b"2")
        os.read(up, 1)
        del kept
        os._exit(0)
    os.read(ready, 1)
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "veth0", "type", "veth", "peer", "name", "veth1")
    run("ip", "link", "set", "veth1", "netns", str(outside))
    run("ip", "address", "add", f"{GUEST}/24", "dev", "veth0")
    run("ip", "link", "set", "veth0", "up")
    os.write(go, b"1")
    os.read(ready, 1)
    kept = serve((GUEST, 8421), (GUEST, 9999))
    before = tried(outside)
    loaded = subprocess.run(["nft", "-f", sys.argv[1]], check=False, capture_output=True, text=True)
    if loaded.returncode != 0:
        kind = "cannot be loaded here" if "not supported" in loaded.stderr else "is wrong"
        sys.stdout.write(f"the firewall {kind}: {loaded.stderr.splitlines()[:1]}\n")
        return 1
    after = tried(outside)
    other = {"in 8421": from_outside(outside, STRANGER, 8421)}
    del kept
    os.write(go, b"1")
    os.waitpid(outside, 0)
    sys.stdout.write(json.dumps({"before": before, "after": after, "other caller": other}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
