"""Messages and documents: every field has bounds, and lists have one order."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from verifier import dsse
from verifier.errors import Reason, VerifierError
from verifier.wire import binding, canonical, framing, messages
from verifier.wire.canonical import B64, Hex
from verifier.wire.documents import Genesis, ImportStatement, Release
from verifier.wire.leaf import KeyEntry, KeyState, StateMap
from verifier.wire.messages import (
    ChallengeRequest,
    Evidence,
    GpuEvidence,
    KeyRef,
    Pcr,
    ProvenanceSet,
    Recipient,
    ReleaseRequest,
    RenewRequest,
    Vtpm,
)

RSA = Recipient("rsa-oaep-3072", B64(b"r" * 40))
INSTANCE = Recipient("instance-ed25519", B64(b"i" * 40))
DIGEST = Hex(bytes(32))
BROKER = b"broker's key"
KEYS = (KeyRef("a", 1), KeyRef("a", 2), KeyRef("b", 1))
VTPM = Vtpm(B64(b"m"), B64(b"s"), (Pcr("sha256", 0, DIGEST), Pcr("sha256", 7, DIGEST)))
GOOD: dict[str, msgspec.Struct] = {
    "key": KEYS[0],
    "recipient": RSA,
    "pcr": VTPM.pcrs[0],
    "vtpm": VTPM,
    "provenance": ProvenanceSet(v=1, trusted_root=B64(b"{}"), bundles=(B64(b"{}"), B64(b"{}"))),
    "evidence": Evidence(cpu=B64(b"quote")),
    "evidence of a vtpm": Evidence(cpu=B64(b""), vtpm=VTPM),
    "challenge": ChallengeRequest(v=1, tenant="acme", purpose="release", kind="tdx", caller=DIGEST),
    "release": ReleaseRequest(
        v=1,
        challenge=B64(b"c"),
        keys=KEYS,
        recipients=(RSA, INSTANCE),
        evidence=Evidence(cpu=B64(b"quote")),
        claims=B64(b"{}"),
    ),
    "renewal": RenewRequest(
        v=1,
        challenge=B64(b"c"),
        lease="lease",
        keys=KEYS,
        recipients=(INSTANCE,),
        evidence=Evidence(cpu=B64(b"quote")),
        claims=B64(b""),
        signature=B64(bytes(64)),
    ),
    "genesis": Genesis(
        v=1,
        tenant="acme",
        created=1,
        signers=(B64(b"a"), B64(b"b")),
        threshold=2,
        broker=Hex(hashlib.sha256(BROKER).digest()),
        broker_key=B64(BROKER),
        log_key=B64(bytes(32)),
        tree=Hex(bytes(16)),
        simulated=True,
    ),
    "import": ImportStatement(1, DIGEST, KEYS[0], DIGEST, DIGEST, DIGEST),
    "terms": Release(),
}
BAD: list[tuple[str, dict[str, Any]]] = [
    ("key", {"id": ""}),
    ("key", {"id": "A"}),
    ("key", {"id": "a/b"}),
    ("key", {"id": "a" * 64}),
    ("key", {"version": 0}),
    ("key", {"version": 1 << 32}),
    ("recipient", {"key": B64(bytes(31))}),
    ("recipient", {"key": B64(bytes(2049))}),
    ("pcr", {"index": 24}),
    ("pcr", {"index": -1}),
    ("pcr", {"value": Hex(bytes(31))}),
    ("pcr", {"bank": "sha384"}),
    ("vtpm", {"message": B64()}),
    ("vtpm", {"message": B64(bytes(4097))}),
    ("vtpm", {"signature": B64()}),
    ("vtpm", {"signature": B64(bytes(1025))}),
    ("vtpm", {"event_log": B64(bytes(256 * 1024 + 1))}),
    ("vtpm", {"hcl_report": B64(bytes(16 * 1024 + 1))}),
    ("vtpm", {"pcrs": VTPM.pcrs[::-1]}),
    ("vtpm", {"pcrs": VTPM.pcrs[:1] * 2}),
    ("vtpm", {"pcrs": VTPM.pcrs[:1] * 97}),
    ("vtpm", {"certificates": (B64(b"c"),) * 11}),
    ("vtpm", {"certificates": (B64(),)}),
    ("vtpm", {"certificates": (B64(bytes(8193)),)}),
    ("provenance", {"trusted_root": B64()}),
    ("provenance", {"bundles": ()}),
    ("provenance", {"bundles": (B64(b"{}"),) * 33}),
    ("provenance", {"bundles": (B64(b"{}"), B64())}),
    ("evidence", {"cpu": B64()}),
    ("evidence", {"cpu": B64(bytes(128 * 1024 + 1))}),
    ("evidence", {"runtime_log": B64(bytes(256 * 1024 + 1))}),
    ("evidence", {"ak": B64(bytes(2049))}),
    ("evidence", {"gpus": (GpuEvidence(1, B64(b"r"), B64(b"c")),) * 65}),
    ("challenge", {"tenant": "acme!"}),
    ("challenge", {"caller": Hex(bytes(31))}),
    ("release", {"challenge": B64()}),
    ("release", {"challenge": B64(bytes(4097))}),
    ("release", {"claims": B64(bytes(16 * 1024 + 1))}),
    ("release", {"keys": ()}),
    ("release", {"keys": KEYS[::-1]}),
    ("release", {"keys": KEYS[:1] * 2}),
    ("release", {"keys": tuple(KeyRef("k", number) for number in range(1, 18))}),
    ("release", {"recipients": ()}),
    ("release", {"recipients": (RSA, RSA)}),
    ("release", {"recipients": (RSA,) * 5}),
    ("renewal", {"lease": "no lease"}),
    ("renewal", {"signature": B64(bytes(63))}),
    ("genesis", {"tenant": ""}),
    ("genesis", {"threshold": 0}),
    ("genesis", {"threshold": 3}),
    ("genesis", {"signers": tuple(B64(bytes([n])) for n in range(17))}),
    ("genesis", {"signers": (B64(b"b"), B64(b"a"))}),
    ("genesis", {"signers": (B64(b"a"), B64(b"a"))}),
    ("genesis", {"log_key": B64(bytes(31))}),
    ("genesis", {"tree": Hex(bytes(15))}),
    ("genesis", {"broker": DIGEST}),
    ("import", {"ciphertext": Hex(bytes(31))}),
    ("terms", {"lease_seconds": 9}),
    ("terms", {"lease_seconds": 30 * 86400 + 1}),
    ("terms", {"max_leases": 0}),
    ("terms", {"max_leases": (1 << 20) + 1}),
]


@pytest.mark.parametrize("name", GOOD)
def test_good_messages_come_back(name: str) -> None:
    """A message within its bounds is read as it was written."""
    told = GOOD[name]

    assert canonical.decode(canonical.encode(told), type(told)) == told


@pytest.mark.parametrize(("name", "changes"), BAD)
def test_messages_out_of_bounds(name: str, changes: dict[str, Any]) -> None:
    """Whatever is too short, too long, out of order or there twice is malformed, as bytes too."""
    told = GOOD[name]
    values = {field: getattr(told, field) for field in told.__struct_fields__} | changes
    with pytest.raises(VerifierError) as caught:
        type(told)(**values)
    assert caught.value.reason is Reason.MALFORMED

    raw = msgspec.json.encode(values, enc_hook=canonical.enc_hook)
    with pytest.raises(VerifierError):
        canonical.decode(raw, type(told))


def test_a_recipient_by_its_algorithm() -> None:
    """A key is taken for what it says it is for, and for nothing else."""
    assert messages.recipient((INSTANCE, RSA), "rsa-oaep-3072") == RSA.key
    with pytest.raises(VerifierError):
        messages.recipient((INSTANCE,), "rsa-oaep-3072")


def test_what_is_signed_and_asked_differs_by_all_that_it_binds() -> None:
    """The renewal's message, the GPUs' nonce and a machine's PCR 8 depend on each part."""
    renewals = {messages.renewal_message(*each) for each in ((b"r", "l"), (b"q", "l"), (b"r", "m"))}
    nonces = {binding.gpu_nonce(*each) for each in ((b"c", (RSA,)), (b"d", (RSA,)), (b"c", ()))}
    anchors = {binding.anchor_pcr(*each) for each in ((DIGEST, DIGEST), (b"b" * 32, DIGEST))}

    assert (len(renewals), len(nonces), len(anchors)) == (3, 3, 2)
    assert all(len(each) == 32 for each in nonces | anchors)


