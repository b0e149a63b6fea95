"""The configfs-tsm reader on a kernel in memory: what it does, and what it says when it cannot."""

import errno

import pytest

from inference_runtime.attester import AttesterError, DeviceFault
from inference_runtime.attester.configfs import EVENT_LOG, ROOT, ConfigfsDevice
from inference_runtime.attester.tdreport import MEASUREMENT
from inference_runtime.errors import RuntimeFault
from tests.kit import tsm
from tests.kit.tsm import FakeTsm
from tests.kit.vendors import chip, good_quote, good_report

DATA = bytes(range(64))
HOST_DATA = b"\x0d" * 32
TABLE = b"certificate table"


def snp_answer(report_data):
    return good_report("Genoa", report_data, host_data=HOST_DATA), TABLE


def tdx_answer(report_data):
    return good_quote(report_data), b"never read on TDX"


def snp(**knobs):
    return FakeTsm(snp_answer, **knobs)


def tdx(**knobs):
    return FakeTsm(tdx_answer, provider="tdx_guest", **knobs)


def fault(kernel, kind="snp", **options):
    """Return the error that a report ends in; nothing of the request may be left."""
    with pytest.raises(AttesterError) as caught:
        ConfigfsDevice(kind, files=kernel, **options).report(DATA)
    assert kernel.requests == {}
    return caught.value


def test_an_snp_report_comes_with_its_certificates():
    """One folder, one write, outputs, and the folder is gone again."""
    kernel = snp()

    evidence = ConfigfsDevice("snp", files=kernel).report(DATA)

    assert evidence.cpu[0x50:0x90] == DATA
    assert evidence.cpu[0x1A0:0x1E0] == chip("Genoa").chip_id
    assert (evidence.aux, evidence.event_log) == (TABLE, b"")
    assert kernel.requests == {}
    assert kernel.trace == [
        ("make", "request"),
        ("read", "provider"),
        ("read", "generation"),
        ("write", "inblob"),
        ("read", "outblob"),
        ("read", "auxblob"),
        ("read", "generation"),
        ("remove", "request"),
    ]


@pytest.mark.parametrize("version", [4, 5])
def test_a_tdx_quote_comes_with_its_event_log(version):
    """The quote of either version, the CCEL log, no auxiliary blob."""
    kernel = FakeTsm(
        lambda data: (good_quote(data, version), b""),
        provider="tdx_guest",
        files={EVENT_LOG: b"log"},
    )

    evidence = ConfigfsDevice("tdx", files=kernel).report(DATA)

    assert evidence.cpu[:2] == bytes([version, 0])
    assert DATA in evidence.cpu[560:640]
    assert (evidence.event_log, evidence.aux) == (b"log", b"")
    assert ("read", "auxblob") not in kernel.trace


def test_a_machine_without_log_or_certificates_still_reports():
    """Both are optional: the broker decides what it needs."""
    assert ConfigfsDevice("tdx", files=tdx()).report(DATA).event_log == b""
    bare = snp(fails={("read", "auxblob"): errno.ENOENT})

    assert ConfigfsDevice("snp", files=bare).report(DATA).aux == b""


def test_every_request_has_a_name_of_its_own():
    """Nobody can guess or reuse a request's folder."""
    names = []
    kernel = snp()
    original = kernel.make_folder
    kernel.make_folder = lambda path: (names.append(path), original(path))[1]
    device = ConfigfsDevice("snp", files=kernel)

    device.report(DATA)
    device.report(DATA)

    assert len(set(names)) == 2
    assert all(name.startswith(f"{ROOT}/ostiary-") for name in names)


def test_a_privilege_level_is_asked_for_and_counted():
    """Two writes, two generations."""
    kernel = snp()

    ConfigfsDevice("snp", privlevel=2, files=kernel).report(DATA)

    written = [step for step in kernel.trace if step[0] == "write"]
    assert written == [("write", "privlevel"), ("write", "inblob")]


