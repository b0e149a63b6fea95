"""What broker and HSM worker say to each other: typed calls and answers, nothing generic.

Guarantees: a message that decodes is one of the calls or answers below, with every field of its
type and no other; sizes are capped before anything is read. Does not authenticate the peer: the
socket does (`server.py`).

A frame is a u32 big-endian length and that many bytes of MessagePack. The worker speaks first, one
`Hello` or `Failure`; then each `Request` gets one `Response` with its id, in any order.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Final, Literal, TypeAlias, TypeVar, final

import msgspec

from broker.hsm.errors import HsmError, HsmReason

MAX_FRAME: Final = 16 << 20
"""Most bytes in one frame."""

MAX_LEAVES: Final = 512
"""Most leaves in one `Extend`."""

MAX_EXTEND: Final = 8 << 20
"""Most bytes of leaves in one `Extend`; the client splits what is larger."""

_LENGTH: Final = struct.Struct(">I")


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of everything on the socket."""


class Call(Message, frozen=True, tag_field="call"):
    """Base of what the broker may ask for. There is no generic sign, wrap, unwrap or MAC."""


@final
class GetInfo(Call, frozen=True, tag="info"):
    """Asks what the worker is and what its self-test saw."""


@final
class BeginTenant(Call, frozen=True, tag="begin-tenant"):
    """Makes the log key of a tenant to be, so that its genesis can name it."""

    tenant: str


@final
class EnrolTenant(Call, frozen=True, tag="enrol-tenant"):
    """Takes the signed genesis and makes the first KEK."""

    genesis: bytes


@final
class CreateImportKey(Call, frozen=True, tag="create-import-key"):
    """Makes an RSA-4096 pair that can only unwrap."""

    g: bytes


@final
class DestroyImportKey(Call, frozen=True, tag="destroy-import-key"):
    """Destroys an import pair, named by the SHA-256 of its SPKI."""

    g: bytes
    spki: bytes


@final
class ImportKey(Call, frozen=True, tag="import-key"):
    """Takes a DEK that the vendor wrapped, with the vendor's signed statement for it."""

    g: bytes
    statement: bytes
    ciphertext: bytes


@final
class Extend(Call, frozen=True, tag="extend"):
    """Appends leaves to the head of a tenant's log and asks for the checkpoint."""

    g: bytes
    start: int
    leaves: tuple[bytes, ...]


@final
class GetHead(Call, frozen=True, tag="head"):
    """Asks where a tenant's log stands."""

    g: bytes


@final
class Release(Call, frozen=True, tag="release"):
    """The permit of a release, whole: leaf, receipt, state map, blobs, recipient."""

    g: bytes
    leaf: bytes
    receipt: bytes
    state_map: bytes
    blobs: tuple[bytes, ...]
    recipient: bytes


@final
class SignAnswer(Call, frozen=True, tag="sign-answer"):
    """Asks for the broker's signature over a release or renewal answer."""

    payload: bytes


@final
class SignResult(Call, frozen=True, tag="sign-result"):
    """Asks for a token (EAR) about the result that a release or renewal leaf names.

    The worker writes the token. `result` is the stored result; `audience` and `nonce` are the
    relying party's; `now` (unix seconds) is when it is issued.
    """

    g: bytes
    leaf: bytes
    receipt: bytes
    result: bytes
    dialect: Literal["legacy", "ietf"]
    audience: str
    nonce: bytes
    now: int


@final
class GetChallengeKeys(Call, frozen=True, tag="challenge-keys"):
    """Asks for the keys that authenticate challenges."""


AnyCall: TypeAlias = (
    GetInfo
    | BeginTenant
    | EnrolTenant
    | CreateImportKey
    | DestroyImportKey
    | ImportKey
    | Extend
    | GetHead
    | Release
    | SignAnswer
    | SignResult
    | GetChallengeKeys
)


class Result(Message, frozen=True, tag_field="result"):
    """Base of what the worker answers."""


@final
class Info(Result, frozen=True, tag="info"):
    """What the worker is.

    `mode` is "same-user" where broker and worker share a user, so that the one can take the
    other's memory and PIN, else "separate-user". `oaep` is the one OAEP hash that this token has
    for import and release. `broker_key` is the SPKI (DER) whose SHA-256 is the broker id;
    `result_key` that of the key that signs results (P-256), empty where the ceremony made none.
    `checks` are the lines of the start-up self-test.
    """

    mode: Literal["same-user", "separate-user"]
    label: str
    simulated: bool
    oaep: Literal["sha1", "sha256"]
    mechanisms: tuple[str, ...]
    broker_key: bytes
    result_key: bytes
    checks: tuple[str, ...]


@final
class Begun(Result, frozen=True, tag="begun"):
    """Tree id (16 bytes) and raw Ed25519 log key (32 bytes) for the genesis."""

    tree: bytes
    log_key: bytes


