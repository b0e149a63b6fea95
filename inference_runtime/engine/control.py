"""Messages between the supervisor and its llama child, over one inherited socket pair.

Guarantees: the API key and the model's descriptors travel here and nowhere else, not in argv, not
in an environment, and only after the child has said that it is hardened. One message is one
packet (SOCK_SEQPACKET), JSON, unknown fields refused.
Does not authenticate: both ends were made by the supervisor, and nobody else holds one.
"""

from __future__ import annotations

import socket
from typing import Final, final

import msgspec

MAX_MESSAGE: Final = 16 * 1024


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="is"):
    """Every message names its kind in the field `is`."""


@final
class Hardened(_Message, frozen=True, tag="hardened"):
    """Child: I am undumpable; send me what is secret."""


@final
class Begin(_Message, frozen=True, tag="begin"):
    """Supervisor: load the one descriptor that comes with this packet, and serve it.

    `context` is in tokens for each slot, `answer` the most tokens of one answer.
    """

    socket_path: str
    api_key: str
    alias: str
    context: int
    answer: int
    slots: int
    threads: int

    def __repr__(self) -> str:
        """Leave the key out."""
        return f"Begin(alias={self.alias!r})"


@final
class Ready(_Message, frozen=True, tag="ready"):
    """Child: the model is loaded and the socket listens."""


@final
class Failed(_Message, frozen=True, tag="failed"):
    """Child: the model could not be loaded; the child ends."""


@final
class Finish(_Message, frozen=True, tag="finish"):
    """Supervisor: take no more, end what runs, and exit."""


Message = Hardened | Begin | Ready | Failed | Finish

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


def pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected ends; neither is inherited unless passed on by name."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
