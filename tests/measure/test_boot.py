"""MRTD, RTMRs and PCRs from artefacts: second readings, other people's tools, and real logs."""

from __future__ import annotations

import functools
import hashlib
import json
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary.measure import boot
from ostiary.measure.errors import MeasureError
from ostiary.measure.firmware import Firmware
from ostiary.measure.mrtd import mrtd
from ostiary.measure.pe import Image
from tests.kit import corpus
from tests.kit import firmware as firmwares
from tests.kit import pe as kit
from verifier.eventlog.appraise import parse
from verifier.eventlog.log import Kind
from verifier.eventlog.replay import replay

PAGE = 4096
BFV = (0, PAGE, 0xFFFFF000, PAGE, 0, 1)
HOB = (0, 0, 0x809000, 2 * PAGE, 2, 0)
SHORT = (PAGE, 300, 0x900000, 2 * PAGE, 5, 1)
PERMANENT = (0, 0, 0x1000000, PAGE, 4, 2)
SECTIONS = (BFV, HOB, SHORT, PERMANENT)
MEASURE_TOOL = Path("/lib/systemd/systemd-measure")
SIGN_TOOL = Path("/usr/bin/osslsigncode")


def record(name, gpa):
    return struct.pack("<16sQ104x", name, gpa)


def reading(raw, *, page_by_page):
    """Return MRTD by a second reading: all records in one list."""
    parts = []
    for offset, size, gpa, length, _, attributes in SECTIONS:
        if attributes & 2:
            continue
        memory = raw[offset : offset + size] + bytes(length - size)
        adds = {at: record(b"MEM.PAGE.ADD", gpa + at) for at in range(0, length, PAGE)}
        parts += [] if page_by_page else list(adds.values())
        for at, add in adds.items():
            parts += [add] if page_by_page else []
            if attributes & 1:
                for chunk in range(at, at + PAGE, 256):
                    parts += [record(b"MR.EXTEND", gpa + chunk), memory[chunk : chunk + 256]]
    return hashlib.sha384(b"".join(parts)).digest()


@pytest.mark.parametrize("order", ["page", "section"])
def test_mrtd(order):
    """MRTD is one SHA-384 over a record for each page added and each 256 bytes measured."""
    raw = firmwares.image(tdx=SECTIONS)

    assert reading(raw, page_by_page=order == "page") == mrtd(Firmware.parse(raw), order=order)


@pytest.mark.parametrize(
    ("tdx", "told"),
    [
        (None, "not built for it"),
        ([HOB], "nothing measured"),
        ([(0, PAGE + 1, 0, PAGE, 0, 1)], "data"),
        ([(PAGE, 2 * PAGE, 0, 2 * PAGE, 0, 1)], "data"),
        ([(0, 0, 1, PAGE, 0, 1)], "whole pages"),
        ([(0, 0, 0, 0, 0, 1)], "whole pages"),
        ([(0, 0, 0, 1 << 40, 0, 1)], "whole pages"),
        ([(0, 0, (1 << 64) - PAGE, PAGE, 0, 1)], "whole pages"),
        ([(0, 0, 0, PAGE, 0, 4)], "attributes"),
        ([(0, 0, 0, PAGE, 0, 3)], "at once"),
        ([], "TDVF metadata"),
        ([HOB] * 65, "TDVF metadata"),
    ],
)
def test_firmware_that_is_none(tdx, told):
    """A descriptor that lies, or measures nothing, is refused."""
    with pytest.raises(MeasureError, match=told):
        mrtd(Firmware.parse(firmwares.image(tdx=tdx)))


