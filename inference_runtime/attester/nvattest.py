"""NVSwitches through NVIDIA's command line tool `nvattest`, the one way that does not need NSCQ.

Guarantees: what comes out was printed by the tool for our nonce, decoded strictly. The tool is part
of the measured image; it judges nothing for us.
"""

from __future__ import annotations

import base64
import binascii
import shutil
import subprocess
from typing import Any, Final, final

import msgspec

from inference_runtime.attester.errors import AttesterError, DeviceFault
from inference_runtime.attester.gpus import evidence
from verifier.wire.messages import GpuEvidence

PROGRAM: Final = "nvattest"
TIMEOUT_S: Final = 120.0
"""Seconds for all switches of a machine."""
MAX_SWITCHES: Final = 32
_SHOWN: Final = 300


@final
class NvattestSwitches:
    """`Switches` on a real machine."""

    __slots__ = ("_program", "_timeout")

    def __init__(self, program: str = PROGRAM, *, timeout: float = TIMEOUT_S) -> None:
        self._program = program
        self._timeout = timeout

    def collect(self, nonce: bytes) -> tuple[GpuEvidence, ...]:
        """Return every switch's evidence for a nonce.

        Raises:
            AttesterError: as `Switches.collect`.
        """
        path = shutil.which(self._program)
        if path is None:
            raise AttesterError(
                DeviceFault.GPU_TOOL_ABSENT,
                f"{self._program} is not there, and a protected-PCIe machine must prove its "
                "switches too: put NVIDIA's attestation CLI into the image",
            )
        command = [path, "collect-evidence", "--device", "nvswitch", "--nonce", nonce.hex()]
        try:
            done = subprocess.run(  # noqa: S603 - found above, arguments are ours
                [*command, "--format", "json"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self._timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise AttesterError(
                DeviceFault.FAILED,
                f"{self._program} did not answer in {self._timeout:g} seconds: see the kernel log "
                "for what it says of the switches",
            ) from error
        except OSError as error:
            raise AttesterError(
                DeviceFault.GPU_TOOL_ABSENT, f"{path} cannot be run: {error.strerror}"
            ) from error
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip()).decode(errors="replace")
            raise AttesterError(
                DeviceFault.FAILED,
                f"{self._program} ended with {done.returncode}: {said[-_SHOWN:]}; is "
                "libnvidia-nscq of the driver's version installed, and the fabric manager running?",
            )
        return parse(done.stdout, nonce)


def parse(printed: bytes, nonce: bytes) -> tuple[GpuEvidence, ...]:
    """Return the evidence in what `nvattest collect-evidence --format json` printed.

    Args:
        printed: the tool's standard output.
        nonce: ours, which every report must carry.

    Raises:
        AttesterError: it is not what the tool prints, or not for our nonce.
    """
    try:
        told = msgspec.json.decode(printed)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _not_understood("no JSON") from error
    if not isinstance(told, dict):
        raise _not_understood("no object")
    if told.get("result_code") != 0:
        message = str(told.get("result_message"))[:_SHOWN]
        raise AttesterError(
            DeviceFault.FAILED,
            f"{PROGRAM} failed with {str(told.get('result_code'))[:20]}, {message}: see the kernel "
            "log for what it says of the switches",
        )
    listed = told.get("evidences")
    if not isinstance(listed, list) or not 0 < len(listed) <= MAX_SWITCHES:
        raise _not_understood(f"no list of 1 to {MAX_SWITCHES} evidences")
    return tuple(
        evidence(2, _decode(each, "evidence"), _decode(each, "certificate"), nonce)
        for each in listed
    )


def _decode(entry: Any, member: str) -> bytes:  # noqa: ANN401 - unchecked JSON
    text = entry.get(member) if isinstance(entry, dict) else None
    if not isinstance(text, str):
        raise _not_understood(f"an evidence without {member}")
    try:
        return base64.b64decode(text.encode(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _not_understood(f"{member} is not base64") from error


def _not_understood(why: str) -> AttesterError:
    return AttesterError(
        DeviceFault.ANSWER_INVALID,
        f"{PROGRAM} printed something that is not understood ({why}): use release 1.0 or later",
    )