def test_a_privilege_level_below_the_floor_is_explained():
    """The floor is read first, and the error says what runs beneath; EINVAL is explained too."""
    found = fault(snp(privlevel_floor=1), privlevel=0)
    refused = fault(snp(fails={("write", "privlevel"): errno.EINVAL}), privlevel=0)

    assert found.code == DeviceFault.REQUEST_INVALID
    assert "floor is 1" in str(found)
    assert refused.code == DeviceFault.FAILED
    assert "privilege level" in str(refused)


@pytest.mark.parametrize(("kind", "level"), [("tdx", 0), ("snp", 4), ("snp", -1)])
def test_privilege_levels_that_do_not_exist_are_refused(kind, level):
    """TDX has none, SNP has four."""
    with pytest.raises(ValueError, match="0 to 3"):
        ConfigfsDevice(kind, privlevel=level)


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_report_data_of_another_size_never_reaches_the_kernel(size):
    """The kernel would pad it silently."""
    kernel = snp()

    with pytest.raises(AttesterError) as caught:
        ConfigfsDevice("snp", files=kernel).report(bytes(size))

    assert caught.value.code == DeviceFault.REQUEST_INVALID
    assert kernel.trace == []


@pytest.mark.parametrize(
    ("number", "code", "advice"),
    [
        (errno.ENOENT, DeviceFault.ABSENT, "mount -t configfs"),
        (errno.ENOTDIR, DeviceFault.ABSENT, "CONFIG_TSM_REPORTS"),
        (errno.ENXIO, DeviceFault.ABSENT, "modprobe tdx_guest"),
        (errno.EACCES, DeviceFault.DENIED, "run the runtime as root"),
        (errno.EPERM, DeviceFault.DENIED, "run the runtime as root"),
        (errno.EEXIST, DeviceFault.FAILED, "File exists"),
        (errno.ENOMEM, DeviceFault.FAILED, "memory"),
    ],
)
def test_a_request_that_cannot_be_made_says_what_to_do(number, code, advice):
    """Each errno of mkdir has its own advice."""
    found = fault(snp(fails={("make", "request"): number}))

    assert found.code == code
    assert advice in str(found)
    assert isinstance(found, RuntimeFault)


@pytest.mark.parametrize(
    ("place", "number", "code", "advice"),
    [
        (("write", "inblob"), errno.EACCES, DeviceFault.DENIED, "may not use"),
        (("write", "inblob"), errno.EBUSY, DeviceFault.RACED, "try again"),
        (("read", "outblob"), errno.EAGAIN, DeviceFault.RACED, "try again"),
        (("read", "outblob"), errno.EIO, DeviceFault.FAILED, "quote generation service"),
        (("read", "outblob"), errno.ETIMEDOUT, DeviceFault.FAILED, "quote generation service"),
        (("read", "provider"), errno.ENOENT, DeviceFault.FAILED, "provider"),
        (("read", "auxblob"), errno.EIO, DeviceFault.FAILED, "auxblob"),
        (("read", "generation"), errno.EPERM, DeviceFault.DENIED, "generation"),
    ],
)
def test_a_request_that_fails_says_where(place, number, code, advice):
    """Whatever fails, the folder is removed and the error names the file."""
    found = fault(snp(fails={place: number}))

    assert found.code == code
    assert advice in str(found)


def test_a_folder_that_cannot_be_removed_does_not_hide_the_report():
    """Cleaning up is not worth a release."""
    kernel = snp(fails={("remove", "request"): errno.EBUSY})

    assert ConfigfsDevice("snp", files=kernel).report(DATA).cpu


@pytest.mark.parametrize(("kind", "kernel"), [("tdx", snp), ("snp", tdx)])
def test_another_kind_of_machine_is_refused(kind, kernel):
    """The kind comes from configuration, never from what happens to be there."""
    found = fault(kernel(), kind)

    assert found.code == DeviceFault.WRONG_KIND
    assert "_guest" in str(found)


