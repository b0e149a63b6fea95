"""The simulated device's framing, and a client that trusts none of its answers."""

import contextlib
import os
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_runtime.attester import AttesterError, DeviceFault
from inference_runtime.attester import socket_wire as wire
from inference_runtime.attester.socket_device import SocketDevice
from tests.kit.vendors import good_quote, good_report

DATA = bytes(range(64))
CLAIMS = wire.frame(wire.GOOD, wire.join([b"tdx", bytes(48), b"", b""]))


def through(data):
    """Return what `read_frame` makes of bytes from a peer that then closes."""
    left, right = socket.socketpair()
    with left, right:
        left.sendall(data)
        left.shutdown(socket.SHUT_WR)
        return wire.read_frame(right, 4096)


@given(st.integers(0, 255), st.binary(max_size=4096))
def test_a_frame_is_read_as_it_was_written(code, payload):
    """parse∘print is the identity."""
    assert through(wire.frame(code, payload)) == (code, payload)


@given(st.binary(max_size=200))
def test_any_other_bytes_are_a_frame_error(data):
    """Never anything but our error, unless it is a frame and nothing else."""
    with contextlib.suppress(wire.FrameError):
        code, payload = through(data)
        assert data.startswith(wire.frame(code, payload))


@given(st.integers(0, 9), st.binary(max_size=64))
def test_a_cut_frame_is_refused(cut, payload):
    """Every prefix of a frame is too short."""
    with pytest.raises(wire.FrameError):
        through(wire.frame(1, payload)[: cut + len(payload)])


def test_a_payload_over_the_limit_is_refused_before_it_is_read():
    """The length alone decides."""
    with pytest.raises(wire.FrameError, match="limit 4096"):
        through(wire.frame(1, bytes(4097))[:10])


@given(st.lists(st.binary(max_size=64), max_size=5))
def test_parts_are_split_as_they_were_joined(parts):
    """parse∘print is the identity; any other count is an error."""
    joined = wire.join(parts)

    assert wire.split(joined, len(parts)) == parts
    with pytest.raises(wire.FrameError):
        wire.split(joined, len(parts) + 1)
    if parts:
        with pytest.raises(wire.FrameError):
            wire.split(joined, len(parts) - 1)


@given(st.binary(max_size=64), st.integers(0, 4))
def test_any_bytes_split_or_are_a_frame_error(data, count):
    """What splits is what would be joined."""
    try:
        parts = wire.split(data, count)
    except wire.FrameError:
        return
    assert wire.join(parts) == data


@contextlib.contextmanager
def peer(path, *answers):
    """Serve raw answers, one connection each, whatever is asked."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(4)

        def serve():
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    wire.read_frame(connection, 64)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        thread.join(5)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s"


def reported(*parts):
    """Return a good answer; a report without a vTPM says nothing in its fourth part."""
    return wire.frame(wire.GOOD, wire.join((*parts, b"")))


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (reported(good_quote(bytes(64)), b"", b""), DeviceFault.RACED),
        (reported(good_quote(DATA)[:600], b"", b""), DeviceFault.ANSWER_INVALID),
        (reported(good_report("Genoa", DATA), b"", b""), DeviceFault.ANSWER_INVALID),
        (reported(good_quote(DATA), bytes(256 * 1024 + 1), b""), DeviceFault.ANSWER_INVALID),
        (reported(good_quote(DATA), b"", bytes(128 * 1024 + 1)), DeviceFault.ANSWER_INVALID),
        (reported(good_quote(DATA)), DeviceFault.ANSWER_INVALID),
        (wire.frame(wire.FAILED, b"broken"), DeviceFault.FAILED),
        (wire.frame(wire.GOOD, b""), DeviceFault.ANSWER_INVALID),
        (b"", DeviceFault.ANSWER_INVALID),
        (b"HTTP/1.1 200 OK\r\n\r\n", DeviceFault.ANSWER_INVALID),
    ],
    ids=["other", "cut", "kind", "log", "aux", "parts", "failed", "empty", "closed", "http"],
)
def test_answers_that_are_not_our_evidence_are_refused(path, answer, code):
    """The client checks size, form, kind and report data of everything it is given."""
    with peer(path, CLAIMS, answer):
        device = SocketDevice(path)
        with pytest.raises(AttesterError) as caught:
            device.report(DATA)

    assert caught.value.code == code


def test_a_good_answer_is_passed_on_whole(path):
    """Evidence, event log and auxiliary blob."""
    with peer(path, CLAIMS, reported(good_quote(DATA), b"log", b"aux")):
        evidence = SocketDevice(path).report(DATA)

    assert (evidence.event_log, evidence.aux) == (b"log", b"aux")
    assert evidence.cpu[568:632] == DATA


@pytest.mark.parametrize(
    "claims",
    [[b"sgx", bytes(48), b""], [b"tdx", bytes(32), b""], [b"snp", bytes(48), b""], [b"tdx"]],
    ids=["kind", "short", "long", "parts"],
)
def test_claims_that_make_no_sense_are_refused(path, claims):
    """A device of unknown kind, or a configuration of another kind's size."""
    with peer(path, reported(*claims)), pytest.raises(AttesterError) as caught:
        SocketDevice(path)

    assert caught.value.code == DeviceFault.ANSWER_INVALID


def test_nobody_at_the_socket_is_absent(path):
    """No file, and a file that nobody serves."""
    for served_once in (False, True):
        if served_once:
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(str(path))
        with pytest.raises(AttesterError, match=r"ostiary\.simulator\.device") as caught:
            SocketDevice(path)
        assert caught.value.code == DeviceFault.ABSENT


def test_a_silent_device_times_out(path):
    """The runtime does not hang on its device."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        with pytest.raises(AttesterError) as caught:
            SocketDevice(path, timeout=0.1)

    assert caught.value.code == DeviceFault.FAILED


@pytest.mark.skipif(os.geteuid() == 0, reason="root may connect anywhere")
def test_another_users_socket_is_denied(path):
    """Mode 0 keeps us out."""
    with peer(path):
        path.chmod(0)
        with pytest.raises(AttesterError) as caught:
            SocketDevice(path)

    assert caught.value.code == DeviceFault.DENIED
