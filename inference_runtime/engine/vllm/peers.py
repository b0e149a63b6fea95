"""Who is at the other end of the hand-out socket: one of the processes that we started, or nobody.

Guarantees: a peer that `identify` returns runs as this user and descends from the given process,
and its pidfd names that very process, so that a number used again deceives nobody. Where the
kernel has SO_PEERPIDFD (Linux 6.5) the pidfd comes from the connection itself; before, it is
opened by number and the process must still live when its ancestors have been read.
Does not guard against code inside vLLM's own processes: they hold the weights anyhow.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

# include/uapi/asm-generic/socket.h; Python 3.11 has no name for it.
_SO_PEERPIDFD: Final = 77
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid
_MAX_DEPTH: Final = 64
_UNKNOWN: Final = (errno.ENOPROTOOPT, errno.EINVAL, errno.EOPNOTSUPP)


class PeerRefusedError(Exception):
    """The peer is not one of ours."""


@final
@dataclass(slots=True)
class Peer:
    """A process at the other end. `pidfd` is ours to close; it tells when the process has ended."""

    pid: int
    pidfd: int

    def close(self) -> None:
        """Let go of the pidfd."""
        pidfd, self.pidfd = self.pidfd, -1
        if pidfd >= 0:
            os.close(pidfd)


def identify(connection: socket.socket, ancestor: int) -> Peer:
    """Return the peer of `connection` if it runs as this user and descends from `ancestor`.

    Raises:
        PeerRefusedError: it does not, or has ended.
    """
    pid, uid, _ = _CREDENTIALS.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    if uid != os.geteuid():
        raise PeerRefusedError(f"a process of user {uid}")
    peer = Peer(pid, _pidfd(connection, pid))
    ours = descends(pid, ancestor)
    # Its number meant this process while its ancestors were read only if it lives still.
    ended = has_ended(peer.pidfd)
    if ours and not ended:
        return peer
    peer.close()
    raise PeerRefusedError(
        f"process {pid} has ended"
        if ended
        else f"process {pid} does not descend from process {ancestor}"
    )


def descends(pid: int, ancestor: int) -> bool:
    """Tell whether `pid` is `ancestor` or a child of it in any generation."""
    for _ in range(_MAX_DEPTH):
        if pid == ancestor:
            return True
        if pid <= 1:
            return False
        pid = _parent(pid)
    return False


def has_ended(pidfd: int) -> bool:
    """Tell whether the process of `pidfd` has ended."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _pidfd(connection: socket.socket, pid: int) -> int:
    try:
        return connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise PeerRefusedError(f"process {pid} has ended") from error
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        raise PeerRefusedError(f"process {pid} has ended") from error


def _parent(pid: int) -> int:
    """Return the parent's number, 0 if the process is gone. See proc_pid_stat(5), field 4."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    # The name in brackets may hold blanks and brackets; what follows the last one is fields.
    return int(line.rpartition(")")[2].split()[1])
