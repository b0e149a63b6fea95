"""What a vTPM says of an exchange: its quote, the PCRs that the quote covers, its log.

Guarantees: the PCR values that go with a quote are those that it was made over, also where somebody
extends one meanwhile. Does not make a vTPM trustworthy: in Azure the hardware report binds its key,
elsewhere it is the host's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

from inference_runtime.attester.errors import AttesterError, DeviceFault
from inference_runtime.attester.tpm.client import Tpm
from inference_runtime.attester.tpm.wire import Reader, WireError
from verifier.wire import binding
from verifier.wire.canonical import B64, Hex
from verifier.wire.messages import Pcr, Vtpm

BANK: Final = "sha256"
_TRIES: Final = 4
_HASHES: Final = {32: "sha256", 48: "sha384", 64: "sha512"}


def quoted(
    tpm: Tpm,
    key: int,
    report_data: bytes,
    *,
    certificates: Sequence[bytes] = (),
    event_log: bytes = b"",
    hcl_report: bytes = b"",
) -> Vtpm:
    """Return a quote over all SHA-256 PCRs, bound to this exchange's report data.

    Args:
        tpm: open.
        key: handle of the attestation key.
        report_data: 64 bytes.
        certificates: of the key and its issuers, the root last; none, or all.
        event_log: the TPM's.
        hcl_report: Azure's; empty elsewhere.

    Raises:
        AttesterError: the TPM does not do it, or PCRs do not keep still.
    """
    qualifying = binding.tpm_qualifying_data(report_data)
    for _ in range(_TRIES):
        values = tpm.read_pcrs()
        message, signature = tpm.quote(key, qualifying, tuple(values))
        if _covers(message, values):
            break
    else:
        raise AttesterError(
            DeviceFault.RACED,
            "PCRs changed between reading and quoting, each time: find out what keeps extending "
            "them, then try again",
        )
    return Vtpm(
        message=B64(message),
        signature=B64(signature),
        pcrs=tuple(Pcr(BANK, index, Hex(value)) for index, value in sorted(values.items())),
        certificates=tuple(map(B64, certificates)),
        event_log=B64(event_log),
        hcl_report=B64(hcl_report),
    )


def _covers(message: bytes, values: Mapping[int, bytes]) -> bool:
    """Tell whether a quote's digest is of these values (part 2, TPMS_ATTEST, TPMS_QUOTE_INFO)."""
    reader = Reader(message)
    try:
        reader.take(4 + 2)  # magic, type
        reader.sized()  # qualifiedSigner
        reader.sized()  # extraData: `answer.check_evidence` compares it
        reader.take(8 + 4 + 4 + 1 + 8)  # clock, counts, safe, firmware
        for _ in range(reader.number(4)):
            reader.take(2)
            reader.take(reader.number(1))
        digest = reader.sized()
        reader.end()
    except WireError as error:
        raise AttesterError(
            DeviceFault.ANSWER_INVALID, f"the TPM gave no quote: {error}"
        ) from error
    name = _HASHES.get(len(digest))
    if name is None:
        raise AttesterError(
            DeviceFault.ANSWER_INVALID, f"the TPM's quote has a digest of {len(digest)} bytes"
        )
    whole = b"".join(value for _, value in sorted(values.items()))
    return hashlib.new(name, whole).digest() == digest