def test_another_writer_is_noticed_by_the_generation():
    """Even one who writes the very same bytes."""
    found = fault(snp(other_writer=DATA))

    assert found.code == DeviceFault.RACED
    assert "somebody else wrote" in str(found)


def test_another_writers_report_data_is_noticed_without_the_generation():
    """A frozen counter does not help the other writer."""
    found = fault(snp(other_writer=bytes(64), texts={"outblob": snp_answer(bytes(64))[0]}))

    assert found.code == DeviceFault.RACED


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("generation", b""),
        ("generation", b"1_0\n"),
        ("generation", b" 1\n"),
        ("generation", b"01\n"),
        ("generation", b"-1\n"),
        ("generation", "\u0661\n".encode()),
        ("provider", b"\xff\n"),
        ("provider", b"x" * 65),
    ],
)
def test_attributes_that_no_kernel_writes_are_refused(name, text):
    """Numbers and names are read strictly."""
    assert fault(snp(texts={name: text})).code == DeviceFault.ANSWER_INVALID


@pytest.mark.parametrize("size", [0, 1, 0x49F, 0x4A1, 200 * 1024])
def test_snp_reports_of_another_size_are_refused(size):
    """A report has 1,184 bytes."""
    assert fault(FakeTsm(lambda _: (bytes(size), b""))).code == DeviceFault.ANSWER_INVALID


@pytest.mark.parametrize(
    "quote",
    [b"", b"\4\0", b"\4\0" + bytes(629), b"\3\0" + bytes(5000), b"\4\0" + bytes(200 * 1024)],
    ids=["empty", "header", "short", "v3", "huge"],
)
def test_things_that_are_no_quotes_are_refused(quote):
    """Version and size are looked at before report data is."""
    kernel = FakeTsm(lambda _: (quote, b""), provider="tdx_guest")

    assert fault(kernel, "tdx").code == DeviceFault.ANSWER_INVALID


def test_an_event_log_that_no_request_can_carry_is_refused():
    """Too large is an error, never cut off."""
    kernel = tdx(files={EVENT_LOG: bytes(256 * 1024 + 1)})

    assert fault(kernel, "tdx").code == DeviceFault.ANSWER_INVALID


def test_host_data_comes_from_a_fresh_report():
    """On SNP the launch configuration is HOST_DATA."""
    seen = []
    kernel = FakeTsm(lambda data: (seen.append(data), snp_answer(data))[1])
    device = ConfigfsDevice("snp", files=kernel)

    assert device.launch_config().value == HOST_DATA
    device.launch_config()
    assert len(set(seen)) == 2


def test_mr_config_id_never_comes_from_a_quote():
    """On TDX it is the module's own word: no report request is made."""
    kernel = tdx(files={MEASUREMENT: b"\x0c" * 48})

    assert ConfigfsDevice("tdx", files=kernel).launch_config().value == b"\x0c" * 48
    assert kernel.trace == [("read", "mrconfigid")]


def test_a_plain_folder_is_no_provider(tmp_path):
    """With real files: a folder takes the request and then has nothing to say."""
    device = ConfigfsDevice("tdx", root=str(tmp_path))

    with pytest.raises(AttesterError) as caught:
        device.report(DATA)

    assert caught.value.code == DeviceFault.FAILED
    assert list(tmp_path.iterdir()) == []
    assert device.kind == "tdx"


def test_no_configfs_at_all_is_absent(tmp_path):
    """With real files: the advice is to mount it."""
    device = ConfigfsDevice("snp", root=str(tmp_path / "no"))

    with pytest.raises(AttesterError, match="mount -t configfs") as caught:
        device.report(DATA)

    assert caught.value.code == DeviceFault.ABSENT
    assert tsm.ROOT == ROOT
