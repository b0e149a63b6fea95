"""`ostiary policy measure`: snippets that go into a policy as they are, and refusals by name."""

from __future__ import annotations

import hashlib
import importlib.util

import pytest

from ostiary.__main__ import main
from ostiary.cli import capture
from ostiary.cli.capture import Captured, CaptureError
from tests.kit import firmware as firmwares
from tests.kit import pe, tdx, vendors
from verifier.appraise import Evidence
from verifier.policy import AppraisalPolicy, SnpReference, TdxReference, TpmReference, from_toml
from verifier.wire.canonical import Hex

PAGE = 4096
TDVF = ((0, PAGE, 0xFFFFF000, PAGE, 0, 1),)
REGISTER = "ab" * 48
needs_library = pytest.mark.skipif(
    importlib.util.find_spec("sevsnpmeasure") is None, reason="extra `measure` is not installed"
)


@pytest.fixture
def folder(tmp_path):
    for name, raw in (
        ("OVMF.fd", firmwares.image(tdx=TDVF)),
        ("vmlinuz", pe.KERNEL),
        ("initrd", b"initrd"),
        ("linux.efi", pe.uki()),
        ("shim.efi", pe.image({".text": b"shim"})),
    ):
        (tmp_path / name).write_bytes(raw)
    return tmp_path


def run(capsys, folder, *arguments):
    """Run `policy measure`; arguments that are names of files there are turned into paths."""
    told = [str(folder / each) if (folder / each).is_file() else each for each in arguments]
    status = main(["policy", "measure", *told])
    return status, capsys.readouterr()


SNP = ("snp", "--firmware", "OVMF.fd", "--vcpus", "2", "--vcpu-type", "EPYC-v4")
DIRECT = ("--kernel", "vmlinuz", "--initrd", "initrd", "--append", "console=ttyS0")
TDX = ("tdx", "--firmware", "OVMF.fd", *DIRECT)


def reference(text, kind):
    (found,) = from_toml(text.encode()).references(kind)
    return found


@needs_library
def test_snp(capsys, folder):
    """The launch digest is a reference that says where every part of it is from."""
    status, told = run(capsys, folder, *SNP, *DIRECT, "--name", "guest")

    found = reference(told.out, SnpReference)
    assert (status, found.name, len(found.measurement)) == (0, "guest", 48)
    for name in ("OVMF.fd", "vmlinuz", "initrd"):
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        assert f"{name} (SHA-256 {digest})" in told.out
    assert 'append: "console=ttyS0"' in told.out
    expected = firmwares.snp_digest(
        (folder / "OVMF.fd").read_bytes(),
        firmwares.AMD_SEV,
        vcpus=2,
        features=1,
        boot=(pe.KERNEL, b"initrd", "console=ttyS0"),
    )
    assert expected == found.measurement


@needs_library
def test_guest_features_are_hexadecimal(capsys, folder):
    """SEV_FEATURES are read as they are written elsewhere: 21 is 0x21."""
    one = run(capsys, folder, *SNP, "--guest-features", "21")[1].out
    two = run(capsys, folder, *SNP, "--guest-features", "0x21")[1].out

    assert one == two
    assert "0x21" in one


def test_tdx_with_what_evidence_showed(capsys, folder):
    """With RTMR 0 from reviewed evidence the reference is whole, and says what was given."""
    status, told = run(capsys, folder, *TDX, "--rtmr0", REGISTER)

    found = reference(told.out, TdxReference)
    assert (status, found.rtmr0.hex()) == (0, REGISTER)
    assert "RTMR 0: given, not computed" in told.out
    assert len({found.mr_td, found.rtmr0, found.rtmr1, found.rtmr2}) == 4


def test_tdx_refuses_rtmr0_by_name(capsys, folder):
    """RTMR 0 cannot be computed: the refusal says why and what to do; nothing is printed."""
    status, told = run(capsys, folder, *TDX)

    assert (status, told.out) == (1, "")
    assert "RTMR 0 holds the host's TD HOB, ACPI tables" in told.err
    assert "policy capture" in told.err


def test_partial(capsys, folder):
    """What can be computed is printed on demand, and is no policy yet."""
    status, told = run(capsys, folder, *TDX, "--partial")

    assert status == 0
    assert "# rtmr0 is NOT COMPUTED" in told.out
    with pytest.raises(Exception, match="rtmr0"):
        from_toml(told.out.encode())


def test_a_uki_in_a_td(capsys, folder):
    """A UKI gives RTMR 1; RTMR 2 is refused by name, and taken where it is given."""
    uki = ("tdx", "--firmware", "OVMF.fd", "--uki", "linux.efi", "--rtmr0", REGISTER)
    status, told = run(capsys, folder, *uki)
    whole = run(capsys, folder, *uki, "--rtmr2", REGISTER)[1].out
    shimmed = run(capsys, folder, *uki, "--rtmr2", REGISTER, "--application", "shim.efi")[1].out
    alone = run(capsys, folder, *uki, "--rtmr2", REGISTER, "--inner-kernel-unmeasured")[1].out

    assert (status, "RTMR 2 holds what boot loader" in told.err) == (1, True)
    assert len({reference(each, TdxReference).rtmr1 for each in (whole, shimmed, alone)}) == 3


