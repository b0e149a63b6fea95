"""The TPM client on a real TPM implementation, and on channels that misbehave."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from inference_runtime.attester import AttesterError, DeviceFault
from inference_runtime.attester.tpm import wire
from inference_runtime.attester.tpm.channel import open_channel
from inference_runtime.attester.tpm.client import PCRS, Tpm
from inference_runtime.attester.tpm.keys import spki
from inference_runtime.attester.vtpm import quoted
from tests.kit.swtpm import SoftTpm, needs_swtpm, soft_tpm
from verifier.tpm import attest as attests
from verifier.tpm import keys as verified
from verifier.wire import binding

AK = 0x81000003
EXTENDED = "ab" * 32
SMALL = 0x01500001
LARGE = 0x01500002
OWNED = 0x01500003
LOCKED = 0x01500004
EMPTY = 0x01500005
ABSENT = 0x01500006
BIG = bytes(range(256)) * 6 + b"the end"
DATA = bytes(range(64))
EXTEND = bytes.fromhex(
    "8002 00000041 00000182 00000010 00000009 40000009 0000 00 0000 00000001 000b"
) + bytes(range(32))
"""TPM2_PCR_Extend of PCR 16, SHA-256."""


@pytest.fixture(scope="module")
def tpm() -> Iterator[SoftTpm]:
    """Give a TPM with a key and NV indices of every sort that matters."""
    with soft_tpm() as made:
        made.run("tpm2_pcrextend", f"7:sha256={EXTENDED}")
        made.put_key(AK)
        made.put_nv(SMALL, b"small")
        made.put_nv(LARGE, BIG)
        made.put_nv(OWNED, b"owner's", "ownerread|ownerwrite")
        made.run(
            "tpm2_nvdefine", "-Q", "-C", "o", "-s", "4", "-a", "ownerwrite|authread", hex(EMPTY)
        )
        locked = ["tpm2_nvdefine", "-Q", "-C", "o", "-s", "4", "-p", "secret"]
        made.run(*locked, "-a", "authread|authwrite", hex(LOCKED))
        (made.folder / "four").write_bytes(b"1234")
        made.run("tpm2_nvwrite", "-Q", "-C", hex(LOCKED), "-P", "secret", "-i", "four", hex(LOCKED))
        yield made


@needs_swtpm
def test_pcrs(tpm: SoftTpm) -> None:
    """All 24 are read, though the TPM gives eight at a time."""
    with Tpm(tpm.path) as opened:
        values = opened.read_pcrs()
        some = opened.read_pcrs([7, 0])

    assert set(values) == set(range(PCRS))
    assert values[7] == hashlib.sha256(bytes(32) + bytes.fromhex(EXTENDED)).digest()
    assert (values[0], values[17]) == (bytes(32), b"\xff" * 32)
    assert some == {0: values[0], 7: values[7]}


@needs_swtpm
@pytest.mark.parametrize(
    ("index", "content"), [(SMALL, b"small"), (LARGE, BIG), (OWNED, b"owner's")]
)
def test_nv(tpm: SoftTpm, index: int, content: bytes) -> None:
    """An index is read whole, whoever's empty password opens it."""
    with Tpm(tpm.path) as opened:
        assert opened.read_nv(index, "a test") == content


@needs_swtpm
@pytest.mark.parametrize(
    ("index", "code", "words"),
    [
        (ABSENT, DeviceFault.NOT_PROVISIONED, "0x01500006 (a test)"),
        (EMPTY, DeviceFault.NOT_PROVISIONED, "0x01500005 (a test)"),
        (LOCKED, DeviceFault.DENIED, "empty password"),
    ],
)
def test_nv_that_cannot_be_read(tpm: SoftTpm, index: int, code: DeviceFault, words: str) -> None:
    """One that is absent, empty or locked is named, with what to do."""
    with Tpm(tpm.path) as opened, pytest.raises(AttesterError) as refused:
        opened.read_nv(index, "a test")

    assert refused.value.code is code
    assert words in str(refused.value)


@needs_swtpm
def test_writing_nv(tpm: SoftTpm) -> None:
    """An index is made where there is none, written over where there is, never resized."""
    index = 0x01500010
    with Tpm(tpm.path) as opened:
        opened.write_nv(index, bytes(64), "a test")
        opened.write_nv(index, DATA, "a test")
        assert opened.read_nv(index, "a test") == DATA
        with pytest.raises(AttesterError, match="has 64 bytes, 65 wanted"):
            opened.write_nv(index, bytes(65), "a test")

    assert tpm.run("tpm2_nvread", "-C", "o", hex(index)) == DATA


