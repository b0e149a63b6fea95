"""What a log means, and the ways in which one that replays must still be refused."""

from __future__ import annotations

import hashlib

import pytest

from tests.kit.measured import (
    CMDLINE,
    LogMaker,
    ccel_log,
    leave,
    security,
    tag,
    tpm_log,
    variable,
)
from verifier.errors import Reason, VerifierError
from verifier.eventlog.boot import (
    CALLING,
    EXIT_INVOKED,
    EXIT_RETURNED,
    GLOBAL_VARIABLE,
    BootClaims,
    read,
)
from verifier.eventlog.judge import differences
from verifier.eventlog.log import Event, Kind
from verifier.eventlog.runtime import parse_aael, parse_dstack
from verifier.policy import BootReference
from verifier.wire.canonical import Hex

ALL = range(24)


def claims(maker: LogMaker) -> BootClaims:
    return read(maker.log, maker.banks[-1], proven=ALL)


def refused(maker: LogMaker, saying: str) -> None:
    with pytest.raises(VerifierError, match=saying) as caught:
        claims(maker)
    assert caught.value.reason is Reason.EVENT_LOG_REFUSED


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def change(maker: LogMaker, number: int, **fields: object) -> LogMaker:
    """Replace fields of one event, by its place in the list."""
    maker.events[number] = maker.events[number]._replace(**fields)  # type: ignore[arg-type]
    return maker


def find(maker: LogMaker, kind: int, place: int = 0) -> int:
    return [n for n, event in enumerate(maker.events) if event.kind == kind][place]


def without(maker: LogMaker, kind: int, *, register: int | None = None) -> LogMaker:
    maker.events = [e for e in maker.events if e.kind != kind or register not in (None, e.register)]
    return maker


def test_a_tpm_boot() -> None:
    """Secure Boot, boot applications, command line, root hash and initrd are read."""
    seen = claims(tpm_log(("sha1", "sha256")))

    assert seen.complete
    assert seen.secure_boot is True
    assert seen.dbx_present is True
    assert seen.variables["db"] == sha256(b"db")
    assert seen.boot_applications == (sha256(b"shim"), sha256(b"kernel"))
    assert seen.kernel_cmdline == CMDLINE
    assert seen.verity_root_hashes == (b"\xab" * 32,)
    assert seen.initrd_digest == sha256(b"initrd")
    assert seen.bank == "sha256"


def test_a_td_boot() -> None:
    """A CCEL gives the same by RTMRs; the EFI stub's command line is a digest."""
    seen = claims(ccel_log())

    assert seen.complete
    assert seen.secure_boot is True
    assert seen.kernel_cmdline is None
    assert seen.load_options == (hashlib.sha384(CMDLINE.encode("utf-16-le") + b"\0\0").digest(),)
    assert seen.initrd_digest == hashlib.sha384(b"initrd").digest()


def test_only_proven_registers_are_read() -> None:
    """Events of a register that did not replay give no claims."""
    seen = read(tpm_log().log, "sha256", proven=set(ALL) - {8, 4})

    assert seen.kernel_cmdline is None
    assert seen.boot_applications == ()
    assert not seen.complete


@pytest.mark.parametrize(
    ("enabled", "told"), [(b"\x01", True), (b"\x00", False), (b"", False), (b"\x02", False)]
)
def test_secure_boot(enabled: bytes, told: bool) -> None:
    """Only the value 1 is Secure Boot; no value is none."""
    maker = LogMaker()
    security(maker, 7, enabled=enabled, dbx=b"")

    assert claims(maker).secure_boot is told
    assert claims(maker).dbx_present is False


def test_secure_boot_after_the_separator_does_not_count() -> None:
    """What stands after PCR 7's separator may be anyone's; without a separator nothing counts."""
    late = LogMaker().add(7, Kind.SEPARATOR, bytes(4))
    value = variable(GLOBAL_VARIABLE, "SecureBoot", b"\x01")
    late.add(7, Kind.VARIABLE_DRIVER_CONFIG, value)
    never = LogMaker().add(7, Kind.VARIABLE_DRIVER_CONFIG, value)

    assert claims(late).secure_boot is None
    assert claims(never).secure_boot is None


def test_other_variables_are_not_read() -> None:
    """Variables of other names give no claim, and their digests may be the firmware's own."""
    maker = LogMaker()
    maker.add(7, Kind.VARIABLE_DRIVER_CONFIG, variable(bytes(16), "SecureBoot", b"\1"), b"other")
    maker.add(7, 0x800000E0, b"authority")
    maker.add(7, Kind.SEPARATOR, bytes(4))

    assert claims(maker).variables == {}


