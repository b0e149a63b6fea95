"""What a rank of vLLM and the supervisor say to each other while the weights are handed out.

Guarantees: one message is one packet (SOCK_SEQPACKET), JSON, unknown fields refused; a descriptor
travels only beside a `File`, by SCM_RIGHTS. No message carries a secret.
"""

from __future__ import annotations

from typing import Final, final

import msgspec

MAX_MESSAGE: Final = 64 * 1024
LOAD_FORMAT: Final = "ostiary"
"""Name of the load format in vLLM, and of the plug-in in its entry point group."""
SOCKET_KEY: Final = "socket"
"""The one key of the load format's extra config: path of the supervisor's socket, no secret."""


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="is"):
    """Every message names its kind in the field `is`."""


@final
class Hello(_Message, frozen=True, tag="hello"):
    """Rank: I am number `rank` of `ranks`."""

    rank: int
    ranks: int


@final
class Next(_Message, frozen=True, tag="next"):
    """Rank: I have let go of the file before; give me the next one."""


@final
class File(_Message, frozen=True, tag="file"):
    """Supervisor: the descriptor beside this is `name`, of `size` bytes."""

    name: str
    size: int


@final
class End(_Message, frozen=True, tag="end"):
    """Supervisor: that was the last file."""


@final
class Failed(_Message, frozen=True, tag="failed"):
    """Supervisor: the weights cannot be had, or not by you. Why is not your business."""


Message = Hello | Next | File | End | Failed

_decoder: Final[msgspec.json.Decoder[Message]] = msgspec.json.Decoder(Message, strict=True)


def decode(packet: bytes) -> Message:
    """Return the message in `packet`.

    Raises:
        msgspec.DecodeError: it is none of ours.
    """
    return _decoder.decode(packet)


def encode(message: Message) -> bytes:
    """Return the packet for `message`."""
    return msgspec.json.encode(message)
