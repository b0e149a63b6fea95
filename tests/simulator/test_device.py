"""The simulated report device: one socket, one machine, strict frames."""

import os
import signal
import socket
import stat
import subprocess
import sys

import pytest

from inference_runtime.attester import AttesterError, DeviceFault
from inference_runtime.attester import socket_wire as wire
from inference_runtime.attester.socket_device import SocketDevice
from ostiary.simulator import device
from ostiary.simulator.device import DeviceServer, serving
from ostiary.simulator.intel import FakeIntel
from ostiary.simulator.machine import LaunchRequest, launch_snp, launch_td
from ostiary.simulator.machines import SnpMachine, TdxMachine
from ostiary.simulator.store import SimulatorError
from tests.kit.vendors import NOW, chip, fake_amd, fake_intel, platform

CONFIG = bytes(range(48))


def td(config=CONFIG):
    return TdxMachine(platform(), launch_td(LaunchRequest(config)))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "d.sock"


def send(path, data):
    """Return what the device answers to raw bytes."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return wire.read_frame(connection, wire.MAX_ANSWER)


def test_a_td_reports_through_its_socket(path):
    """Kind, launch configuration and a quote for exactly our bytes; socket 0600, then gone."""
    with serving(path, td()):
        client = SocketDevice(path)
        evidence = client.report(b"\5" * 64)

        assert (client.kind, client.launch_config().value) == ("tdx", CONFIG)
        assert evidence.cpu[568:632] == b"\5" * 64
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


def test_an_snp_guest_reports_through_its_socket(path):
    """The report's certificate table comes as auxiliary blob."""
    machine = SnpMachine(chip("Genoa"), launch_snp(LaunchRequest(CONFIG[:32])))

    with serving(path, machine):
        client = SocketDevice(path)
        evidence = client.report(b"\6" * 64)

    assert (client.kind, client.launch_config().value) == ("snp", CONFIG[:32])
    assert evidence.cpu[0x50:0x90] == b"\6" * 64
    assert chip("Genoa").chain[0] in evidence.aux


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        wire.frame(wire.REPORT, bytes(63)),
        wire.frame(wire.REPORT, b""),
        wire.frame(wire.REPORT, bytes(65)),
        wire.frame(wire.CLAIMS, b"x"),
        wire.frame(9, bytes(64)),
        wire.frame(wire.REPORT, bytes(64))[:-1],
        b"OSIM\x01" + wire.frame(wire.CLAIMS, b"")[5:],
        b"OSIM\x02\x01\xff\xff\xff\xff",
    ],
    ids=["empty", "http", "63", "0", "65", "claims-x", "code", "cut", "version", "huge"],
)
def test_anything_else_is_refused_and_the_device_lives_on(path, request_bytes):
    """A bad request gets its refusal; the next good one is answered."""
    with serving(path, td()):
        status, text = send(path, request_bytes)
        after = SocketDevice(path).report(bytes(64))

    assert status == wire.BAD_REQUEST
    assert text
    assert after.cpu


def test_a_caller_that_says_nothing_is_dropped(path, monkeypatch):
    """Silence ends with the timeout, not with a thread that waits for ever."""
    monkeypatch.setattr(device, "TIMEOUT_S", 0.2)

    with serving(path, td()), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(path))
        connection.sendall(b"OSIM")

        assert connection.recv(1) == b""


def test_the_client_never_takes_report_data_of_another_size(path):
    """63 bytes are an error before anything is sent."""
    with serving(path, td()):
        client = SocketDevice(path)
        with pytest.raises(AttesterError) as caught:
            client.report(bytes(63))

    assert caught.value.code == DeviceFault.REQUEST_INVALID


def test_a_second_machine_cannot_take_the_socket(path):
    """Two machines at one path would be two measurements behind one name."""
    with serving(path, td()), pytest.raises(SimulatorError, match="another machine"):
        DeviceServer(path, td())