def test_real_firmware():
    """The distribution's OVMF has a TDVF descriptor: the firmware volume measured, the rest not."""
    path = Path("/usr/share/ovmf/OVMF.fd")
    if not path.is_file():
        pytest.skip("no /usr/share/ovmf/OVMF.fd: install the package ovmf")
    sections = Firmware.parse(path.read_bytes()).tdx_sections()

    assert [(each.kind, each.extend) for each in sections if each.extend] == [(0, True)]
    assert len(mrtd(Firmware.parse(path.read_bytes()))) == 48


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_firmware(data):
    """Damage to an image raises nothing but our own error."""
    raw = bytearray(firmwares.image(tdx=SECTIONS))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(PAGE, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([0, 1, PAGE]))
    try:
        firmware = Firmware.parse(bytes(raw[: len(raw) - cut]))
        firmware.sev_sections()
        firmware.tdx_sections()
    except MeasureError as error:
        assert error.code == "malformed"  # noqa: PT017 - both outcomes are fine


@pytest.mark.parametrize("bank", ["sha256", "sha384"])
def test_authenticode(bank):
    """All but checksum, certificate entry and certificates is hashed, in file order."""
    plain = kit.image({".a": b"a" * 600, ".bss": b"", ".b": b"b"}, tail=b"tail", reverse=True)
    signed = kit.image({".a": b"a"}, certificates=b"c" * 64)
    bare = kit.image({".a": b"a"}, directories=4)

    assert kit.digest(plain, bank) == Image.parse(plain).authenticode(bank)
    assert kit.digest(signed, bank, certificates=64) == Image.parse(signed).authenticode(bank)
    assert kit.digest(bare, bank, directories=False) == Image.parse(bare).authenticode(bank)


def test_a_signature_changes_no_digest():
    """Signing an image leaves its digest as it was; touching anything else does not."""
    plain = kit.image({".a": b"a"})
    signed = kit.image({".a": b"a"}, certificates=b"c" * 64)
    bent = bytearray(plain)
    bent[kit.OPTIONAL + 64] ^= 1

    digests = {Image.parse(each).authenticode("sha256") for each in (plain, signed, bytes(bent))}
    assert len(digests) == 1
    bent[kit.HEADERS] ^= 1
    assert Image.parse(bytes(bent)).authenticode("sha256") not in digests


def test_a_32_bit_image():
    """Images of 32 bits have their directories elsewhere."""
    raw = kit.image({".a": b"a"}, magic=0x10B, certificates=b"c" * 8)

    assert Image.parse(raw).certificates == 8


def test_osslsigncode_agrees(tmp_path):
    """Another tool computes the same digest of our image."""
    if not SIGN_TOOL.is_file():
        pytest.skip("no osslsigncode: install the package osslsigncode")
    path = tmp_path / "kernel.efi"
    path.write_bytes(kit.KERNEL)
    (tmp_path / "hash").write_bytes(b"")
    out = subprocess.run(
        [SIGN_TOOL, "extract-data", "-h", "sha256", "-in", path, "-out", tmp_path / "data"],
        capture_output=True,
        text=True,
        check=False,
    )
    if not (tmp_path / "data").is_file():
        pytest.skip(f"this osslsigncode does not extract digests: {out.stderr[-200:]}")

    assert Image.parse(kit.KERNEL).authenticode("sha256") in (tmp_path / "data").read_bytes()


def test_signed_kernels_of_this_machine():
    """The digest that a distribution signed stands in its kernel's own signature."""
    found = [path for path in Path("/boot").glob("vmlinuz-*") if path.is_file()]
    images = [Image.parse(path.read_bytes()) for path in found]
    signed = [image for image in images if image.certificates]
    if not signed:
        pytest.skip("no signed kernel in /boot")
    for image in signed:
        assert image.authenticode("sha256") in image.data[-image.certificates :]


