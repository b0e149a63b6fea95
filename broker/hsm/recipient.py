"""The one form of public key that a DEK is wrapped to.

Guarantees: `modulus_of` accepts exactly the DER of an SPKI with rsaEncryption and NULL, an odd
modulus of 3072 bits and e = 65537; there is one such encoding, so it is compared byte by byte and
nothing is parsed. SoftHSM itself would wrap to e = 1, which is plaintext. Does not know whose key
it is, nor how its primes were chosen.
"""

from __future__ import annotations

from typing import Final

from broker.hsm.errors import HsmError, HsmReason

MODULUS_BYTES: Final = 384

_BEFORE: Final = bytes.fromhex(
    "308201a2"  # SubjectPublicKeyInfo (RFC 5280 §4.1)
    "300d06092a864886f70d0101010500"  # rsaEncryption, NULL (RFC 3279 §2.3.1)
    "0382018f00"  # BIT STRING, no unused bits
    "3082018a"  # RSAPublicKey (RFC 8017 §A.1.1)
    "0282018100"  # modulus: 385 bytes, the first of them 0
)
_AFTER: Final = bytes.fromhex("0203010001")  # publicExponent 65537


def modulus_of(spki: bytes) -> bytes:
    """Return the modulus, 384 bytes big-endian.

    Raises:
        HsmError: `malformed`.
    """
    modulus = spki[len(_BEFORE) : len(_BEFORE) + MODULUS_BYTES]
    if (
        spki != _BEFORE + modulus + _AFTER
        or len(modulus) != MODULUS_BYTES
        or modulus[0] < 0x80  # noqa: PLR2004 - the top bit of 3072
        or modulus[-1] % 2 == 0
    ):
        raise HsmError(
            HsmReason.MALFORMED, "the recipient is not an RSA-3072 key with e = 65537 in DER"
        )
    return modulus
