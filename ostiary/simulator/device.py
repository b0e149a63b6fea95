"""The report device of a simulated machine: a unix socket that gives evidence.

Guarantees: a caller chooses 64 bytes of report data and nothing else; the body was fixed when the
process started. Requests are capped, timed out and framed strictly. Protects nothing: whoever can
connect is "inside" the machine. The protocol is `inference_runtime.attester.socket_wire`.

Run it: `python -m ostiary.simulator.device --vendor FOLDER --socket PATH --config HEX`.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import socket
import socketserver
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NoReturn, final, get_args

from inference_runtime.attester import REPORT_DATA_SIZE
from inference_runtime.attester import socket_wire as wire
from ostiary.simulator import azure, machines
from ostiary.simulator.amd import Chip, FakeAmd
from ostiary.simulator.gcp import GcpMachine
from ostiary.simulator.intel import FakeIntel
from ostiary.simulator.machine import DEMO_IMAGE, LaunchRequest, launch_snp, launch_td
from ostiary.simulator.machines import Machine, SnpMachine, TdxMachine
from ostiary.simulator.nvidia import nvml
from ostiary.simulator.nvidia.devices import COUNTS, DRIVER, MODES
from ostiary.simulator.nvidia.keep import open_set
from ostiary.simulator.nvidia.nvml import SimulatedDriver
from ostiary.simulator.nvidia.pki import FakeNvidia
from ostiary.simulator.pck import Platform
from ostiary.simulator.snp import PRODUCTS, Product, require_product
from ostiary.simulator.store import SimulatorError, read, read_rsa_key, write_key
from ostiary.simulator.tpm import FakeTpm, measure
from verifier.wire import canonical

TIMEOUT_S: Final = 5.0
"""Seconds that a caller has for its request."""
BANNER: Final = (
    "SIMULATED HARDWARE: this machine proves nothing. Its evidence is signed by keys in a file.\n"
)


class _Handler(socketserver.BaseRequestHandler):
    """One request, one answer."""

    server: DeviceServer

    def handle(self) -> None:
        """Answer one frame; a caller that does not speak the protocol is told so and dropped."""
        connection: socket.socket = self.request
        connection.settimeout(TIMEOUT_S)
        # A caller that went away is no concern of the machine.
        with contextlib.suppress(OSError):
            try:
                code, payload = wire.read_frame(connection, wire.MAX_REQUEST)
                status, answer = self.server.answer(code, payload)
            except wire.FrameError as error:
                status, answer = wire.BAD_REQUEST, str(error).encode()
            connection.sendall(wire.frame(status, answer))


@final
class DeviceServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Listens at a socket path (mode 0600) for one machine."""

    daemon_threads = True
    request_queue_size = 16

    def __init__(self, path: Path, machine: Machine, gpus: SimulatedDriver | None = None) -> None:
        """Bind and listen.

        Raises:
            SimulatorError: somebody listens there, or the path cannot be used.
        """
        self._machine = machine
        self._gpus = gpus
        self._path = path
        _clear(path)
        try:
            super().__init__(str(path), _Handler)
        except OSError as error:
            raise SimulatorError(f"cannot listen at {path}: {error}") from error

    def server_bind(self) -> None:
        """Bind; nobody can connect before `listen`, so the mode is right from the first caller."""
        super().server_bind()
        self._path.chmod(0o600)

    def server_close(self) -> None:
        """Close and remove the socket."""
        super().server_close()
        self._path.unlink(missing_ok=True)

    def answer(self, code: int, payload: bytes) -> tuple[int, bytes]:
        """Return status and payload for one request."""
        if code == wire.REPORT and len(payload) == REPORT_DATA_SIZE:
            vtpm = self._machine.vtpm(payload)
            said = b"" if vtpm is None else canonical.encode(vtpm)
            return wire.GOOD, wire.join((*self._machine.report(payload), said))
        if code == wire.CLAIMS and not payload:
            kind = self._machine.kind.encode()
            return wire.GOOD, wire.join((kind, *self._machine.claims(), self._machine.ak))
        gpus = nvml.answer(self._gpus, code, payload)
        if gpus is not None:
            return wire.GOOD, gpus
        return wire.BAD_REQUEST, b"a request is report with 64 bytes, or claims with none"