def test_tpm12_variables_may_be_measured_by_value() -> None:
    """Old firmware measures a variable's value alone; others may not."""
    data = variable(GLOBAL_VARIABLE, "SecureBoot", b"\x01")
    old = LogMaker("tcg1.2", ("sha1",)).add(7, Kind.VARIABLE_DRIVER_CONFIG, data, b"\x01")
    new = LogMaker().add(7, Kind.VARIABLE_DRIVER_CONFIG, data, b"\x01")

    assert claims(old.add(7, Kind.SEPARATOR, bytes(4))).secure_boot is True
    refused(new.add(7, Kind.SEPARATOR, bytes(4)), "not that of the variable SecureBoot")


def test_variables_that_lie() -> None:
    """Data that is not what was measured, a second value and broken lengths are refused."""
    good = tpm_log()
    number = find(good, Kind.VARIABLE_DRIVER_CONFIG)
    other = variable(GLOBAL_VARIABLE, "SecureBoot", b"\x00")
    refused(change(tpm_log(), number, data=other), "not that of the variable")
    refused(change(tpm_log(), number, data=other[:31]), "not a UEFI variable")
    refused(change(tpm_log(), number, data=other + b"x"), "lengths")
    twice = tpm_log()
    twice.events.insert(number, twice.events[number])
    refused(twice, "stands twice")


def test_a_second_separator() -> None:
    """Each register of the firmware has one separator; a second is refused."""
    for pcr in range(8):
        refused(tpm_log().add(pcr, Kind.SEPARATOR, bytes(4)), "a second separator")
    for rtmr in range(2):
        refused(ccel_log().add(rtmr, Kind.SEPARATOR, bytes(4)), "a second separator")


def test_separators_of_other_registers_are_not_the_firmwares() -> None:
    """Windows writes separators of its own into PCR 12 to 14."""
    maker = tpm_log().add(12, Kind.SEPARATOR, b"WBCL").add(12, Kind.SEPARATOR, b"WBCL")

    assert claims(maker).complete


def misplaced() -> LogMaker:
    """Return a boot by old OVMF, which measures RTMR 1's separator into RTMR 0."""
    maker = ccel_log()
    number = find(maker, Kind.SEPARATOR, 1)
    return change(maker, number, register=0)


def test_a_misplaced_separator() -> None:
    """Old OVMF's two separators in RTMR 0 leave digests, but never a whole boot."""
    seen = claims(misplaced())

    assert not seen.complete
    assert seen.boot_applications
    assert seen.secure_boot is True


def test_a_misplaced_separator_satisfies_no_reference() -> None:
    """Whatever a policy names of such a boot, it is not a whole one; the literal map is refused."""
    seen = claims(misplaced())
    named = BootReference(
        secure_boot=True, boot_applications=tuple(map(Hex, seen.boot_applications))
    )

    assert [name for name, _, _ in differences(named, seen)] == ["boot.complete"]
    mapped = misplaced()
    mapped.add(1, Kind.SEPARATOR, bytes(4))
    refused(mapped, "a second separator")


def test_a_misplaced_separator_with_text() -> None:
    """With nothing between firmware and loader, a log that carries a command line is refused."""
    maker = misplaced()
    maker.events.insert(
        -2, LogMaker("ccel", ("sha384",)).add(2, Kind.IPL, b"kernel_cmdline: a", b"a").events[0]
    )

    refused(maker, "a second separator")


def test_a_missing_separator_is_an_incomplete_boot() -> None:
    """A register without its separator may have been extended by anyone."""
    assert not claims(without(tpm_log(), Kind.SEPARATOR, register=3)).complete


def test_relabelled_events() -> None:
    """The digests of separators and actions are theirs alone, whatever the type says."""
    number = find(tpm_log(), Kind.SEPARATOR)
    refused(change(tpm_log(), number, kind=8), "digest is that of SEPARATOR")
    refused(change(tpm_log(), number, kind=Kind.EFI_ACTION), "digest is that of SEPARATOR")
    action = find(tpm_log(), Kind.EFI_ACTION)
    refused(change(tpm_log(), action, kind=8), "digest is that of EFI_ACTION")
    refused(change(tpm_log(), action, kind=Kind.SEPARATOR), "digest is that of EFI_ACTION")
    version = find(tpm_log(), 8)
    refused(change(tpm_log(), version, kind=Kind.SEPARATOR), "a separator of")
    refused(change(tpm_log(), version, kind=Kind.EFI_ACTION, data=CALLING), "not that of the data")
    refused(change(tpm_log(), number, data=b"\xff" * 4), "not that of the data")


def test_the_same_digests_elsewhere_mean_nothing() -> None:
    """Registers of the operating system may hold any value."""
    maker = LogMaker().add(12, 5, bytes(4)).add(12, Kind.EFI_ACTION, b"x", b"y")

    assert claims(maker).boot_applications == ()