@needs_swtpm
def test_a_key_and_its_quote(tpm: SoftTpm) -> None:
    """The verifier reads the same key, and accepts its quote over what was read."""
    with Tpm(tpm.path) as opened:
        public = opened.public(AK, "a test")
        found = quoted(opened, AK, DATA)
        with pytest.raises(AttesterError) as refused:
            opened.public(0x81000099, "a test")

    pem = serialization.load_pem_public_key(tpm.read("ak.pem"))
    assert serialization.load_der_public_key(spki(public)) == pem
    assert verified.load(public).key == pem
    verified.check_signature(verified.load(spki(public)), found.signature, found.message)
    read = attests.parse(found.message)
    assert read.extra_data == binding.tpm_qualifying_data(DATA)
    assert read.pcr_digest == hashlib.sha256(b"".join(pcr.value for pcr in found.pcrs)).digest()
    assert refused.value.code is DeviceFault.NOT_PROVISIONED


@needs_swtpm
@pytest.mark.parametrize("ecc", [False, True])
def test_a_key_made_of_a_template(tpm: SoftTpm, *, ecc: bool) -> None:
    """The same template gives the same key each time, and leaves nothing loaded."""
    head = "0023 000b 00050072 0000 0010 0018 000b 0003 0010 0000 0000"
    if not ecc:
        head = "0001 000b 00050072 0000 0010 0014 000b 0800 00000000 0000"
    template = bytes.fromhex(head)
    found = []
    with Tpm(tpm.path) as opened:
        for given_template in (template, wire.sized(template)) * 3:
            with opened.primary(given_template, "a test") as (key, public):
                said = quoted(opened, key, DATA)
                verified.check_signature(verified.load(spki(public)), said.signature, said.message)
                found.append(public)

    assert len(set(found)) == 1
    assert tpm.run("tpm2_getcap", "handles-transient") == b""


class Restless:
    """A way to the TPM on which somebody extends PCR 16 just before the next quotes."""

    def __init__(self, path: str, times: int) -> None:
        self.inner, self.times = open_channel(path), times

    def transmit(self, command: bytes) -> bytes:
        if command[6:10] == wire.u32(wire.Command.QUOTE) and self.times:
            self.times -= 1
            assert self.inner.transmit(EXTEND)[6:10] == bytes(4)
        return self.inner.transmit(command)

    def close(self) -> None:
        self.inner.close()


@needs_swtpm
def test_pcrs_that_do_not_keep_still(tpm: SoftTpm) -> None:
    """Values that changed before the quote are read again; if they never rest, that is told."""
    with Tpm(tpm.path, opener=lambda path: Restless(path, 2)) as opened:
        assert quoted(opened, AK, DATA).pcrs[16].value != bytes(32)
    with (
        Tpm(tpm.path, opener=lambda path: Restless(path, 99)) as opened,
        pytest.raises(AttesterError) as refused,
    ):
        quoted(opened, AK, DATA)
    assert refused.value.code is DeviceFault.RACED


class Scripted:
    """A TPM that gives the same answer to everything, or an error of the kernel."""

    def __init__(self, answer: bytes | int) -> None:
        self.answer = answer
        self.asked = 0

    def transmit(self, command: bytes) -> bytes:  # noqa: ARG002 - whatever is asked
        self.asked += 1
        if isinstance(self.answer, int):
            raise OSError(self.answer, os.strerror(self.answer))
        return self.answer

    def close(self) -> None:
        return


def refusal(code: int) -> bytes:
    """Return a response that says no."""
    return wire.u16(wire.NO_SESSIONS) + wire.u32(wire.HEADER) + wire.u32(code)


