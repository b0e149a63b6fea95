"""DSSE envelopes: enough expected signers, exact bytes, exact type."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from verifier import dsse
from verifier.errors import VerifierError

KEYS = (
    ed25519.Ed25519PrivateKey.generate(),
    ec.generate_private_key(ec.SECP256R1()),
    ed25519.Ed25519PrivateKey.generate(),
)
SPKIS = [dsse.spki(key.public_key()) for key in KEYS]


def test_enough_signers_give_the_payload():
    """Two of three, of two algorithms."""
    envelope = dsse.sign("t", b"payload", *KEYS[:2])

    assert dsse.verify(envelope, "t", SPKIS, 2) == b"payload"


def test_the_pre_authentication_encoding_is_the_standard_one():
    """The example of the DSSE protocol document."""
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"

    assert dsse.pae("http://example.com/HelloWorld", b"hello world") == expected


@pytest.mark.parametrize(
    ("envelope", "signers", "threshold"),
    [
        pytest.param(dsse.sign("t", b"p", KEYS[0]), SPKIS, 2, id="too few"),
        pytest.param(dsse.sign("t", b"p", KEYS[0], KEYS[0]), SPKIS, 2, id="one signer twice"),
        pytest.param(dsse.sign("t", b"p", KEYS[0]), SPKIS[1:], 1, id="a stranger"),
        pytest.param(dsse.sign("u", b"p", KEYS[0]), SPKIS, 1, id="another type"),
        pytest.param(dsse.sign("t", b"p"), SPKIS, 1, id="nobody"),
        pytest.param(dsse.sign("t", b"p", KEYS[0]), SPKIS, 0, id="a threshold of zero"),
        pytest.param(dsse.sign("t", b"p", KEYS[0]) + b" ", SPKIS, 1, id="trailing space"),
    ],
)
def test_anything_less_is_refused(envelope, signers, threshold):
    """Absent, few, foreign or repeated signatures do not add up."""
    with pytest.raises(VerifierError):
        dsse.verify(envelope, "t", signers, threshold)


@given(st.data())
def test_no_flipped_bit_is_accepted(data):
    """Every byte of an envelope matters."""
    envelope = bytearray(dsse.sign("t", b"payload", KEYS[0]))
    at = data.draw(st.integers(0, len(envelope) - 1))
    envelope[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(VerifierError):
        dsse.verify(bytes(envelope), "t", SPKIS[:1])


def test_only_canonical_keys_of_the_two_kinds_are_signers():
    """P-384, an unknown curve, garbage and trailing bytes are not keys."""
    p384 = dsse.spki(ec.generate_private_key(ec.SECP384R1()).public_key())
    p256 = bytes.fromhex("2a8648ce3d030107")
    unknown_curve = SPKIS[1].replace(p256, p256[:-1] + b"\x63")
    assert unknown_curve != SPKIS[1]
    for spki in (p384, unknown_curve, b"garbage", SPKIS[0] + b"\0"):
        with pytest.raises(VerifierError):
            dsse.load_signer(spki)


def test_base64_has_one_spelling():
    """Bits that nobody reads must be zero, and there is nothing but base64."""
    for payload in ("QR==", "Q", "*"):
        raw = b'{"payload":"%s","payloadType":"t","signatures":[]}' % payload.encode()
        with pytest.raises(VerifierError, match="base64"):
            dsse.payload_unverified(raw)
