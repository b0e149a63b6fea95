"""SNP launch digests: known answers, a second reading of the rules, and what is refused."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ostiary.measure.errors import MeasureError
from ostiary.measure.snp import SnpLaunch, launch_digest
from tests.kit import firmware as kit

if importlib.util.find_spec("sevsnpmeasure") is None:
    pytest.skip("extra `measure` is not installed", allow_module_level=True)

SEED = bytes.fromhex(
    "086e2e9149ebf45abdc3445fba5b2da8270bdbb04094d7a2c37faaa4b24af3aa"
    "16aff8c374c2a55c467a50da6d466b74"
)
# Launch digests that the library's own tests expect (virtee/sev-snp-measure, tests/test_guest.py,
# Apache-2.0) for the firmware whose own pages hash to SEED and whose metadata are AMD_SEV.
KNOWN = [
    (
        0x21,
        "",
        "329c8ce0972ae52343b64d34a434a86f245dfd74f5ed7aae15d22efc78fb9683632b9b50e4e1d7fa41179ef98a7ef198",
    ),
    (
        0x01,
        "",
        "ddc5224521617a536ee7ce9dd6224d1b58a8d4fda1c741f3ac99fc4bfa04ba6e9fc98646d4a07a9079397fa3852819b5",
    ),
    (
        0x21,
        "console=ttyS0 loglevel=7",
        "803f691094946e42068aaa3a8f9e26a5c89f36f7b73ecfb28c653360fe4b3aba7e534442e7e1e17895dfe778d0228977",
    ),
    (
        0x01,
        "console=ttyS0 loglevel=7",
        "6d287813eb5222d770f75005c664e34c204f385ce832cc2ce7d0d6f354454362f390ef83a92046c042e706363b4b08fa",
    ),
]
LAUNCH = SnpLaunch(
    kit.image(), 4, b"kernel" * 999, b"initrd" * 777, "console=ttyS0", vcpu_type="EPYC-v4"
)


@pytest.mark.parametrize(("features", "append", "expected"), KNOWN)
def test_known_answers(features, append, expected):
    """Our second reading gives the launch digests that are published with the library."""
    found = kit.snp_digest(
        b"", kit.AMD_SEV, vcpus=1, features=features, boot=(b"", b"", append), seed=SEED
    )

    assert expected == found.hex()


@pytest.mark.parametrize("vcpus", [1, 2, 5])
@pytest.mark.parametrize("features", [0x1, 0x21])
def test_agrees_with_a_second_reading(vcpus, features):
    """The library and our own reading of AMD's and QEMU's rules give one digest."""
    launch = replace(LAUNCH, vcpus=vcpus, guest_features=features)
    ours = kit.snp_digest(
        launch.firmware,
        kit.AMD_SEV,
        vcpus=vcpus,
        features=features,
        boot=(launch.kernel, launch.initrd, launch.append),
    )

    assert ours == launch_digest(launch)


def test_without_a_kernel():
    """Without a kernel the page of hashes is measured as zeros, also by firmware without one."""
    for sections in (kit.AMD_SEV, kit.OVMF_X64):
        firmware = kit.image(sev=sections)
        launch = SnpLaunch(firmware, 2, vcpu_type="EPYC-v4")

        assert kit.snp_digest(firmware, sections, vcpus=2, features=1) == launch_digest(launch)


@pytest.mark.parametrize(
    "change",
    [
        {"firmware": kit.image(size=3 * 4096)},
        {"kernel": b"other"},
        {"initrd": b"other"},
        {"initrd": None},
        {"append": "console=ttyS1"},
        {"vcpus": 3},
        {"vcpu_type": "EPYC-Milan"},
        {"guest_features": 0x21},
        {"vmm": "ec2"},
        {"vmm": "gce"},
    ],
)
def test_every_input_counts(change):
    """Whatever goes into a launch changes its digest."""
    assert launch_digest(LAUNCH) != launch_digest(replace(LAUNCH, **change))


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        ({"firmware": b""}, "malformed", "whole pages"),
        ({"firmware": bytes(8192)}, "malformed", "no GUIDed table"),
        ({"firmware": kit.image(sev=None)}, "malformed", "not built for it"),
        ({"firmware": kit.image(sev=kit.OVMF_X64)}, "not_computable", "AmdSev build"),
        ({"firmware": kit.image(sev=[(0, 4096, 9)])}, "malformed", "type 0x9"),
        ({"firmware": kit.image(sev=[(0, 4097, 1)])}, "malformed", "whole pages"),
        ({"firmware": kit.image(sev=[(0, 8192, 0x10)])}, "malformed", "not one page"),
        ({"firmware": kit.image(hashes=0xFFF)}, "malformed", "not one page"),
        ({"firmware": kit.image(reset=0)}, "malformed", "reset block"),
        ({"vcpus": 0}, "malformed", "0 vCPUs"),
        ({"vcpus": 4097}, "malformed", "4097 vCPUs"),
        ({"vcpu_type": "EPYC-Naples"}, "malformed", "known are EPYC"),
        ({"vcpu_type": None}, "malformed", "known are EPYC"),
        ({"guest_features": 0x20}, "malformed", "bit 0"),
        ({"guest_features": 1 << 64 | 1}, "malformed", "bit 0"),
        ({"kernel": None}, "malformed", "without a kernel"),
        ({"append": "a\0b"}, "malformed", "NUL"),
    ],
)
def test_refused_by_name(change, code, told):
    """What cannot be a launch, or is in no launch digest, is refused and says why."""
    with pytest.raises(MeasureError, match=told) as caught:
        launch_digest(replace(LAUNCH, **change))

    assert code == caught.value.code


def test_without_the_extra_it_says_so():
    """Where sev-snp-measure is not installed, the refusal names the extra."""
    program = (
        "import sys; sys.modules['sevsnpmeasure'] = None\n"
        "from ostiary.measure.snp import *\n"
        "try: launch_digest(SnpLaunch(b'', 1))\n"
        "except MeasureError as error: print(error.code, error)"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout

    assert told.startswith("not_installed ")
    assert "ostiary[measure]" in told


def test_the_librarys_own_command_agrees(tmp_path):
    """The command that comes with the library prints the digest that we compute."""
    command = shutil.which("sev-snp-measure", path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip("the command sev-snp-measure is not installed")
    for name in ("firmware", "kernel", "initrd"):
        (tmp_path / name).write_bytes(getattr(LAUNCH, name))
    told = subprocess.run(
        [
            *(command, "--mode", "snp", "--vcpus", "4", "--vcpu-type", "EPYC-v4"),
            *("--ovmf", str(tmp_path / "firmware"), "--kernel", str(tmp_path / "kernel")),
            *("--initrd", str(tmp_path / "initrd"), "--append", LAUNCH.append),
            *("--guest-features", "0x1"),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert launch_digest(LAUNCH).hex() == told.strip()