@final
class Done(Result, frozen=True, tag="done"):
    """It is done."""


@final
class ImportKeyMade(Result, frozen=True, tag="import-key-made"):
    """The new import key's SPKI (DER)."""

    spki: bytes


@final
class Imported(Result, frozen=True, tag="imported"):
    """The DEK under KEK version `kek`: 40 bytes of AES key wrap (RFC 3394)."""

    blob: bytes
    kek: int


@final
class Extended(Result, frozen=True, tag="extended"):
    """The signed checkpoint of the new head."""

    checkpoint: bytes


@final
class Head(Result, frozen=True, tag="head"):
    """Where a tenant's log stands for the worker. `checkpoint` is empty at size 0."""

    size: int
    root: bytes
    epoch: int
    state: bytes
    time: int
    checkpoint: bytes


@final
class Released(Result, frozen=True, tag="released"):
    """The DEKs, each wrapped to the recipient, in the order of the leaf's keys."""

    alg: Literal["rsa-oaep-sha1", "rsa-oaep-sha256"]
    wrapped: tuple[bytes, ...]


@final
class Signed(Result, frozen=True, tag="signed"):
    """A DSSE envelope with the broker's signature."""

    envelope: bytes


@final
class ResultSigned(Result, frozen=True, tag="result-signed"):
    """A signed token about a result: compact JWS."""

    token: bytes


@final
class ChallengeKeys(Result, frozen=True, tag="challenge-keys"):
    """Pairs of key id and 32-byte key, newest first; new challenges use the first.

    `rotates_in` is seconds until the first becomes the second, and the second is forgotten.
    """

    keys: tuple[tuple[int, bytes], ...]
    rotates_in: int


@final
class Failure(Result, frozen=True, tag="failure"):
    """It was not done, and why."""

    reason: HsmReason
    detail: str
    size: int | None = None

    def error(self) -> HsmError:
        """Return the error that this stands for."""
        return HsmError(self.reason, self.detail, self.size)

    @classmethod
    def of(cls, error: HsmError) -> Failure:
        """Return the answer that stands for `error`."""
        return cls(error.reason, error.detail, error.size)


AnyResult: TypeAlias = (
    Info
    | Begun
    | Done
    | ImportKeyMade
    | Imported
    | Extended
    | Head
    | Released
    | Signed
    | ResultSigned
    | ChallengeKeys
    | Failure
)


@final
class Hello(Message, frozen=True, tag_field="result", tag="hello"):
    """The worker serves. Its first frame on every connection."""

    v: Literal[1]


@final
class Request(Message, frozen=True):
    """A call and the number that its answer will carry."""

    id: int
    call: AnyCall


@final
class Response(Message, frozen=True):
    """The answer to the request of the same number."""

    id: int
    result: AnyResult


T = TypeVar("T")

_ENCODER: Final = msgspec.msgpack.Encoder()
REQUESTS: Final = msgspec.msgpack.Decoder(Request)
RESPONSES: Final = msgspec.msgpack.Decoder(Response)
GREETINGS: Final[msgspec.msgpack.Decoder[Hello | Failure]] = msgspec.msgpack.Decoder(
    Hello | Failure
)


def frame(message: Message) -> bytes:
    """Return `message` as a frame.

    Raises:
        HsmError: `malformed` if it is larger than a frame may be.
    """
    try:
        body = _ENCODER.encode(message)
    except (OverflowError, UnicodeEncodeError) as error:
        raise HsmError(HsmReason.MALFORMED, "a value cannot be sent") from error
    if len(body) > MAX_FRAME:
        raise HsmError(HsmReason.MALFORMED, f"message of {len(body)} bytes, limit {MAX_FRAME}")
    return _LENGTH.pack(len(body)) + body


def decode(body: bytes, decoder: msgspec.msgpack.Decoder[T]) -> T:
    """Return the message in the body of a frame.

    Raises:
        HsmError: `malformed`.
    """
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise HsmError(HsmReason.MALFORMED, "not a message of this protocol") from error


async def read_frame(reader: asyncio.StreamReader, *, finish_within: float) -> bytes | None:
    """Return the body of the next frame, or None where the peer closed between frames.

    Waits for a first byte as long as it takes, then at most `finish_within` seconds for the rest.

    Raises:
        HsmError: `malformed` on a frame that is too long, cut off or too slow.
    """
    first = await reader.read(1)
    if not first:
        return None
    try:
        async with asyncio.timeout(finish_within):
            rest = await reader.readexactly(_LENGTH.size - 1)
            (length,) = _LENGTH.unpack(first + rest)
            if length > MAX_FRAME:
                raise HsmError(HsmReason.MALFORMED, f"frame of {length} bytes, limit {MAX_FRAME}")
            return await reader.readexactly(length)
    except (TimeoutError, asyncio.IncompleteReadError) as error:
        raise HsmError(HsmReason.MALFORMED, "frame is cut off or too slow") from error
