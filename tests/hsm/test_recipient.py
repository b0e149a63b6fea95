"""The one form of recipient key."""

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import (
    RSAPrivateKey,
    RSAPublicNumbers,
    generate_private_key,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.hsm.errors import HsmError, HsmReason
from broker.hsm.recipient import MODULUS_BYTES, modulus_of
from tests.kit.hsm import Prepared, digest, ready, run, spki_of, worker


def _modulus(guest: RSAPrivateKey) -> int:
    return guest.public_key().public_numbers().n


def _der(tag: int, body: bytes) -> bytes:
    size = len(body)
    if size < 128:
        return bytes([tag, size]) + body
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(length)]) + length + body


def _spki(
    modulus: int, exponent: bytes, oid: str = "2a864886f70d010101", tail: str = "0500"
) -> bytes:
    """Return an SPKI put together by hand, so that it may be wrong."""
    raw = modulus.to_bytes(modulus.bit_length() // 8 + 1)
    key = _der(0x30, _der(2, raw) + _der(2, exponent))
    algorithm = _der(0x30, _der(6, bytes.fromhex(oid)) + bytes.fromhex(tail))
    return _der(0x30, algorithm + _der(3, b"\0" + key))


def test_a_key_of_the_right_form_gives_its_modulus(guest: RSAPrivateKey) -> None:
    """The modulus comes back as 384 bytes, from our and from hand-made DER alike."""
    assert int.from_bytes(modulus_of(spki_of(guest))) == _modulus(guest)
    assert _spki(_modulus(guest), b"\1\0\1") == spki_of(guest)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda n: _spki(n, b"\1"), id="e_is_1"),
        pytest.param(lambda n: _spki(n, b"\3"), id="e_is_3"),
        pytest.param(lambda n: _spki(n, b"\0\1\0\1"), id="e_not_shortest"),
        pytest.param(lambda n: _spki(n >> 1 | 1, b"\1\0\1"), id="3071_bits"),
        pytest.param(lambda n: _spki(n << 1 | 1, b"\1\0\1"), id="3073_bits"),
        pytest.param(lambda n: _spki(n - 1, b"\1\0\1"), id="even_modulus"),
        pytest.param(lambda n: _spki(n, b"\1\0\1", oid="2a864886f70d01010a"), id="rsa_pss_oid"),
        pytest.param(lambda n: _spki(n, b"\1\0\1", oid="2a864886f70d010107"), id="rsa_oaep_oid"),
        pytest.param(lambda n: _spki(n, b"\1\0\1", tail=""), id="no_null"),
        pytest.param(lambda n: _spki(n, b"\1\0\1") + b"\0", id="trailing_byte"),
        pytest.param(lambda n: _spki(n, b"\1\0\1")[:-1], id="cut_off"),
        pytest.param(lambda n: b"\x30\x83\x00" + _spki(n, b"\1\0\1")[2:], id="long_length"),
        pytest.param(lambda _: spki_of(generate_private_key(65537, 2048)), id="2048_bits"),
        pytest.param(
            lambda n: (
                RSAPublicNumbers(65537, n)
                .public_key()
                .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
            ),
            id="pkcs1",
        ),
        pytest.param(
            lambda _: (
                ec.generate_private_key(ec.SECP256R1())
                .public_key()
                .public_bytes(
                    serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
                )
            ),
            id="ecdsa",
        ),
        pytest.param(lambda _: b"", id="empty"),
    ],
)
def test_every_other_form_is_refused(guest: RSAPrivateKey, spoil: Callable[[int], bytes]) -> None:
    """Anything but RSA-3072 with e = 65537 in canonical DER is malformed."""
    wrong = spoil(_modulus(guest))

    with pytest.raises(HsmError) as caught:
        modulus_of(wrong)

    assert caught.value.reason is HsmReason.MALFORMED


@pytest.mark.softhsm
def test_the_worker_refuses_e_1_though_the_log_names_it(
    enrolled_home: Callable[[], Prepared], guest: RSAPrivateKey
) -> None:
    """SoftHSM wraps to e = 1, which is plaintext; the worker never asks it to."""
    prepared = enrolled_home()
    wrong = _spki(_modulus(guest), b"\1")

    async def attempt() -> None:
        async with worker(prepared.home) as client:
            book = await ready(client, prepared)
            index = await book.push(client, book.release_leaf(wrong))
            assert book.release_leaf(wrong).recipient == digest(wrong)

            with pytest.raises(HsmError) as caught:
                await book.release(client, index, wrong)

            assert caught.value.reason is HsmReason.MALFORMED

    run(attempt())


@settings(max_examples=200)
@given(st.binary(max_size=500))
def test_no_bytes_make_it_raise_anything_else(raw: bytes) -> None:
    """Any input gives a modulus or our error."""
    reason = None
    try:
        modulus_of(raw)
    except HsmError as error:
        reason = error.reason
    assert reason in {None, HsmReason.MALFORMED}


@given(st.binary(min_size=MODULUS_BYTES, max_size=MODULUS_BYTES))
def test_what_is_accepted_is_what_a_library_prints(raw: bytes) -> None:
    """Our one form and the library's encoding are the same, for every modulus in range."""
    modulus = bytes([raw[0] | 0x80]) + raw[1:-1] + bytes([raw[-1] | 1])
    printed = (
        RSAPublicNumbers(65537, int.from_bytes(modulus))
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )

    assert modulus_of(printed) == modulus