def test_a_disk_counts(capsys, folder):
    """The partition table of the disk that is booted from is part of RTMR 1."""
    header = b"EFI PART" + bytes(4) + (92).to_bytes(4, "little") + bytes(56)
    header += (2).to_bytes(8, "little") + (4).to_bytes(4, "little") + (128).to_bytes(4, "little")
    disk = bytes(512) + header.ljust(512, b"\0") + b"\1" * 128 + bytes(2048)
    (folder / "disk.raw").write_bytes(disk)
    uki = ("tdx", "--firmware", "OVMF.fd", "--uki", "linux.efi")
    given = ("--rtmr0", REGISTER, "--rtmr2", REGISTER)
    without = run(capsys, folder, *uki, *given)[1].out
    with_it = run(capsys, folder, *uki, *given, "--disk", "disk.raw")[1].out

    assert reference(without, TdxReference).rtmr1 != reference(with_it, TdxReference).rtmr1
    assert "the partition table of disk.raw" in with_it


def test_pcrs_of_a_uki(capsys, folder):
    """PCR 4, 11 and 12 of a UKI are a TPM reference of the bank that was asked for."""
    arguments = ("pcr", "--uki", "linux.efi", "--pcrs", "11,4,12")
    found = reference(run(capsys, folder, *arguments)[1].out, TpmReference)
    other = reference(run(capsys, folder, *arguments, "--bank", "sha384")[1].out, TpmReference)
    early = reference(run(capsys, folder, *arguments, "--phases", "")[1].out, TpmReference)

    assert list(found.pcrs) == ["4", "11", "12"]
    assert found.pcrs["12"] == bytes(32)
    booted = [pe.digest(each, "sha256").hex() for each in (pe.uki(), pe.KERNEL)]
    assert f"in order: {' '.join(booted)}\n" in run(capsys, folder, *arguments)[1].out
    assert [len(value) for value in other.pcrs.values()] == [48, 48, 48]
    assert early.pcrs["4"] == found.pcrs["4"]
    assert early.pcrs["11"] != found.pcrs["11"]


def test_pcrs_of_a_direct_boot(capsys, folder):
    """PCR 4 and 9 of a kernel that QEMU boots."""
    told = run(capsys, folder, "pcr", *DIRECT, "--pcrs", "4,9")[1].out
    older = run(capsys, folder, "pcr", *DIRECT, "--pcrs", "9", "--initrd-option", "after")[1].out

    found = reference(told, TpmReference)
    assert found.pcrs["9"] != reference(older, TpmReference).pcrs["9"]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("pcr", "--uki", "linux.efi", "--pcrs", "4,7"), 1, "PCR 7: Secure Boot variables"),
        (("pcr", "--uki", "linux.efi", "--pcrs", "9"), 1, "PCR 9: files that GRUB reads"),
        (("pcr", *DIRECT, "--pcrs", "11"), 1, "PCR 11: needs --uki"),
        (("pcr", "--application", "shim.efi", "--pcrs", "8"), 1, "PCR 8: GRUB measures"),
        (("pcr", "--pcrs", "4"), 2, "nothing is booted"),
        (("pcr", "--append", "x", "--pcrs", "4"), 2, "needs --kernel"),
        (("pcr", *DIRECT, "--uki", "linux.efi", "--pcrs", "4"), 2, "booted by no loader"),
        (("pcr", "--uki", "vmlinuz", "--pcrs", "4"), 2, "no .linux"),
        (("pcr", "--uki", "initrd", "--pcrs", "4"), 2, "PE image"),
        (("pcr", "--uki", "absent", "--pcrs", "4"), 2, "--uki: "),
        (("pcr", "--uki", "linux.efi", "--pcrs", "24"), 2, "PCRs expected"),
        (("pcr", "--uki", "linux.efi", "--pcrs", "4,4"), 2, "PCRs expected"),
        (("tdx", "--firmware", "vmlinuz", *DIRECT), 2, "firmware: "),
        ((*TDX, "--rtmr0", "ab"), 2, "96 hexadecimal digits"),
        ((*TDX, "--rtmr0", "zz"), 2, "not hexadecimal"),
        ((*TDX, "--disk", "absent"), 2, "--disk: "),
        ((*TDX, "--disk", "initrd"), 2, "disk: "),
        ((*TDX, "--name", "No Name", "--partial"), 2, "--name"),
    ],
)
def test_refusals(capsys, folder, arguments, status, said):
    """What cannot be computed is exit status 1, what cannot be read is 2; both say what it is."""
    found, told = run(capsys, folder, *arguments)

    assert found == status
    assert said in told.err
    assert told.out == ""


def test_into_a_file(capsys, folder):
    """A snippet is written to a file that does not exist yet, and never over one that does."""
    out = folder / "reference.toml"
    arguments = ("pcr", "--uki", "linux.efi", "--pcrs", "4", "--out", str(out))

    assert run(capsys, folder, *arguments)[0] == 0
    written = out.read_text()
    assert reference(written, TpmReference).pcrs
    assert run(capsys, folder, *arguments)[0] == 2
    assert out.read_text() == written


def test_held_against_evidence():
    """`capture --expect` takes evidence that holds what was computed, and refuses any other."""
    raw = vendors.good_quote()
    captured = Captured(Evidence("tdx", raw), tdx.collateral(), (), vendors.NOW)
    body = vendors.good_body()
    values = {name: Hex(getattr(body, name)) for name in ("mr_td", "rtmr0", "rtmr1", "rtmr2")}

    def policy(**changes):
        return AppraisalPolicy(reference=(TdxReference(name="x", **(values | changes)),))

    capture.require_expected(captured, policy(), vendors.anchors())
    for changes in ({"mr_td": Hex(bytes(48))}, {"rtmr2": Hex(bytes(48))}):
        with pytest.raises(CaptureError, match="not what was computed"):
            capture.require_expected(captured, policy(**changes), vendors.anchors())
    with pytest.raises(CaptureError, match="not what was computed"):
        capture.require_expected(captured, AppraisalPolicy(), vendors.anchors())
