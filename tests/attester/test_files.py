"""The real file operations, on a plain folder."""

import errno

import pytest

from inference_runtime.attester.files import RealFiles


def test_folders_and_files_come_and_go(tmp_path):
    """Make, write, read, remove."""
    files = RealFiles()
    folder = tmp_path / "request"
    files.make_folder(str(folder))
    (folder / "inblob").touch()

    files.write(str(folder / "inblob"), b"\0" * 64)

    assert files.read(str(folder / "inblob"), 64) == b"\0" * 64
    (folder / "inblob").unlink()
    files.remove_folder(str(folder))
    assert not folder.exists()


def test_reading_stops_at_the_limit(tmp_path):
    """One byte too many is EFBIG, not a longer answer."""
    path = tmp_path / "f"
    path.write_bytes(bytes(101))

    with pytest.raises(OSError, match="100") as caught:
        RealFiles().read(str(path), 100)

    assert caught.value.errno == errno.EFBIG


def test_writing_never_creates(tmp_path):
    """An attribute that is not there is an error."""
    with pytest.raises(FileNotFoundError):
        RealFiles().write(str(tmp_path / "inblob"), b"x")

    assert list(tmp_path.iterdir()) == []


def test_a_partial_write_is_an_error():
    """The kernel takes an input whole or not at all."""
    with pytest.raises(OSError, match="No space"):
        RealFiles().write("/dev/full", b"x")
