"""The one error that leaves the runtime, and its closed list of codes.

Guarantees: every refusal inside `inference_runtime` is a `RuntimeFault` with a stable `Fault`.
Its text names the thing that was refused and never carries key bytes or plaintext.
"""

from __future__ import annotations

from enum import StrEnum
from typing import final


@final
class Fault(StrEnum):
    """Why the runtime refused. The values are stable: callers and tests may match on them."""

    # Keys in memory.
    KEY_INVALID = "key_invalid"
    """A data key that is not 32 bytes."""
    KEY_WIPED = "key_wiped"
    """A data key used after it was wiped."""
    # Sealing, on the vendor's machine.
    SEAL_INPUT = "seal_input"
    """A link, a special file, a name that a manifest cannot carry, or no file at all."""
    SEAL_CHANGED = "seal_changed"
    """A file changed while it was being sealed."""
    SEAL_OUTPUT = "seal_output"
    """The sealed model cannot be written where it was asked for."""
    # The manifest of a sealed model.
    MANIFEST_INVALID = "manifest_invalid"
    """Not canonical, or its values contradict the format."""
    MANIFEST_SIGNATURE = "manifest_signature"
    """Not signed by enough of the expected signers."""
    MANIFEST_DIGEST = "manifest_digest"
    """Signed, but not the manifest that was expected."""
    MANIFEST_GENESIS = "manifest_genesis"
    """Signed, but made for another tenant."""
    # Sealed files.
    SEALED_MISSING = "sealed_missing"
    """The source has no such file."""
    SEALED_TRUNCATED = "sealed_truncated"
    """Fewer bytes than the manifest says, or than any sealed file has."""
    SEALED_EXTRA = "sealed_extra"
    """More bytes than the manifest says."""
    SEALED_HEADER = "sealed_header"
    """The first 40 bytes are not a header of this format."""
    SEALED_SEGMENT = "sealed_segment"
    """A segment is not authentic: altered, moved, of another file or key, or wrongly ended."""
    SEALED_DIGEST = "sealed_digest"
    """Every segment is authentic, yet the file is not the one in the manifest."""
    SOURCE_UNAVAILABLE = "source_unavailable"
    """The source failed while it was read."""
    MEMORY_UNAVAILABLE = "memory_unavailable"
    """No sealed memory could be had from the kernel."""
    # The exchange with the broker.
    ANCHOR_MISMATCH = "anchor_mismatch"
    """The broker speaks for another tenant or key than this machine was launched for."""
    SIMULATED_REFUSED = "simulated_refused"
    """Simulated hardware or tenant, outside the demo."""
    BROKER_UNAVAILABLE = "broker_unavailable"
    """The broker cannot be reached or cannot answer now."""
    BROKER_REFUSED = "broker_refused"
    """The broker said no."""
    BROKER_ASK_AGAIN = "broker_ask_again"
    """This exchange is void, through nobody's fault; another one may succeed."""
    ANSWER_INVALID = "answer_invalid"
    """The broker's answer is not signed, not for this exchange, or not in its log."""
    LEASE_ENDED = "lease_ended"
    """The lease ran out or was not renewed."""
    # Serving.
    GPUS_UNATTESTED = "gpus_unattested"
    """The engine would use more GPUs than there is evidence of."""
    ADDRESS_UNAVAILABLE = "address_unavailable"
    """The address to serve at cannot be bound."""


class RuntimeFault(Exception):  # noqa: N818 - "runtime error" is taken and means something else
    """Something that the runtime does not accept or cannot do.

    `code` is stable; the text names the file or field, and never carries secret bytes.
    """

    def __init__(self, code: Fault, message: str) -> None:
        super().__init__(message)
        self.code = code