def test_a_stale_socket_is_replaced_and_a_file_is_not(path):
    """What a killed machine left is removed; other people's files are not."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with serving(path, td()):
        assert SocketDevice(path).kind == "tdx"
    path.write_text("mine")

    with pytest.raises(SimulatorError, match="not a socket"):
        DeviceServer(path, td())
    assert path.read_text() == "mine"


def test_a_path_that_cannot_be_bound_is_refused(tmp_path):
    """No folder, or a path longer than a socket address."""
    for bad in (tmp_path / "nowhere" / "d.sock", tmp_path / ("x" * 200)):
        with pytest.raises(SimulatorError, match="cannot listen"):
            DeviceServer(bad, td())


@pytest.fixture(scope="module")
def vendor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vendor")
    fake_intel().save(folder)
    fake_amd().save(folder, ["Genoa"])
    return folder


def test_the_process_says_simulated_serves_and_stops(path, vendor, tmp_path):
    """`python -m ostiary.simulator.device`: banner, ready line, same chip after a restart."""
    command = [sys.executable, "-m", "ostiary.simulator.device", "--vendor", str(vendor)]
    command += ["--socket", str(path), "--config", CONFIG.hex(), "--machine", str(tmp_path / "m")]
    quotes = []
    for _ in range(2):
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout.readline().startswith("SIMULATED tdx machine listens")
            quotes.append(SocketDevice(path).report(bytes(64)).cpu)
            os.kill(process.pid, signal.SIGTERM)
            assert process.wait(10) == 0
            assert process.stderr.read().startswith("SIMULATED HARDWARE")
        assert not path.exists()

    assert quotes[0][700:764] == quotes[1][700:764]


def options(vendor, *more):
    return device._options(["--vendor", str(vendor), "--socket", "s", *more])


def test_the_command_line_launches_what_it_says(vendor, tmp_path):
    """Other content, debug and SNP reach the evidence."""
    kernel = tmp_path / "kernel"
    kernel.write_bytes(b"other")
    hexed = ("--config", CONFIG.hex())
    short = ("--config", CONFIG[:32].hex())

    plain = device.launch(options(vendor, *hexed))
    other = device.launch(options(vendor, *hexed, "--image", f"kernel={kernel}", "--debug"))
    fifth = device.launch(options(vendor, *hexed, "--quote-version", "5"))
    guest = device.launch(
        options(vendor, *short, "--kind", "snp", "--machine", str(tmp_path / "c"))
    )
    again = device.launch(
        options(vendor, *short, "--kind", "snp", "--machine", str(tmp_path / "c"))
    )

    assert plain.body.rtmr1 != other.body.rtmr1
    assert (plain.body.td_attributes[0], other.body.td_attributes[0]) == (0, 1)
    assert fifth.report(bytes(64))[0][:2] == b"\5\0"
    assert guest.chip.chip_id == again.chip.chip_id
    assert guest.launched.host_data == CONFIG[:32]


@pytest.mark.parametrize(
    "more",
    [
        ("--config", "zz"),
        ("--config", "00"),
        ("--config", "00" * 48, "--image", "initrd=/dev/null"),
        ("--config", "00" * 48, "--image", "kernel=/nonexistent"),
        ("--config", "00" * 32, "--kind", "snp", "--product", "Turin", "--machine", "other"),
    ],
)
def test_launches_that_cannot_be_are_refused(vendor, tmp_path, monkeypatch, more):
    """Bad configuration, unknown parts and another product's chip."""
    monkeypatch.chdir(tmp_path)
    if "other" in more:
        genoa = ("--config", "00" * 32, "--kind", "snp", "--machine", "other")
        device.launch(options(vendor, *genoa))

    with pytest.raises(SimulatorError):
        device.launch(options(vendor, *more))


def test_a_machine_of_another_vendor_is_refused(vendor, tmp_path):
    """A kept chip and a new vendor do not go together: its evidence would not verify."""
    other = tmp_path / "other"
    FakeIntel.create(NOW).save(other)
    more = ("--config", CONFIG.hex(), "--machine", str(tmp_path / "m"))
    device.launch(options(vendor, *more))

    with pytest.raises(SimulatorError, match="another vendor"):
        device.launch(options(other, *more))


def test_main_reports_what_is_wrong(tmp_path, capsys):
    """An absent vendor is one line and exit code 1."""
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    try:
        arguments = ["--vendor", str(tmp_path / "no"), "--socket", "s", "--config", CONFIG.hex()]
        code = device.main(arguments)
    finally:
        for each, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(each, handler)

    assert code == 1
    assert "cannot read" in capsys.readouterr().err
