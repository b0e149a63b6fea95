"""What a decision rested on beside the evidence, as one string of bytes that the log names.

Guarantees: the bytes can be read in one way only, so a decision can be made again from them: the
CPU's endorsements alone, or a list of two with the devices', or of three with the provenance (SPEC,
7.5).
"""

from __future__ import annotations

from broker.policies.provenance import FoundProvenance
from verifier.collateral import Found
from verifier.collateral.gpus import FoundGpus
from verifier.wire.framing import lp_list


def joined(cpu: Found, gpus: FoundGpus | None, built: FoundProvenance | None) -> bytes:
    """Return what is stored, and whose SHA-256 stands in the leaf as `collateral`."""
    if built is not None:
        return lp_list((cpu.raw, b"" if gpus is None else gpus.raw, built.raw))
    return cpu.raw if gpus is None else lp_list((cpu.raw, gpus.raw))