CALLS: dict[str, Callable[[Tpm], object]] = {
    "pcrs": lambda tpm: tpm.read_pcrs(),
    "nv": lambda tpm: tpm.read_nv(SMALL, "x"),
    "write": lambda tpm: tpm.write_nv(SMALL, b"x", "x"),
    "public": lambda tpm: tpm.public(AK, "x"),
    "primary": lambda tpm: tpm.primary(b"xx", "x").__enter__(),
    "quote": lambda tpm: tpm.quote(AK, b"x"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"", DeviceFault.ANSWER_INVALID),
        (refusal(0)[:-1], DeviceFault.ANSWER_INVALID),
        (refusal(0) + b"x", DeviceFault.ANSWER_INVALID),
        (refusal(0), DeviceFault.ANSWER_INVALID),
        (refusal(0x101), DeviceFault.FAILED),
        (refusal(0x922), DeviceFault.FAILED),
        (refusal(0x98E), DeviceFault.DENIED),
        (refusal(0x149), DeviceFault.DENIED),
        (errno.EIO, DeviceFault.FAILED),
        (errno.ETIMEDOUT, DeviceFault.FAILED),
    ],
)
def test_a_tpm_that_misbehaves(call: str, answer: bytes | int, code: DeviceFault) -> None:
    """Whatever comes back instead of an answer is our error, and says what was being done."""
    channel = Scripted(answer)
    opened = Tpm("/dev/x", opener=lambda _path: channel)

    with pytest.raises(AttesterError, match="of the TPM at /dev/x") as refused:
        CALLS[call](opened)
    assert refused.value.code is code
    assert (channel.asked > 1) == (answer == refusal(0x922))


@given(raw=st.binary(max_size=80), call=st.sampled_from(sorted(CALLS)), head=st.booleans())
def test_any_answer(raw: bytes, call: str, *, head: bool) -> None:
    """No bytes of a TPM are another exception than ours."""
    if head:
        raw = wire.u16(0x8001) + wire.u32(wire.HEADER + len(raw)) + bytes(4) + raw
    opened = Tpm("/dev/x", opener=lambda _path: Scripted(raw))
    with contextlib.suppress(AttesterError):
        CALLS[call](opened)


@given(raw=st.binary(max_size=200))
def test_any_key(raw: bytes) -> None:
    """No bytes of a key are another exception than ours."""
    for start in (b"", bytes.fromhex("0001000b"), bytes.fromhex("0023000b00050072000000100018")):
        with pytest.raises(AttesterError) as refused:
            spki(start + raw)
        assert refused.value.code is DeviceFault.ANSWER_INVALID


def no_bank() -> bytes:
    """Return the answer of a TPM whose SHA-256 bank is off."""
    return wire.u16(0x8001) + wire.u32(10 + 12) + bytes(4) + bytes(12)


def test_a_tpm_without_sha256() -> None:
    """A bank that is off is told as that."""
    opened = Tpm("/dev/x", opener=lambda _path: Scripted(no_bank()))

    with pytest.raises(AttesterError, match="no SHA-256 bank") as refused:
        opened.read_pcrs()
    assert refused.value.code is DeviceFault.NOT_PROVISIONED


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (errno.ENOENT, DeviceFault.ABSENT, "modprobe"),
        (errno.ENXIO, DeviceFault.ABSENT, "modprobe"),
        (errno.EACCES, DeviceFault.DENIED, "group"),
        (errno.EBUSY, DeviceFault.FAILED, "busy"),
    ],
)
def test_no_tpm(number: int, code: DeviceFault, words: str) -> None:
    """A device that is absent, or another user's, is an error that says what to do."""

    def fails(path: str) -> Scripted:
        raise OSError(number, os.strerror(number), path)

    with pytest.raises(AttesterError) as refused:
        Tpm("/dev/tpmrm0", opener=fails)
    assert refused.value.code is code
    assert "/dev/tpmrm0" in str(refused.value)
    assert words in str(refused.value).lower()


def test_paths_that_are_no_tpm(tmp_path: Path) -> None:
    """Nothing there, and a socket that nobody listens at, are no TPM."""
    silent = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(silent))
    for path in (tmp_path / "absent", silent):
        with pytest.raises(AttesterError) as refused:
            Tpm(str(path))
        assert refused.value.code is DeviceFault.ABSENT


def test_a_device_file(tmp_path: Path) -> None:
    """A device takes a command whole, and its answer is one read; here a file stands in for it."""
    path = tmp_path / "device"
    path.write_bytes(b"")
    opened = Tpm(str(path))

    with opened, pytest.raises(AttesterError) as refused:
        opened.quote(AK, b"x")
    assert refused.value.code is DeviceFault.ANSWER_INVALID
    assert path.read_bytes()[6:10] == wire.u32(wire.Command.QUOTE)