@pytest.mark.parametrize(
    ("at", "value", "told"),
    [
        (0, b"ZM", "MZ"),
        (0x3C, b"\xff\xff\xff\x7f", "cut"),
        (kit.START, b"NE", "signature"),
        (kit.START + 6, b"\xff\xff", "sections"),
        (kit.OPTIONAL, b"\0\0", "optional header"),
        (kit.OPTIONAL + 60, b"\0\0\0\0", "headers"),
        (kit.OPTIONAL + 60, b"\xff\xff\xff\x7f", "headers"),
        (kit.OPTIONAL + 108, b"\x05\0\0\0", None),
        (kit.OPTIONAL + 112 + 36, b"\x10\0\0\0", "not at the end"),
        (kit.OPTIONAL + 240 + 16, b"\xff\xff\xff\x7f", "section"),
        (kit.OPTIONAL + 240 + 8, b"\xff\xff\xff\xff", "in memory"),
        (kit.OPTIONAL + 240 + 40 + 20, struct.pack("<I", kit.HEADERS), None),
    ],
)
def test_images_that_are_none(at, value, told):
    """A header that does not fit the file is refused."""
    raw = bytearray(kit.KERNEL)
    raw[at : at + len(value)] = value
    if told is None:
        Image.parse(bytes(raw))
        return
    with pytest.raises(MeasureError, match=told):
        Image.parse(bytes(raw))


def test_more_refusals():
    """Overlapping sections, directories out of bounds and doubled names are refused."""
    overlapping = bytearray(kit.image({".a": b"a" * 512, ".b": b"b" * 512}))
    struct.pack_into("<I", overlapping, kit.OPTIONAL + 240 + 16, 1024)
    struct.pack_into("<I", overlapping, kit.OPTIONAL + 280 + 16, 1024)
    struct.pack_into("<I", overlapping, kit.OPTIONAL + 280 + 20, kit.HEADERS)
    with pytest.raises(MeasureError, match="overlap"):
        Image.parse(bytes(overlapping))
    few = bytearray(kit.image({}, directories=4))
    struct.pack_into("<I", few, kit.OPTIONAL + 108, 16)
    with pytest.raises(MeasureError, match="directories"):
        Image.parse(bytes(few))
    twice = bytearray(kit.image({".a": b"a", ".b": b"b"}))
    twice[kit.OPTIONAL + 280 : kit.OPTIONAL + 282] = b".a"
    with pytest.raises(MeasureError, match="2 sections"):
        Image.parse(bytes(twice)).section(".a")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_images(data):
    """Damage to an image's headers, or its end cut, raises nothing but our own error."""
    raw = bytearray(kit.uki())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, kit.HEADERS))] = data.draw(st.integers(0, 255))
    try:
        image = Image.parse(bytes(raw[: data.draw(st.integers(0, len(raw)))]))
        image.authenticode("sha256")
        boot.pcr11(image, "sha256")
    except MeasureError:
        pass


def systemd_measure(folder, sections, bank):
    for name, content in sections.items():
        (folder / name).write_bytes(content)
    told = subprocess.run(
        [
            *(MEASURE_TOOL, "calculate", f"--bank={bank}", "-j"),
            *(f"--{name}={folder / name}" for name in sections),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if told.returncode:
        pytest.skip(f"systemd-measure does not run here: {told.stderr[-200:]}")
    return {each["phase"]: each["hash"] for each in json.loads(told.stdout)[bank]}


@pytest.mark.parametrize("bank", ["sha256", "sha384"])
def test_systemd_measure_agrees(tmp_path, bank):
    """systemd's own tool predicts the PCR 11 that we compute, for every phase."""
    if not MEASURE_TOOL.is_file():
        pytest.skip("no systemd-measure: install systemd with its boot tools")
    sections = {
        "linux": kit.KERNEL,
        "osrel": b"ID=example\n",
        "cmdline": b"root=/dev/mapper/root ro",
        "initrd": b"an initrd",
        "pcrpkey": b"a public key",
    }
    expected = systemd_measure(tmp_path, sections, bank)
    image = Image.parse(kit.uki(pcrpkey=b"a public key", pcrsig=b"not measured"))

    assert expected
    assert expected == {phases: boot.pcr11(image, bank, phases=phases).hex() for phases in expected}


def test_only_what_the_stub_knows():
    """A section that this UKI's stub does not know is in no PCR."""
    old = kit.STUB.replace(b".uname\0", b"")
    pcr11 = functools.partial(boot.pcr11, bank="sha256", phases="")

    with_it = pcr11(Image.parse(kit.uki(uname=b"6.1")))
    without = pcr11(Image.parse(kit.uki()))
    assert with_it != without
    assert without == pcr11(Image.parse(kit.uki(stub=old, uname=b"6.1")))


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (kit.KERNEL, "no .linux"),
        (kit.uki(sdmagic=None), "no .sdmagic"),
        (kit.uki(profile=b"ID=other"), "chooses at boot"),
    ],
)
def test_what_is_no_single_uki(raw, told):
    """An image that is no UKI, or holds several, has no one PCR 11."""
    with pytest.raises(MeasureError, match=told):
        boot.pcr11(Image.parse(raw), "sha256")