def _clear(path: Path) -> None:
    """Remove a socket that nobody listens at; refuse anything else that is there."""
    if not path.exists():
        return
    if not path.is_socket():
        raise SimulatorError(f"{path} is there already and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise SimulatorError(f"cannot use {path}: {error}") from error
    raise SimulatorError(f"another machine listens at {path}")


@contextlib.contextmanager
def serving(
    path: Path, machine: Machine, gpus: SimulatedDriver | None = None
) -> Iterator[DeviceServer]:
    """Serve a machine from a thread of this process until the block ends.

    Raises:
        SimulatorError: as `DeviceServer`.
    """
    server = DeviceServer(path, machine, gpus)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def launch(options: argparse.Namespace) -> Machine:
    """Return the machine that the command line asks for, with a chip that is kept in its folder.

    Raises:
        SimulatorError: vendor, image or configuration are not what the machine needs.
    """
    try:
        config = bytes.fromhex(options.config)
    except ValueError as error:
        raise SimulatorError("--config is not hexadecimal") from error
    image = dict(DEMO_IMAGE)
    for pair in options.image:
        part, _, path = pair.partition("=")
        image[part] = read(Path(path))
    request = LaunchRequest(config, image, debug=options.debug)
    cloud, _, tee = options.kind.rpartition("-")
    # In Azure the hardware measures the paravisor, and the TPM what was asked to be launched.
    measured = azure.paravisor(tee, debug=options.debug) if cloud == "azure" else request
    hardware = _hardware(options, tee, measured)
    if not cloud:
        return hardware
    vtpm = _vtpm(options.machine)
    if cloud == "azure":
        return azure.AzureMachine(hardware, azure.measure(vtpm, request))
    return GcpMachine(hardware, measure(vtpm, request))


def _hardware(
    options: argparse.Namespace, tee: str, request: LaunchRequest
) -> TdxMachine | SnpMachine:
    if tee == "tdx":
        platform = _platform(FakeIntel.load(options.vendor), options.machine)
        return TdxMachine(platform, launch_td(request), options.quote_version)
    product = require_product(options.product)
    chip = _chip(FakeAmd.load(options.vendor), product, options.machine)
    return SnpMachine(chip, launch_snp(request, product))


def launch_gpus(options: argparse.Namespace) -> SimulatedDriver | None:
    """Return the GPUs that the command line asks for, kept beside the machine's chip; or None.

    Raises:
        SimulatorError: there is no such set, or no fake NVIDIA in the vendor's folder.
    """
    if not options.gpus:
        return None
    vendor = FakeNvidia.load(options.vendor)
    folder = None if options.machine is None else options.machine / "gpus"
    return SimulatedDriver(
        open_set(vendor, folder, options.gpus, options.gpu_mode, options.gpu_driver)
    )


def _vtpm(folder: Path | None) -> FakeTpm:
    """Return the TPM kept in `folder`, as it starts, or a new one, whose key is then kept there."""
    path = None if folder is None else folder / "ak.key.pem"
    if path is not None and path.exists():
        return FakeTpm(read_rsa_key(path))
    made = FakeTpm.create()
    if path is not None:
        write_key(path, made.key)
    return made


def _platform(intel: FakeIntel, folder: Path | None) -> Platform:
    """Return the Intel machine kept in `folder`, or a new one, which is then kept there."""
    if folder is not None and (folder / "machine.json").exists():
        platform = machines.load_platform(folder)
        if platform.chain[-1] != intel.certificates["root"]:
            raise SimulatorError(f"{folder} holds a machine of another vendor")
        return platform
    platform = intel.platform()
    if folder is not None:
        machines.save_platform(platform, folder)
    return platform


def _chip(amd: FakeAmd, product: Product, folder: Path | None) -> Chip:
    """Return the AMD chip kept in `folder`, or a new one, which is then kept there."""
    if folder is not None and (folder / "machine.json").exists():
        chip = machines.load_chip(folder)
        if chip.chain[-1] != amd.certificate(product, "ark"):
            raise SimulatorError(f"{folder} holds a machine of another vendor or product")
        return chip
    chip = amd.vcek(product)
    if folder is not None:
        machines.save_chip(chip, folder)
    return chip


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m ostiary.simulator.device", description="SIMULATED report device."
    )
    parser.add_argument("--vendor", type=Path, required=True, help="folder of the fake vendor")
    parser.add_argument("--socket", type=Path, required=True, help="where to listen")
    parser.add_argument("--config", required=True, help="MRCONFIGID (48 bytes) or HOST_DATA, hex")
    parser.add_argument("--kind", choices=get_args(machines.Kind), default="tdx")
    parser.add_argument("--machine", type=Path, help="folder that keeps this machine's chip")
    parser.add_argument("--product", choices=PRODUCTS, default="Genoa", help="SNP only")
    parser.add_argument("--quote-version", type=int, choices=(4, 5), default=4, help="TDX only")
    parser.add_argument(
        "--image", action="append", default=[], metavar="PART=FILE", help="other measured content"
    )
    parser.add_argument("--gpus", type=int, choices=(0, *COUNTS), default=0, help="how many GPUs")
    parser.add_argument(
        "--gpu-mode", choices=MODES, help="ppcie adds 4 switches; default spt for one GPU, else mpt"
    )
    parser.add_argument("--gpu-driver", default=DRIVER, metavar="VERSION", help="their driver")
    parser.add_argument("--debug", action="store_true", help="launch a debuggable machine")
    return parser.parse_args(arguments)


def _stop(_signal: int, _frame: object) -> NoReturn:
    raise SystemExit(0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; prints one line on stdout once it listens."""
    sys.stderr.write(BANNER)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    options = _options(arguments)
    try:
        machine = launch(options)
        with serving(options.socket, machine, launch_gpus(options)):
            sys.stdout.write(f"SIMULATED {machine.kind} machine listens at {options.socket}\n")
            sys.stdout.flush()
            threading.Event().wait()
    except SimulatorError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
