"""Does a maker of TPMs vouch for an attestation key? Its certificate chain to a pinned root.

Guarantees: order, names, signatures, CA rights and dates of the whole chain hold, and the root's
bytes are pinned. Does not judge revocation: no list comes with this evidence, and the result says
so. A certificate tells whose TPM it is and is never enough alone: Azure certified keys that a VM's
administrator had swapped (CVE-2025-49707), so bind the key to the hardware report where there is
one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from cryptography.x509 import Certificate

from verifier import x509
from verifier.anchors import Anchors
from verifier.der import Der
from verifier.errors import Reason, VerifierError
from verifier.result import Appraisal
from verifier.tpm.keys import SUBJECT_ALT_NAME, PublicKey, from_public_key, same_key

MAX_INTERMEDIATES: Final = 8
_DER_HEAD = 4  # of a certificate longer than 255 bytes: 30 82 and two bytes of length


def trim_der(raw: bytes) -> bytes:
    """Return the DER at the start of a padded buffer, such as Azure's NV index 0x01C101D0.

    Raises:
        VerifierError: `malformed`, or `trailing_data` where the padding is not all zero or all FF.
    """
    if raw[:2] != b"\x30\x82":
        raise VerifierError(Reason.MALFORMED, "AK certificate: DER of 256 bytes or more expected")
    end = _DER_HEAD + int.from_bytes(raw[2:_DER_HEAD], "big")
    der, padding = raw[:end], raw[end:]
    Der(der, "AK certificate").sequence()
    if padding.strip(b"\0") and padding.strip(b"\xff"):
        raise VerifierError(Reason.TRAILING_DATA, "AK certificate: only padding may follow it")
    return der


def verify_ak_chain(
    appraisal: Appraisal,
    leaf: bytes,
    issuers: Sequence[bytes],
    *,
    now: int,
    anchors: Anchors,
    makers: Collection[str] = ("azure", "gce"),
    expected: PublicKey | None = None,
    prefix: str = "ak",
) -> Certificate:
    """Check the chain of an AK certificate and return the certificate.

    Args:
        appraisal: takes the check and the chain's end of validity.
        leaf: the AK certificate (DER).
        issuers: intermediates from the leaf's issuer upwards, and the root last (DER).
        now: unix seconds, UTC.
        anchors: the pinned roots; a simulator's maker is admitted where they hold one.
        makers: whose roots may stand at the top.
        expected: the key that the certificate must hold; None does not compare.
        prefix: of the checks' names.

    Raises:
        VerifierError: `chain_invalid`, `root_unknown`, `certificate_invalid`,
            `certificate_expired`, `too_large`, `ak_refused`.
    """
    if not 1 <= len(issuers) <= MAX_INTERMEDIATES + 1:
        raise VerifierError(
            Reason.CHAIN_INVALID,
            f"AK chain: a root and at most {MAX_INTERMEDIATES} intermediates expected, "
            f"{len(issuers)} certificates seen",
        )
    certificate = x509.load_der(leaf, "AK certificate", honoured=frozenset({SUBJECT_ALT_NAME}))
    chain = [x509.load_der(der, f"AK issuer {n}") for n, der in enumerate(issuers, 1)]
    root = chain[-1]
    pin = x509.fingerprint(root)
    pins = frozenset().union(*(anchors.tpm.get(maker, ()) for maker in (*makers, "simulated")))
    if pin not in pins:
        raise VerifierError(Reason.ROOT_UNKNOWN, f"AK root: {pin.hex()} is not pinned")
    x509.check_end_entity(certificate, "AK certificate")
    below = certificate
    for length, issuer in enumerate(chain):
        what = f"AK issuer {length + 1}"
        x509.check_ca(issuer, path_length=length, what=what)
        x509.check_issued_by(below, issuer, what, pkcs1v15=True)
        below = issuer
    x509.check_issued_by(root, root, "AK root", pkcs1v15=True)
    for each, what in ((certificate, "AK certificate"), *((c, "AK issuer") for c in chain)):
        x509.check_window(each, now, what)
        appraisal.limit(x509.not_after(each))
    key = from_public_key(certificate.public_key(), form="certificate").key
    if expected is not None and not same_key(key, expected):
        raise VerifierError(Reason.AK_REFUSED, "AK certificate: it is another key's")
    appraisal.simulated |= anchors.is_simulated(pin)
    appraisal.require(
        f"{prefix}.certificate",
        True,
        Reason.AK_NOT_CERTIFIED,
        "a chain to a pinned root",
        root.subject.rfc4514_string(),
    )
    appraisal.not_judged(f"{prefix}.revocation", "no list", "no revocation list")
    return certificate