def test_a_kernel_in_a_uki():
    """The inner kernel is measured as the image that it is."""
    inner = boot.inner_kernel(Image.parse(kit.uki()))

    assert Image.parse(kit.KERNEL).authenticode("sha256") == inner.authenticode("sha256")
    with pytest.raises(MeasureError, match=r"no \.linux"):
        boot.inner_kernel(Image.parse(kit.KERNEL))


# Real logs: what the artefacts were is not known, but their digests are; everything else that goes
# into a register is predicted.

DIRECT = [
    ("eventlog/ccel-live-tdreport", True),
    ("eventlog/ccel-dstack-boot", True),
    ("eventlog/ccel-data-ovmf", False),
]
DISK = [
    ("eventlog/ccel-data-gcp", True),
    ("eventlog/ccel-data-grub", False),
    ("tdx/v4-00806f-cos113-ccel", True),
]


def real(name, kind="ccel", file="ccel.bin"):
    path = corpus.EVIDENCE / name / file
    if not path.is_file():
        pytest.skip(corpus.ABSENT)
    return parse(path.read_bytes(), kind)


def of(log, register, *kinds):
    return [e for e in log.events if e.register == register and e.kind in kinds]


@pytest.mark.parametrize(("name", "separator"), DIRECT)
def test_rtmr1_of_real_direct_boots(name, separator):
    """With the kernel's digest known, RTMR 1 of a kernel that QEMU boots is as predicted."""
    log = real(name)
    images = tuple(e.digests[0] for e in of(log, 1, Kind.BOOT_SERVICES_APPLICATION))
    predicted = boot.rtmr1(boot.Boot(images, direct=True, separator=separator))

    assert replay(log, "sha384")[1] == predicted


@pytest.mark.parametrize(("name", "separator"), DISK)
def test_rtmr1_of_real_disks(name, separator):
    """With images and partition table known, RTMR 1 of a boot from a disk is as predicted."""
    log = real(name)
    images = tuple(e.digests[0] for e in of(log, 1, Kind.BOOT_SERVICES_APPLICATION))
    (table,) = of(log, 1, Kind.PARTITION_TABLE)
    entry = struct.unpack_from("<I", table.data, 84)[0]
    disk = bytearray(64 << 10)
    disk[512:604] = table.data[:92]
    disk[1024 : 1024 + len(table.data) - 100] = table.data[100:]
    event = boot.gpt_event(bytes(disk))

    assert entry == 128
    assert table.data == event
    measured = boot.Boot(images, direct=False, partition_table=event, separator=separator)
    assert replay(log, "sha384")[1] == boot.rtmr1(measured)


@pytest.mark.parametrize("name", ["eventlog/ccel-live-tdreport", "eventlog/ccel-data-ovmf"])
def test_rtmr2_of_real_direct_boots(name):
    """RTMR 2 of a direct boot is options and initrd, and nothing else."""
    log = real(name)
    digests = [e.digests[0] for e in of(log, 2, Kind.EVENT_TAG)]

    assert len(digests) == 2
    assert replay(log, "sha384")[2] == boot.extend("sha384", digests)