def test_a_second_boot_attempt() -> None:
    """A second application called before ExitBootServices is refused; after it, it is nothing."""
    maker = tpm_log()
    call = maker.events[find(maker, Kind.EFI_ACTION)]
    maker.events.insert(find(maker, Kind.EFI_ACTION, 1), call)
    refused(maker, "a second EFI application")

    assert claims(tpm_log().add(4, Kind.EFI_ACTION, CALLING)).complete is False


def test_exit_boot_services() -> None:
    """The hand-over is an invocation that returned, once and last."""
    for data in (EXIT_INVOKED, EXIT_RETURNED):
        maker = tpm_log()
        maker.events = [e for e in maker.events if e.data != data]
        assert not claims(maker).complete
    assert not claims(leave(tpm_log(), 5)).complete


def test_images_count_wherever_they_stand() -> None:
    """An event of one PCR can be moved past another's: what was booted shows all the same."""
    maker = tpm_log().add(4, Kind.BOOT_SERVICES_APPLICATION, b"", b"late")
    maker.add(8, Kind.IPL, b"kernel_cmdline: late", b"late")
    seen = claims(maker)

    assert seen.boot_applications[2:] == (sha256(b"late"),)
    assert seen.kernel_cmdline is None


@pytest.mark.parametrize("kind", [1, 8, Kind.IPL, Kind.PARTITION_TABLE, 0x80000004, 0x12345678])
def test_images_count_whatever_they_are_labelled(kind: int) -> None:
    """Types are in no digest: relabelling a boot application does not hide it."""
    number = find(tpm_log(), Kind.BOOT_SERVICES_APPLICATION)
    for data in (b"", b"EFI PART of another", b"MZ\0 preimage"):
        bent = change(tpm_log(), number, kind=kind, data=data)
        assert claims(bent).boot_applications == claims(tpm_log()).boot_applications


def test_images_are_not_what_is_proven_to_be_something_else() -> None:
    """Actions in plain text and partition tables are no images, if their digests say so."""
    maker = tpm_log().add(4, Kind.EFI_ACTION, b"Returning from EFI Application from Boot Option")
    assert len(claims(maker).boot_applications) == 2
    td = ccel_log()
    td.events.insert(-2, LogMaker("ccel", ("sha384",)).add(1, 0x80000006, b"EFI PART..").events[0])
    assert len(claims(td).boot_applications) == 1
    maker.add(4, Kind.EFI_ACTION, b"MZ\0")
    assert len(claims(maker).boot_applications) == 3


def test_command_lines() -> None:
    """GRUB's command line is text without its prefix, systemd's is UTF-16 in PCR 12."""
    old = LogMaker().add(8, Kind.IPL, b"grub_kernel_cmdline a b\0", b"a b")
    text = "c d\0".encode("utf-16-le")
    stub = LogMaker().add(12, Kind.IPL, text)

    assert claims(old).kernel_cmdline == "a b"
    assert claims(stub).kernel_cmdline == "c d"
    assert claims(LogMaker().add(12, Kind.IPL, text, b"other")).kernel_cmdline is None
    assert claims(LogMaker().add(9, Kind.IPL, b"file", b"other")).kernel_cmdline is None
    assert claims(LogMaker().add(4, Kind.IPL, b"kernel_cmdline: a", b"a")).kernel_cmdline is None


def test_command_lines_that_lie() -> None:
    """A command line that was not measured is refused; two are none."""
    refused(LogMaker().add(8, Kind.IPL, b"kernel_cmdline: a", b"b"), "command line")
    two = LogMaker().add(8, Kind.IPL, b"kernel_cmdline: a", b"a")

    assert claims(two.add(8, Kind.IPL, b"kernel_cmdline: b", b"b")).kernel_cmdline is None


@pytest.mark.parametrize(
    ("line", "hashes"),
    [
        ("roothash=" + "cd" * 32, 1),
        ("a usrhash=" + "cd" * 32 + " b", 1),
        ('dm="1 vroot none ro 1,0 1 verity root_hexdigest=' + "cd" * 32 + ' salt=00"', 1),
        ("roothash=" + "cd" * 32 + " roothash=" + "cd" * 32, 2),
        ("xroothash=" + "cd" * 32, 0),
        ("roothash=" + "CD" * 32, 0),
        ("roothash=cd", 0),
    ],
)
def test_root_hashes(line: str, hashes: int) -> None:
    """dm-verity's root hash stands in the command line under the names that its users gave it."""
    maker = LogMaker().add(8, Kind.IPL, b"kernel_cmdline: " + line.encode(), line.encode())

    assert claims(maker).verity_root_hashes == (b"\xcd" * 32,) * hashes


