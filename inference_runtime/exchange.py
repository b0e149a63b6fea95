"""One exchange with the broker, as seen from inside the confidential VM, with no network in it.

Guarantees: a DEK comes out of `open_release` only if the answer was signed by the broker key of
the genesis that the launch measured, names exactly this challenge, these recipients and these
keys, and carries a receipt for a leaf that says the same. Nothing in an answer is used before that.
Does not talk to anyone: `client.py` does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar, final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa

from inference_runtime.attester import ReportDevice
from inference_runtime.attester.gpus import Gpus
from inference_runtime.errors import Fault, RuntimeFault
from inference_runtime.sealed.secret import KEY_SIZE, SecretKey
from verifier import dsse
from verifier.errors import VerifierError
from verifier.tlog.note import VerifierKey
from verifier.tlog.proof import verify_receipt
from verifier.wire import binding, canonical, leaf, messages
from verifier.wire.canonical import B64, Hex
from verifier.wire.documents import GENESIS_TYPE, Genesis
from verifier.wire.messages import KeyRef, Recipient

_RSA_BITS: Final = 3072
_RSA_E: Final = 65537
_OAEP: Final[dict[str, hashes.HashAlgorithm]] = {
    "rsa-oaep-sha1": hashes.SHA1(),  # noqa: S303 - SoftHSM 2.6.1 has no other; OAEP stays sound
    "rsa-oaep-sha256": hashes.SHA256(),
}


AnswerT = TypeVar("AnswerT", messages.ReleaseAnswer, messages.RenewalAnswer)
LeafT = TypeVar("LeafT", leaf.ReleaseLeaf, leaf.RenewalLeaf)


@final
@dataclass(frozen=True, slots=True)
class Anchor:
    """Whom this guest obeys: the tenant's genesis, checked against the measured launch."""

    genesis: Genesis
    digest: bytes

    @property
    def origin(self) -> str:
        """The log origin that receipts must name."""
        return self.genesis.origin(self.digest)

    @property
    def log_key(self) -> VerifierKey:
        """The key that signs this tenant's checkpoints."""
        return VerifierKey(self.origin, bytes(self.genesis.log_key))


@final
@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """Keys born inside this boot: one that DEKs are wrapped to, one that signs as this instance."""

    wrap: rsa.RSAPrivateKey
    instance: ed25519.Ed25519PrivateKey
    recipients: tuple[Recipient, ...] = field(init=False)

    def __post_init__(self) -> None:
        pair = (
            (messages.WRAP_RSA, self.wrap.public_key()),
            (messages.INSTANCE, self.instance.public_key()),
        )
        recipients = tuple(Recipient(alg, B64(_spki(key))) for alg, key in pair)  # type: ignore[arg-type]  # literals above
        object.__setattr__(self, "recipients", recipients)

    @classmethod
    def generate(cls) -> Identity:
        """Return fresh keys from the guest's random number generator."""
        wrap = rsa.generate_private_key(public_exponent=_RSA_E, key_size=_RSA_BITS)
        return cls(wrap, ed25519.Ed25519PrivateKey.generate())

    @property
    def instance_spki(self) -> bytes:
        """The instance key's SPKI (DER)."""
        return _spki(self.instance.public_key())

    @property
    def caller(self) -> bytes:
        """The digest that a challenge is asked for with."""
        return hashlib.sha256(self.instance_spki).digest()


