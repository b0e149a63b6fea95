"""Who asks: the guest's public keys, and that its instance key signed a renewal.

Guarantees: keys that something can be released to, or a refusal before a leaf and a lease are
spent; the HSM worker checks the RSA key again.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ed25519

from broker.errors import BrokerError, Code
from broker.hsm.errors import HsmError
from broker.hsm.recipient import modulus_of
from verifier import dsse
from verifier.errors import VerifierError
from verifier.wire import messages
from verifier.wire.messages import RenewRequest

_ED25519: Final = bytes.fromhex("302a300506032b6570032100")
"""What stands before the 32 bytes of an Ed25519 key in its SPKI (RFC 8410 §4)."""


def require_recipients(recipients: tuple[messages.Recipient, ...]) -> bytes:
    """Return the instance key, if these are keys that something can be released to.

    The HSM worker checks the RSA key again; here it is refused before a leaf and a lease are spent.

    Raises:
        BrokerError: `malformed`.
    """
    if any(r.alg == messages.HPKE for r in recipients):
        raise BrokerError(Code.MALFORMED, f"{messages.HPKE} is reserved, not supported yet")
    try:
        instance = messages.recipient(recipients, messages.INSTANCE)
        modulus_of(messages.recipient(recipients, messages.WRAP_RSA))
    except (VerifierError, HsmError) as error:
        raise BrokerError(Code.MALFORMED, "recipients", (str(error),)) from error
    if len(instance) != len(_ED25519) + 32 or not instance.startswith(_ED25519):
        raise BrokerError(Code.MALFORMED, "recipients", ("the instance key is not Ed25519",))
    return instance


def check_renewal_signature(request: RenewRequest, report_data: bytes) -> None:
    """Check that the instance key signed what the report binds: evidence alone renews nothing.

    Raises:
        BrokerError: `malformed`, `denied`.
    """
    try:
        key = dsse.load_signer(messages.recipient(request.recipients, messages.INSTANCE))
    except VerifierError as error:
        raise BrokerError(Code.MALFORMED, "the instance key") from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise BrokerError(Code.DENIED, "the instance key is not Ed25519")
    try:
        key.verify(request.signature, messages.renewal_message(report_data, request.lease))
    except InvalidSignature as error:
        raise BrokerError(Code.DENIED, "the renewal is not signed by the instance") from error