def test_tagged_events() -> None:
    """Only the EFI stub's tags count, and only where they fill the event."""
    maker = LogMaker()
    maker.add(9, Kind.EVENT_TAG, tag(0x8F3B22EC, b"Linux initrd\0") + b"x", b"i")
    maker.add(9, Kind.EVENT_TAG, tag(1, b"other"), b"i")
    maker.add(9, Kind.EVENT_TAG, b"short", b"i")
    assert claims(maker).initrd_digest is None

    for _ in range(2):
        maker.add(9, Kind.EVENT_TAG, tag(0x8F3B22EC, b"Linux initrd\0"), b"i")
    assert claims(maker).initrd_digest is None


def uki(*sections: bytes, load: bool = True) -> LogMaker:
    maker = LogMaker()
    if load:
        maker.add(4, Kind.BOOT_SERVICES_APPLICATION, b"", b"the uki")
    for section in sections:
        name = section.decode().encode("utf-16-le") + b"\0\0"
        maker.add(11, Kind.IPL, name, section + b"\0")
        maker.add(11, Kind.IPL, name, b"content of " + section)
    return maker


def test_a_uki() -> None:
    """systemd-stub's sections are named; the UKI is the application loaded before them."""
    seen = claims(uki(b".linux", b".cmdline"))

    assert seen.uki_digest == sha256(b"the uki")
    assert seen.uki_sections == {
        ".linux": sha256(b"content of .linux"),
        ".cmdline": sha256(b"content of .cmdline"),
    }
    assert claims(uki(b".linux", load=False)).uki_digest is None


def test_ukis_that_lie() -> None:
    """A section with another name than the measured one, or twice, is refused."""
    refused(uki(b".linux", b".linux"), "stands twice")
    refused(change(uki(b".linux"), 1, data=b".\0o\0"), "name expected")
    refused(uki(b"linux"), "name expected")
    odd = uki(b".linux")
    odd.events.pop()
    assert claims(odd).uki_sections == {}


def dstack(*names: str, boot: LogMaker | None = None) -> BootClaims:
    import json  # noqa: PLC0415

    entries = [
        {
            "imr": e.register,
            "event_type": int(e.kind),
            "digest": e.digests[0].hex(),
            "event": "",
            "event_payload": "",
        }
        for e in (boot.events if boot else [])
        if e.register >= 0
    ]
    entries += [
        {"imr": 3, "event_type": 0x08000001, "digest": "", "event": n, "event_payload": "0a"}
        for n in names
    ]
    return read(parse_dstack(json.dumps(entries).encode()), "sha384", proven=range(4))


def test_dstack() -> None:
    """Runtime events are claims by name; one that stands twice is none."""
    seen = dstack("app-id", "other", "other", boot=ccel_log())

    assert seen.runtime == {"app-id": b"\x0a"}
    assert seen.boot_applications == (hashlib.sha384(b"kernel").digest(),)
    assert seen.secure_boot is None
    assert seen.complete


def test_dstack_boot_events_are_held_to_the_same_order() -> None:
    """A second separator or boot attempt is refused by its digest alone."""
    with pytest.raises(VerifierError, match="second separator"):
        dstack(boot=ccel_log().add(1, Kind.SEPARATOR, bytes(4)))
    with pytest.raises(VerifierError, match="second separator"):
        dstack(boot=misplaced())
    twice = ccel_log()
    twice.events.insert(find(twice, Kind.EFI_ACTION), twice.events[find(twice, Kind.EFI_ACTION)])
    with pytest.raises(VerifierError, match="second EFI application"):
        dstack(boot=twice)


def aael(*contents: str) -> BootClaims:
    lines = ["INIT/sha384 " + "00" * 48]
    lines += [f"github.com/confidential-containers PullImage {c}" for c in contents]
    lines.append("other.example Started x")
    return read(parse_aael("\n".join([*lines, ""]).encode(), register=3), "sha384", proven=[3])


def test_aael_images() -> None:
    """Images that containers came from are claims."""
    seen = aael('{"image":"alpine","digest":"sha256:00"}')

    assert seen.images == (("alpine", "sha256:00"),)
    assert seen.to_dict()["images"] == [{"image": "alpine", "digest": "sha256:00"}]


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"image":"a"}',
        '{"image":"a","digest":1}',
        '{"image":1,"digest":"a"}',
        '{"image":"a","digest":"a","digest":"b"}',
        "[" * 60_000,
    ],
)
def test_aael_images_that_lie(content: str) -> None:
    """An image that is not told as the specification says is refused."""
    with pytest.raises(VerifierError, match="PullImage"):
        aael(content)


def test_events_say_their_number() -> None:
    """An error names the event by its place in the log, the header counted."""
    maker = tpm_log().add(0, Kind.SEPARATOR, bytes(4))

    refused(maker, f"event {len(maker.events)}:")
    assert isinstance(maker.log.events[0], Event)