def _spki(key: rsa.RSAPublicKey | ed25519.Ed25519PublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def read_anchor(
    document: bytes, measured: bytes, *, simulated_allowed: bool, extended: bool = False
) -> Anchor:
    """Return the genesis in `document` if it is the one that this machine was launched for.

    Args:
        document: the tenant's signed genesis, as the broker sent it.
        measured: MRCONFIGID (48 bytes) or HOST_DATA (32 bytes), as the hardware reports it.
        simulated_allowed: true in the demo and in tests only.
        extended: what was measured is PCR 8 (32 bytes), as in Azure.

    Raises:
        RuntimeFault: `anchor_mismatch` or `simulated_refused`.
    """
    try:
        payload = dsse.payload_unverified(document)
        genesis = canonical.decode(payload, Genesis)
        dsse.verify(document, GENESIS_TYPE, genesis.signers, genesis.threshold)
    except VerifierError as error:
        raise RuntimeFault(Fault.ANCHOR_MISMATCH, f"the broker's genesis: {error}") from error
    digest = hashlib.sha256(payload).digest()
    if extended:
        expected, where = binding.anchor_pcr(bytes(genesis.broker), digest), "PCR 8"
    else:
        whole = binding.anchor(bytes(genesis.broker), digest)
        expected, where = whole[: len(measured)], "MRCONFIGID"
    if len(measured) not in (32, 48) or measured != expected:
        raise RuntimeFault(
            Fault.ANCHOR_MISMATCH,
            f"this machine was launched for {measured.hex()}, the broker speaks for "
            f"{expected.hex()}: a launch for this tenant puts the latter into {where}",
        )
    if genesis.simulated and not simulated_allowed:
        raise RuntimeFault(
            Fault.SIMULATED_REFUSED, "the tenant is simulated, and this runtime is not a demo"
        )
    return Anchor(genesis, digest)


@final
@dataclass(frozen=True, slots=True)
class Bound:
    """Evidence and what it was bound to; `missing` is what the machine has no evidence of."""

    challenge: bytes
    keys: tuple[KeyRef, ...]
    lease: str
    claims: bytes
    report_data: bytes
    evidence: messages.Evidence
    missing: tuple[str, ...] = ()


def attest(
    device: ReportDevice,
    identity: Identity,
    anchor: Anchor,
    *,
    challenge: bytes,
    purpose: messages.Purpose,
    keys: Sequence[KeyRef],
    lease: str,
    claims: bytes,
    gpus: Gpus | None = None,
) -> Bound:
    """Return evidence from the device, bound to this exchange.

    The GPUs and switches come first: the machine's own evidence commits to what they said.

    Args:
        device: the machine's report device.
        identity: the keys of this start.
        anchor: whom the guest obeys.
        challenge: as the broker sent it.
        purpose: of the exchange.
        keys: the key versions asked for.
        lease: the one to prolong, or empty.
        claims: the runtime's own, as they will be sent.
        gpus: the machine's GPUs; None shows none of them.

    Raises:
        RuntimeFault: the device's own codes.
    """
    ordered = tuple(sorted(keys))
    nonce = binding.gpu_nonce(challenge, identity.recipients)
    shown = () if gpus is None else gpus.collect(nonce)
    ak = device.ak
    report_data = binding.report_data(
        challenge=challenge,
        purpose=purpose,
        genesis=anchor.digest,
        broker=bytes(anchor.genesis.broker),
        recipients=identity.recipients,
        keys=ordered,
        lease=lease,
        kind=device.kind,
        gpus=shown,
        ak=ak,
        claims=claims,
    )
    seen = device.report(report_data)
    evidence = messages.Evidence(
        cpu=B64(seen.cpu),
        event_log=B64(seen.event_log),
        endorsements=B64(seen.aux),
        ak=B64(ak),
        gpus=shown,
        vtpm=seen.vtpm,
    )
    return Bound(challenge, ordered, lease, claims, report_data, evidence, seen.missing)


def release_request(bound: Bound, identity: Identity) -> bytes:
    """Return the body that asks for the keys."""
    return canonical.encode(
        messages.ReleaseRequest(
            v=1,
            challenge=B64(bound.challenge),
            keys=bound.keys,
            recipients=identity.recipients,
            evidence=bound.evidence,
            claims=B64(bound.claims),
        )
    )


def renew_request(bound: Bound, identity: Identity) -> bytes:
    """Return the body that asks to prolong the lease, signed by the instance key."""
    message = messages.renewal_message(bound.report_data, bound.lease)
    return canonical.encode(
        messages.RenewRequest(
            v=1,
            challenge=B64(bound.challenge),
            lease=bound.lease,
            keys=bound.keys,
            recipients=identity.recipients,
            evidence=bound.evidence,
            claims=B64(bound.claims),
            signature=B64(identity.instance.sign(message)),
        )
    )


@final
@dataclass(frozen=True, slots=True, repr=False)
class Released:
    """What a verified answer gave: DEKs by key version, the lease, and the proof of it all."""

    deks: dict[KeyRef, SecretKey]
    manifests: dict[KeyRef, bytes]
    lease: messages.Lease
    answer: messages.ReleaseAnswer
    epoch: int = -1
    """The tenant's state epoch that the release was decided in."""


def open_release(envelope: bytes, bound: Bound, identity: Identity, anchor: Anchor) -> Released:
    """Return the DEKs in a signed answer after checking everything that it says.

    Raises:
        RuntimeFault: `answer_invalid`, naming what differs.
    """
    answer = _open(envelope, anchor, messages.ReleaseAnswer)
    entry = _check_common(answer, bound, identity, anchor, leaf.ReleaseLeaf)
    wanted = [(ref.id, ref.version) for ref in bound.keys]
    _same(wanted, [(key.id, key.version) for key in answer.keys], "keys")
    logged = [(key.id, key.version, key.manifest) for key in entry.keys]
    _same(logged, [(key.id, key.version, key.manifest) for key in answer.keys], "logged keys")
    _same(sorted({key.policy for key in entry.keys}), list(answer.policies), "policies")
    wrap_spki = messages.recipient(identity.recipients, messages.WRAP_RSA)
    _same(hashlib.sha256(wrap_spki).digest(), bytes(entry.recipient), "recipient")
    deks = _unwrap_all(identity.wrap, answer.keys)
    manifests = {KeyRef(key.id, key.version): bytes(key.manifest) for key in answer.keys}
    return Released(deks, manifests, answer.lease, answer, entry.epoch)


def open_renewal(
    envelope: bytes, bound: Bound, identity: Identity, anchor: Anchor
) -> messages.Lease:
    """Return the prolonged lease in a signed answer.

    Raises:
        RuntimeFault: `answer_invalid`, naming what differs.
    """
    return open_renewed(envelope, bound, identity, anchor)[0]


def open_renewed(
    envelope: bytes, bound: Bound, identity: Identity, anchor: Anchor
) -> tuple[messages.Lease, int]:
    """Return the prolonged lease, and the tenant's state epoch that it was decided in.

    Raises:
        RuntimeFault: `answer_invalid`, naming what differs.
    """
    answer = _open(envelope, anchor, messages.RenewalAnswer)
    entry = _check_common(answer, bound, identity, anchor, leaf.RenewalLeaf)
    _same(bound.lease, answer.lease.id, "lease")
    _same(bound.keys, entry.keys, "logged keys")
    return answer.lease, entry.epoch


def _open(envelope: bytes, anchor: Anchor, kind: type[AnswerT]) -> AnswerT:
    try:
        payload = dsse.verify(envelope, messages.ANSWER_TYPE, [bytes(anchor.genesis.broker_key)])
        return canonical.decode(payload, kind)
    except VerifierError as error:
        raise RuntimeFault(Fault.ANSWER_INVALID, f"the broker's answer: {error}") from error


def _check_common(
    answer: messages.ReleaseAnswer | messages.RenewalAnswer,
    bound: Bound,
    identity: Identity,
    anchor: Anchor,
    kind: type[LeafT],
) -> LeafT:
    """Return the answer's leaf, once answer and leaf agree with this exchange and the log."""
    challenge = Hex(hashlib.sha256(bound.challenge).digest())
    recipients = Hex(binding.recipients_digest(identity.recipients))
    try:
        verify_receipt(
            answer.receipt.encode(errors="replace"), answer.leaf, anchor.origin, anchor.log_key
        )
        entry = leaf.decode(answer.leaf)
    except VerifierError as error:
        raise RuntimeFault(Fault.ANSWER_INVALID, f"the answer's receipt: {error}") from error
    if not isinstance(entry, kind):
        raise RuntimeFault(Fault.ANSWER_INVALID, "the logged leaf is of another type")
    _same(anchor.genesis.broker, answer.broker, "broker")
    for what, expected in (
        ("genesis", Hex(anchor.digest)),
        ("challenge", challenge),
        ("recipients", recipients),
    ):
        _same(expected, getattr(answer, what), what)
        _same(expected, getattr(entry, what), f"logged {what}")
    _same(Hex(hashlib.sha256(answer.result).digest()), entry.result, "attestation result")
    _same((entry.lease, entry.not_after), (answer.lease.id, answer.lease.not_after), "lease")
    _same(anchor.genesis.simulated, entry.simulated, "simulated")
    return entry


def _same(expected: object, seen: object, what: str) -> None:
    if expected != seen:
        raise RuntimeFault(Fault.ANSWER_INVALID, f"the answer is not for this exchange: {what}")


def _unwrap_all(
    private: rsa.RSAPrivateKey, keys: Sequence[messages.WrappedKey]
) -> dict[KeyRef, SecretKey]:
    """Return all DEKs, or none: what was opened before one that does not open is wiped."""
    deks: dict[KeyRef, SecretKey] = {}
    try:
        for key in keys:
            deks[KeyRef(key.id, key.version)] = _unwrap(private, key)
    except RuntimeFault:
        for dek in deks.values():
            dek.wipe()
        raise
    return deks


def _unwrap(private: rsa.RSAPrivateKey, key: messages.WrappedKey) -> SecretKey:
    digest = _OAEP[key.alg]
    scheme = padding.OAEP(mgf=padding.MGF1(digest), algorithm=digest, label=None)
    try:
        # `bytes` cannot be wiped; this copy is freed at once and the VM's memory is encrypted.
        material = bytearray(private.decrypt(key.wrapped, scheme))
    except ValueError as error:
        raise RuntimeFault(Fault.ANSWER_INVALID, "the wrapped key does not open") from error
    if len(material) != KEY_SIZE:
        material[:] = bytes(len(material))
        raise RuntimeFault(Fault.ANSWER_INVALID, "the wrapped key is not one of 32 bytes")
    return SecretKey(material)
