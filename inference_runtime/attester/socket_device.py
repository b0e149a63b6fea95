"""The report device of a simulated machine: a client of its unix socket.

Guarantees: same answers and errors as a real device, so the runtime cannot tell and need not. Is
not evidence of anything: whoever owns the socket is the machine. It says SIMULATED through the
vendor's root in the evidence, and broker and runtime refuse that outside a demo.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Final, final

from inference_runtime.attester import (
    LAUNCH_CONFIG_SIZE,
    AttesterError,
    DeviceFault,
    Evidence,
    Kind,
    LaunchConfig,
    Vtpm,
    require_report_data,
)
from inference_runtime.attester import socket_wire as wire
from inference_runtime.attester.answer import MAX_AUX, MAX_EVENT_LOG, check_evidence
from verifier.errors import VerifierError
from verifier.wire import canonical

TIMEOUT_S: Final = 10.0
"""Seconds for one call."""


@final
class SocketDevice:
    """A `ReportDevice` behind a unix socket."""

    __slots__ = ("_ak", "_config", "_kind", "_path", "_timeout")

    def __init__(self, path: Path, *, timeout: float = TIMEOUT_S) -> None:
        """Connect once and read what the machine says of itself.

        Raises:
            AttesterError: nobody listens there, or it is no such device.
        """
        self._path = path
        self._timeout = timeout
        kind, config, _, self._ak = self._call(wire.CLAIMS, b"", 4)
        self._kind = _kind(kind)
        if len(config) != LAUNCH_CONFIG_SIZE[self._kind]:
            raise AttesterError(
                DeviceFault.ANSWER_INVALID,
                f"a launch configuration of {len(config)} bytes for {self._kind}",
            )
        self._config = config

    @property
    def kind(self) -> Kind:
        """The kind of evidence that this machine gives."""
        return self._kind

    @property
    def ak(self) -> bytes:
        """The public key (SPKI, DER) that the vTPM quotes with; empty without one."""
        return self._ak

    def launch_config(self) -> LaunchConfig:
        """Return what the machine was launched with."""
        return LaunchConfig(self._config, extended=self._kind in {"azure-snp", "azure-tdx"})

    def report(self, report_data: bytes) -> Evidence:
        """Return evidence bound to 64 bytes.

        Raises:
            AttesterError: as `ReportDevice.report`.
        """
        require_report_data(report_data)
        cpu, event_log, aux, raw = self._call(wire.REPORT, report_data, 4)
        vtpm = read_vtpm(raw)
        check_evidence(self._kind, cpu, report_data, vtpm)
        if len(event_log) > MAX_EVENT_LOG or len(aux) > MAX_AUX:
            raise AttesterError(
                DeviceFault.ANSWER_INVALID,
                f"{len(event_log)} bytes of event log and {len(aux)} of auxiliary blob: too much",
            )
        return Evidence(cpu, event_log, aux, vtpm)

    def _call(self, code: int, payload: bytes, parts: int) -> list[bytes]:
        answer = call(self._path, code, payload, timeout=self._timeout)
        try:
            return wire.split(answer, parts)
        except wire.FrameError as error:
            raise AttesterError(DeviceFault.ANSWER_INVALID, str(error)) from error


def call(path: Path, code: int, payload: bytes, *, timeout: float = TIMEOUT_S) -> bytes:
    """Return the payload of the simulated machine's good answer to one request.

    Raises:
        AttesterError: nobody listens there, it is no such device, or it refused.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            connection.connect(str(path))
            connection.sendall(wire.frame(code, payload))
            status, answer = wire.read_frame(connection, wire.MAX_ANSWER)
        if status != wire.GOOD:
            text = answer[:512].decode(errors="replace")
            raise AttesterError(DeviceFault.FAILED, f"the simulated device: {text}")
        return answer
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise AttesterError(
            DeviceFault.ABSENT,
            f"no simulated machine listens at {path}: start one with "
            "`python -m ostiary.simulator.device`",
        ) from error
    except PermissionError as error:
        raise AttesterError(DeviceFault.DENIED, f"{path} belongs to another user") from error
    except wire.FrameError as error:
        raise AttesterError(DeviceFault.ANSWER_INVALID, str(error)) from error
    except OSError as error:
        raise AttesterError(
            DeviceFault.FAILED, f"the simulated device at {path}: {error}"
        ) from error


def read_vtpm(raw: bytes) -> Vtpm | None:
    """Return what a vTPM says on the device's wire; nothing is None.

    Raises:
        AttesterError: `device_answer_invalid`.
    """
    if not raw:
        return None
    try:
        return canonical.decode(raw, Vtpm)
    except VerifierError as error:
        raise AttesterError(DeviceFault.ANSWER_INVALID, f"what the vTPM says: {error}") from error


def _kind(name: bytes) -> Kind:
    for known in LAUNCH_CONFIG_SIZE:
        if name == known.encode():
            return known
    raise AttesterError(DeviceFault.ANSWER_INVALID, f"a device of unknown kind {name[:16]!r}")
