"""Public keys of a TPM as the rest of the world writes them.

Guarantees: `spki` returns the same RSA or elliptic curve key that the TPMT_PUBLIC holds, as DER.
Whether it may be believed is the verifier's to say.

Source: TCG TPM 2.0 Library part 2: TPMT_PUBLIC, TPMS_RSA_PARMS, TPMS_ECC_PARMS.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from inference_runtime.attester.errors import AttesterError, DeviceFault
from inference_runtime.attester.tpm.wire import Reader, WireError

_RSA: Final = 0x0001
_ECC: Final = 0x0023
_NULL: Final = 0x0010
_RSASSA: Final = 0x0014
_ECDSA: Final = 0x0018
_EXPONENT: Final = 65537
_CURVES: Final[dict[int, type[ec.EllipticCurve]]] = {0x0003: ec.SECP256R1, 0x0004: ec.SECP384R1}


def spki(public: bytes) -> bytes:
    """Return the SubjectPublicKeyInfo (DER) of an attestation key's TPMT_PUBLIC.

    Raises:
        AttesterError: `device_answer_invalid` if it is no key that signs quotes.
    """
    try:
        key = _key(Reader(public))
    except (WireError, ValueError) as error:
        raise AttesterError(
            DeviceFault.ANSWER_INVALID, f"the TPM's key is none that signs quotes: {error}"
        ) from error
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _key(reader: Reader) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
    kind = reader.number(2)
    reader.number(2)  # nameAlg
    reader.number(4)  # attributes: the verifier wants a hardware report, and so need not ask
    reader.sized()  # authPolicy
    if reader.number(2) != _NULL:
        raise WireError("it has a symmetric algorithm")
    if kind == _RSA:
        _scheme(reader, _RSASSA)
        bits, exponent = reader.number(2), reader.number(4)
        modulus = int.from_bytes(reader.sized(), "big")
        reader.end()
        if modulus.bit_length() != bits:
            raise WireError("its modulus has another size")
        return rsa.RSAPublicNumbers(exponent or _EXPONENT, modulus).public_key()
    if kind == _ECC:
        _scheme(reader, _ECDSA)
        curve, kdf = reader.number(2), reader.number(2)
        x, y = (int.from_bytes(reader.sized(), "big") for _ in range(2))
        reader.end()
        if curve not in _CURVES or kdf != _NULL:
            raise WireError("its curve is neither P-256 nor P-384")
        return ec.EllipticCurvePublicNumbers(x, y, _CURVES[curve]()).public_key()
    raise WireError(f"it is of type {kind:#06x}")


def _scheme(reader: Reader, wanted: int) -> None:
    if reader.number(2) != wanted:
        raise WireError("its scheme is not RSASSA or ECDSA")
    reader.number(2)  # the scheme's hash
