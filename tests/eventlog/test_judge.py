"""Boot references: a named value that is not proven is a difference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.kit.measured import CMDLINE, ccel_log, tpm_log
from verifier.errors import VerifierError
from verifier.eventlog.boot import BootClaims, read
from verifier.eventlog.judge import differences
from verifier.policy import BootReference, from_mapping
from verifier.wire.canonical import Hex

TPM = read(tpm_log().log, "sha256", proven=range(24))
TD = read(ccel_log().log, "sha384", proven=range(4))


def names(reference: BootReference, claims: BootClaims | None) -> list[str]:
    return [name for name, _, _ in differences(reference, claims)]


GOOD: dict[str, Any] = {
    "secure_boot": True,
    "dbx_present": True,
    "boot_applications": tuple(map(Hex, TPM.boot_applications)),
    "kernel_cmdline": CMDLINE,
    "initrd_digest": Hex(TPM.initrd_digest or b""),
    "verity_root_hash": Hex(b"\xab" * 32),
}
BAD: dict[str, Any] = {
    "secure_boot": False,
    "dbx_present": False,
    "boot_applications": (Hex(TPM.boot_applications[0]),),
    "kernel_cmdline": CMDLINE + " debug",
    "initrd_digest": Hex(bytes(32)),
    "verity_root_hash": Hex(bytes(32)),
    "uki_digest": Hex(bytes(32)),
    "runtime": {"app-id": Hex(b"\0")},
    "images": ("sha256:00",),
}


def test_everything_that_is_proven() -> None:
    """All values of a good boot are met together."""
    assert differences(BootReference(**GOOD), TPM) == []


@pytest.mark.parametrize("name", GOOD)
def test_each_by_itself(name: str) -> None:
    """Each value that is proven is met, and no log meets none."""
    reference = BootReference(**{name: GOOD[name]})

    assert differences(reference, TPM) == []
    assert names(reference, None) == ["boot"]
    assert names(reference, BootClaims())


@pytest.mark.parametrize("name", BAD)
def test_each_difference(name: str) -> None:
    """Each value that is not the proven one is told."""
    (found,) = names(BootReference(**{name: BAD[name]}), TPM)

    assert found.startswith(f"boot.{name}")


def test_an_incomplete_boot_proves_no_firmware_claims() -> None:
    """Values of the boot need the whole boot; runtime events and images do not."""
    partial = replace(TPM, complete=False, runtime={"app-id": b"\1"})

    assert names(BootReference(secure_boot=True), partial) == ["boot.complete"]
    assert names(BootReference(runtime={"app-id": Hex(b"\1")}), partial) == []


def test_the_efi_stubs_command_line() -> None:
    """A command line that is only a digest is met by its text."""
    assert names(BootReference(kernel_cmdline=CMDLINE), TD) == []
    assert names(BootReference(kernel_cmdline="other"), TD) == ["boot.kernel_cmdline"]
    two = replace(TD, load_options=TD.load_options * 2)
    assert names(BootReference(kernel_cmdline=CMDLINE), two) == ["boot.kernel_cmdline"]


def test_images() -> None:
    """Every image that was pulled must be known, and one at least was."""
    reference = BootReference(images=("sha256:00", "sha256:01"))

    def pulled(*digests: str) -> BootClaims:
        return BootClaims(images=tuple(("image", digest) for digest in digests))

    assert names(reference, pulled("sha256:01")) == []
    assert names(reference, pulled("sha256:01", "sha256:02")) == ["boot.images"]
    assert names(reference, pulled()) == ["boot.images"]


@pytest.mark.parametrize("told", [{}, {"boot_applications": []}, {"runtime": {}}, {"x": 1}])
def test_empty_references(told: dict[str, Any]) -> None:
    """A boot reference that names nothing, or something unknown, is refused."""
    with pytest.raises(VerifierError):
        from_mapping({"reference": [{"kind": "tpm", "name": "a", "boot": told}]})
