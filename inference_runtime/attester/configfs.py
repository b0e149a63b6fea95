"""Reads TDX quotes and SNP reports through Linux' configfs-tsm, the kernel's one way for both.

Guarantees: a report comes from the provider of the expected kind, for our input and no other
writer's (private folder, generation counted, report data compared), or an error says what to do.
Source: Linux, Documentation/ABI/testing/configfs-tsm-report.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Iterator
from typing import Final, final

from inference_runtime.attester import (
    LAUNCH_CONFIG_SIZE,
    REPORT_DATA_SIZE,
    AttesterError,
    DeviceFault,
    Evidence,
    Kind,
    LaunchConfig,
    logs,
    require_report_data,
)
from inference_runtime.attester import tdreport as td
from inference_runtime.attester.answer import (
    MAX_AUX,
    MAX_CPU,
    SNP_HOST_DATA,
    check_evidence,
)
from inference_runtime.attester.files import KernelFiles, RealFiles

ROOT: Final = "/sys/kernel/config/tsm/report"
EVENT_LOG: Final = logs.CCEL.path
PROVIDERS: Final[dict[Kind, str]] = {
    "tdx": "tdx_guest",
    "snp": "sev_guest",
    "gcp-tdx": "tdx_guest",
    "gcp-snp": "sev_guest",
}
_ATTRIBUTE_LIMIT: Final = 64
_MAX_PRIVLEVEL: Final = 3


def _new_name() -> str:
    return f"ostiary-{secrets.token_hex(8)}"


@final
class ConfigfsDevice:
    """A `ReportDevice` on a real confidential VM.

    Args:
        kind: what this machine is meant to be; another provider is refused. A machine at Google
            gives the same reports as any other; its host's vTPM proves nothing and is not read.
        privlevel: VMPL to ask for, SNP only; None leaves the kernel's default (0).
        files: the kernel's files.
        root: where configfs-tsm is mounted.
        get_tdreport: the ioctl that old kernels need for MRCONFIGID.
        new_name: names the request's folder; must not repeat.

    Raises:
        ValueError: `privlevel` is not one, or given for TDX; or Azure, whose machines answer
            otherwise.
    """

    __slots__ = ("_files", "_kind", "_name", "_privlevel", "_root", "_snp", "_tdreport")

    def __init__(
        self,
        kind: Kind,
        *,
        privlevel: int | None = None,
        files: KernelFiles | None = None,
        root: str = ROOT,
        get_tdreport: Callable[[], bytes] = td.tdreport,
        new_name: Callable[[], str] = _new_name,
    ) -> None:
        self._snp = kind in {"snp", "gcp-snp"}
        if privlevel is not None and not (self._snp and 0 <= privlevel <= _MAX_PRIVLEVEL):
            raise ValueError("a privilege level is 0 to 3, on SNP only")
        if kind not in PROVIDERS:
            raise ValueError(f"{kind} gives no reports through configfs-tsm")
        self._kind: Kind = kind
        self._privlevel = privlevel
        self._files: KernelFiles = RealFiles() if files is None else files
        self._root = root
        self._tdreport = get_tdreport
        self._name = new_name

    @property
    def kind(self) -> Kind:
        """The kind of evidence that this machine gives."""
        return self._kind

    @property
    def ak(self) -> bytes:
        """Nothing: no TPM is read."""
        return b""

    def report(self, report_data: bytes) -> Evidence:
        """Return evidence bound to 64 bytes.

        Raises:
            AttesterError: as `ReportDevice.report`.
        """
        require_report_data(report_data)
        with self._request() as folder:
            # 1. The provider is the one that we expect.
            provider = self._text(folder, "provider")
            if provider != PROVIDERS[self._kind]:
                raise AttesterError(
                    DeviceFault.WRONG_KIND,
                    f"this machine's report provider is {provider!r}, {self._kind} wants "
                    f"{PROVIDERS[self._kind]!r}: choose the kind that the machine is",
                )
            # 2. Inputs, each counted by the kernel.
            before = self._generation(folder)
            writes = 0
            if self._privlevel is not None:
                self._require_level(folder, self._privlevel)
                self._write(folder, "privlevel", str(self._privlevel).encode())
                writes += 1
            self._write(folder, "inblob", report_data)
            writes += 1
            # 3. Outputs.
            cpu = self._read(folder, "outblob", MAX_CPU)
            aux = self._optional(f"{folder}/auxblob", MAX_AUX) if self._snp else b""
            # 4. Nobody wrote in between: the count is ours, and so is the report data.
            if self._generation(folder) != before + writes:
                raise AttesterError(
                    DeviceFault.RACED,
                    f"somebody else wrote to {folder} while we did: find out who, then try again",
                )
            check_evidence(self._kind, cpu, report_data)
        log, missing = (b"", ()) if self._snp else logs.read(self._files, logs.CCEL)
        return Evidence(cpu, log, aux, missing=missing)

    def launch_config(self) -> LaunchConfig:
        """Return MRCONFIGID (from the TDX module) or HOST_DATA (from a report of the AMD PSP).

        The PSP answers over a channel keyed to this guest, so its report needs no signature check
        here; a TDX quote comes from the host, so the TDREPORT is read instead.

        Raises:
            AttesterError: it cannot be read.
        """
        if not self._snp:
            return LaunchConfig(td.mr_config_id(self._files, self._tdreport))
        report = self.report(secrets.token_bytes(REPORT_DATA_SIZE)).cpu
        value = report[SNP_HOST_DATA]
        if len(value) != LAUNCH_CONFIG_SIZE["snp"]:
            raise AttesterError(DeviceFault.ANSWER_INVALID, f"HOST_DATA of {len(value)} bytes")
        return LaunchConfig(value)

    @contextlib.contextmanager
    def _request(self) -> Iterator[str]:
        """Make a request folder of our own, and remove it whatever happens."""
        folder = f"{self._root}/{self._name()}"
        try:
            self._files.make_folder(folder)
        except OSError as error:
            raise _open_fault(error, self._root) from error
        try:
            yield folder
        finally:
            # A folder left behind holds nothing secret and vanishes with the boot.
            with contextlib.suppress(OSError):
                self._files.remove_folder(folder)

    def _require_level(self, folder: str, level: int) -> None:
        """Refuse a privilege level below the guest's floor, which the kernel says since 6.7."""
        floor = self._number(folder, "privlevel_floor")
        if level < floor:
            raise AttesterError(
                DeviceFault.REQUEST_INVALID,
                f"privilege level {level} was asked for, and this guest's floor is {floor}: "
                "something more privileged runs beneath it (an SVSM or paravisor), which a policy "
                "has to admit (`max_vmpl`) and pin",
            )

    def _read(self, folder: str, name: str, limit: int) -> bytes:
        try:
            return self._files.read(f"{folder}/{name}", limit)
        except OSError as error:
            raise _attribute_fault(error, f"{folder}/{name}") from error

    def _optional(self, path: str, limit: int) -> bytes:
        try:
            return self._files.read(path, limit)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise _attribute_fault(error, path) from error

    def _write(self, folder: str, name: str, data: bytes) -> None:
        try:
            self._files.write(f"{folder}/{name}", data)
        except OSError as error:
            raise _attribute_fault(error, f"{folder}/{name}") from error

    def _text(self, folder: str, name: str) -> str:
        raw = self._read(folder, name, _ATTRIBUTE_LIMIT)
        try:
            return raw.decode("ascii").removesuffix("\n")
        except UnicodeDecodeError as error:
            raise AttesterError(
                DeviceFault.ANSWER_INVALID, f"{folder}/{name} is not text"
            ) from error

    def _generation(self, folder: str) -> int:
        return self._number(folder, "generation")

    def _number(self, folder: str, name: str) -> int:
        text = self._text(folder, name)
        if not (text.isascii() and text.isdigit()) or str(int(text)) != text:
            raise AttesterError(
                DeviceFault.ANSWER_INVALID, f"{folder}/{name} is {text!r}, not a number"
            )
        return int(text)