@pytest.mark.parametrize("bank", ["sha256", "sha384"])
def test_pcr11_of_a_real_uki(bank):
    """The sections' names stand in a real PCR 11 in our order, each before its content."""
    log = real("eventlog/tpm-dstack-gcp-uki", "tcg", "event_log.bin")
    which = log.banks.index(bank)
    events = of(log, 11, Kind.IPL)
    sections = [e.data.decode("utf-16-le").rstrip("\0") for e in events[::2]]
    predicted = [hashlib.new(bank, name.encode() + b"\0").digest() for name in sections]

    assert sections == [name for name in boot._MEASURED if name in sections]
    assert predicted == [e.digests[which] for e in events[::2]]


def test_pcr4_of_real_boots():
    """PCR 4 of a boot from a disk is as predicted, with the images' digests known."""
    for name in ("tpm-ubuntu-2104-no-secure-boot", "tpm-ubuntu-1804-amd-sev", "tpm-rhel8-uefi"):
        log = real(f"eventlog/{name}", "tcg", "event_log.bin")
        bank = log.banks[-1] if log.banks[-1] in ("sha256", "sha384") else "sha256"
        which = log.banks.index(bank)
        images = of(log, 4, Kind.BOOT_SERVICES_APPLICATION)
        measured = boot.Boot(tuple(e.digests[which] for e in images), direct=False)

        assert replay(log, bank)[4] == boot.pcr4(measured, bank)


def test_direct_and_from_disk():
    """PCR 4 and RTMR 1 tell a direct boot from one from a disk, and count every image."""
    images = (b"\1" * 32, b"\2" * 32)
    values = {
        boot.pcr4(boot.Boot(order, direct=direct), "sha256")
        for order in (images, images[::-1], images[:1])
        for direct in (True, False)
    }

    assert len(values) == 6


def test_load_options():
    """OVMF tells the kernel where its initrd is; earlier versions after, later ones before."""
    assert boot.load_options("quiet", initrd="before").decode("utf-16") == "initrd=initrd quiet\0"
    assert boot.load_options("quiet", initrd="after").decode("utf-16") == "quiet initrd=initrd\0"
    assert boot.load_options("quiet", initrd="none").decode("utf-16") == "quiet\0"
    with pytest.raises(MeasureError, match="NUL"):
        boot.load_options("a\0b", initrd="none")


def test_nothing_is_measured_of_nothing():
    """Without options and without an initrd the stub measures neither."""
    assert boot.stub_digests("sha256", b"\0\0", None) == ()
    assert len(boot.stub_digests("sha256", b"a\0\0\0", None)) == 1
    assert len(boot.stub_digests("sha256", b"\0\0", b"initrd")) == 1


@pytest.mark.parametrize("disk", [b"", bytes(4096), b"\0" * 512 + b"EFI PART" + b"\xff" * 4000])
def test_disks_without_a_table(disk):
    """A disk without a partition table, or with a lying one, is refused."""
    with pytest.raises(MeasureError, match="disk"):
        boot.gpt_event(disk)


def test_a_table_that_lies():
    """A table with more entries than the disk holds is refused."""
    disk = bytearray(2048)
    struct.pack_into(
        "<8sIIIIQQQQ16sQIII", disk, 512, b"EFI PART", 0, 92, *[0] * 6, bytes(16), 2, 128, 128, 0
    )

    with pytest.raises(MeasureError, match="128 partition entries"):
        boot.gpt_event(bytes(disk))


def test_refused_registers():
    """Each register that cannot be computed is named, with its reason."""
    with pytest.raises(MeasureError, match=r"PCR 0: .*PCR 7: .*PCR 15: nothing") as caught:
        boot.refuse_registers((0, 4, 7, 15), (4,))

    assert caught.value.code == "not_computable"
    boot.refuse_registers((4,), (4,))
