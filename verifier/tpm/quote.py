"""Judge a TPM 2.0 quote: signed by this key, for this nonce, over exactly these PCRs.

Guarantees: the PCRs of the result are those that the signed selection names, in the bank that the
caller asked for, and their digest is the signed one; whatever else was reported is dropped. A bank
or PCR that the caller needs and the quote lacks is a refusal. Does not say whether the key belongs
to a TPM, nor what the PCR values mean.

Source: TCG TPM 2.0 Library part 1 (attestation), part 3 (TPM2_Quote); PC Client Platform TPM
Profile (PCR attributes).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, final

from verifier.errors import Reason, VerifierError
from verifier.result import Appraisal
from verifier.tpm import attest as attests
from verifier.tpm import keys
from verifier.tpm.attest import Attest
from verifier.tpm.keys import AttestationKey
from verifier.tpm.pcrs import SIZES, Banks

RESETTABLE: Final = frozenset({16, 23})
"""PCRs that whoever runs on the machine may reset: debug and application."""


@final
@dataclass(frozen=True, slots=True)
class Quote:
    """A genuine quote. `pcrs` are the quoted ones of `bank`, and only those."""

    attest: Attest
    bank: str
    pcrs: Mapping[int, bytes]


def appraise_quote(  # noqa: PLR0917 - the six things that a quote is made of
    appraisal: Appraisal,
    attest: bytes,
    signature: bytes,
    ak: AttestationKey,
    pcrs: Banks,
    nonce: bytes | None,
    *,
    bank: str = "sha256",
    required: Collection[int] = (),
    allow_sha1: bool = False,
    allow_resettable: bool = False,
    prefix: str = "tpm",
) -> Quote:
    """Judge a quote, record every check as `<prefix>.…` and return what it proves.

    Args:
        appraisal: takes the checks, and the claim `attest`.
        attest: the TPMS_ATTEST, as signed.
        signature: TPMT_SIGNATURE, or the bare RSA signature.
        ak: the key that must have signed; see `keys` and `chain`.
        pcrs: values that the host reports, by bank.
        nonce: the qualifying data that the quote must carry, whole; None is not judged.
        bank: the bank that the caller needs.
        required: PCRs of that bank that the caller needs.
        allow_sha1: admit SHA-1, as bank or beside it.
        allow_resettable: admit PCR 16 and 23 among the required ones.
        prefix: of the checks' names.

    Raises:
        VerifierError: the quote is not genuine, or lacks the bank.
    """
    read = attests.parse(attest)
    appraisal.claims["attest"] = read.claims()
    keys.check_signature(ak, signature, attest)
    appraisal.require(
        f"{prefix}.signature", True, Reason.SIGNATURE_INVALID, "by the AK", ak.describe()
    )
    _nonce(appraisal, read, nonce, prefix)
    covered = _covered(read, pcrs, ak.hash)
    appraisal.require(
        f"{prefix}.pcr_digest",
        True,
        Reason.PCR_DIGEST_MISMATCH,
        read.pcr_digest.hex(),
        read.pcr_digest.hex(),
    )
    weak = [s.bank for s in read.selections if s.bank == "sha1"]
    if bank == "sha1" or not covered.keys() - set(weak):
        appraisal.require(
            f"{prefix}.bank",
            allow_sha1,
            Reason.HASH_NOT_ALLOWED,
            "allowed" if allow_sha1 else "a bank other than SHA-1",
            " ".join(covered) or "none",
        )
    values = covered.get(bank, {})
    _required(appraisal, values, bank, required, prefix, allow_resettable=allow_resettable)
    return Quote(read, bank, values)


def _nonce(appraisal: Appraisal, read: Attest, nonce: bytes | None, prefix: str) -> None:
    seen = read.extra_data.hex()
    if nonce is None and read.extra_data:
        appraisal.not_judged(f"{prefix}.nonce", seen, "no expected nonce")
        return
    appraisal.require(
        f"{prefix}.nonce",
        bool(nonce) and hmac.compare_digest(read.extra_data, nonce or b""),
        Reason.NONCE_MISMATCH,
        nonce.hex() if nonce else "a nonce that is not empty",
        seen or "empty",
    )


def _covered(read: Attest, pcrs: Banks, digest_hash: str) -> dict[str, dict[int, bytes]]:
    """Return the values that the selection names, if their digest is the signed one.

    The digest is of the values in the selection's bank order and by ascending index, with the hash
    of the signing scheme (part 1, §"Selecting Multiple PCR").
    """
    covered: dict[str, dict[int, bytes]] = {}
    digest = hashlib.new(digest_hash)
    for selection in read.selections:
        reported = pcrs.get(selection.bank, {})
        missing = [index for index in selection.pcrs if index not in reported]
        if missing:
            raise VerifierError(
                Reason.PCR_MISSING,
                f"PCR values: the quote covers {selection.bank} {missing}, which are not reported",
            )
        values = {index: reported[index] for index in selection.pcrs}
        for index, value in values.items():
            if len(value) != SIZES[selection.bank]:
                raise VerifierError(
                    Reason.MALFORMED, f"PCR values: {selection.bank} {index}: {len(value)} bytes"
                )
            digest.update(value)
        if values:
            covered[selection.bank] = values
    if not hmac.compare_digest(digest.digest(), read.pcr_digest):
        raise VerifierError(
            Reason.PCR_DIGEST_MISMATCH,
            f"PCR values: digest {read.pcr_digest.hex()} is signed, "
            f"the values give {digest.hexdigest()}",
        )
    return covered


def _required(
    appraisal: Appraisal,
    values: Mapping[int, bytes],
    bank: str,
    required: Collection[int],
    prefix: str,
    *,
    allow_resettable: bool,
) -> None:
    missing = sorted(set(required) - values.keys())
    wanted = " ".join(map(str, sorted(required)))
    appraisal.require(
        f"{prefix}.required_pcrs",
        bool(values) and not missing,
        Reason.PCR_MISSING,
        f"{bank} {wanted or 'any'}",
        f"{bank} {' '.join(map(str, values)) or 'none'}",
    )
    loose = sorted(RESETTABLE & set(required))
    if loose:
        appraisal.require(
            f"{prefix}.resettable_pcrs",
            allow_resettable,
            Reason.PCR_NOT_ALLOWED,
            "allowed" if allow_resettable else "no PCR that can be reset",
            " ".join(map(str, loose)),
        )