def test_a_map_of_keys_is_sorted() -> None:
    """A state map in another order, or with a key twice, is malformed."""

    def entry(ref: KeyRef) -> KeyEntry:
        return KeyEntry(ref.id, ref.version, KeyState.ACTIVE, DIGEST, DIGEST, 1, DIGEST, 1)

    first, second = entry(KEYS[0]), entry(KEYS[2])
    assert StateMap(1, DIGEST, DIGEST, (first, second)).find(KEYS[2]) == second
    for keys in ((second, first), (first, first)):
        with pytest.raises(VerifierError):
            StateMap(1, DIGEST, DIGEST, keys)


def test_a_list_has_a_limit() -> None:
    """More items than are asked for are refused before they are read."""
    raw = framing.lp_list((b"a", b"b"))

    assert framing.Reader(raw).lp_list(2) == (b"a", b"b")
    with pytest.raises(VerifierError):
        framing.Reader(raw).lp_list(1)


def test_a_set_holds_each_item_once() -> None:
    """Two equal items are no set."""
    assert framing.lp_set((b"b", b"a")) == framing.lp_list((b"a", b"b"))
    with pytest.raises(VerifierError):
        framing.lp_set((b"a", b"a"))


class Foreign(msgspec.Struct, frozen=True):
    """A message with something that no message has."""

    value: Any


def test_only_our_own_types_are_written() -> None:
    """A value of another type is our mistake, and stops."""
    with pytest.raises(NotImplementedError, match="object"):
        canonical.encode(Foreign(object()))


def test_a_signer_has_one_encoding() -> None:
    """The same point of P-256 in its short form is not how a signer is written."""
    key = ec.derive_private_key(7, ec.SECP256R1()).public_key()
    point = key.public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
    )
    head = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200")

    assert dsse.load_signer(dsse.spki(key)) == key
    with pytest.raises(VerifierError):
        dsse.load_signer(head + point)