def _open_fault(error: OSError, root: str) -> AttesterError:
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return AttesterError(
            DeviceFault.ABSENT,
            f"{root} is not there: mount it (`mount -t configfs none /sys/kernel/config`), and use "
            "a kernel with CONFIG_TSM_REPORTS (6.7 and later)",
        )
    if error.errno in {errno.ENXIO, errno.ENODEV}:
        return AttesterError(
            DeviceFault.ABSENT,
            "the kernel has no report provider: this is no TDX or SNP guest, or its driver is not "
            "loaded (try `modprobe tdx_guest` or `modprobe sev-guest`)",
        )
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return AttesterError(
            DeviceFault.DENIED,
            f"this user may not make requests in {root}: run the runtime as root or give its user "
            "the folder",
        )
    return AttesterError(DeviceFault.FAILED, f"{root}: {_said(error)}")


def _attribute_fault(error: OSError, path: str) -> AttesterError:
    if error.errno in {errno.EACCES, errno.EPERM}:
        return AttesterError(DeviceFault.DENIED, f"this user may not use {path}")
    if error.errno == errno.EFBIG:
        return AttesterError(DeviceFault.ANSWER_INVALID, f"{path} is larger than any such file")
    if error.errno in {errno.EAGAIN, errno.EBUSY}:
        return AttesterError(
            DeviceFault.RACED, f"{path}: {_said(error)}; another request is under way, try again"
        )
    if error.errno == errno.EINVAL and path.endswith("/privlevel"):
        return AttesterError(
            DeviceFault.FAILED, f"{path}: this guest may not ask for that privilege level"
        )
    return AttesterError(
        DeviceFault.FAILED,
        f"{path}: {_said(error)}; on TDX, ask the host whether its quote generation service runs",
    )


def _said(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else "unknown error"
