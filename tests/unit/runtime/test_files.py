"""Folders with a manifest: every kind of damage is seen."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from covt_runtime import files
from covt_runtime.runtime_errors import CheckpointError, RunFolderError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in (("a", b"alpha"), ("b", b"beta")):
        (tmp_path / name).write_bytes(content)
    files.write_manifest(tmp_path)
    return tmp_path


def test_a_whole_folder_has_no_damage(folder: Path) -> None:
    assert files.find_damage(folder) is None


@pytest.mark.parametrize(
    ("name", "content", "seen"),
    [("a", b"alphA", "content of a"), ("a", b"alph", "4 bytes instead of 5"), (files.MANIFEST, b"{", "not readable")],
)
def test_changed_and_cut_files_are_named(folder: Path, name: str, content: bytes, seen: str) -> None:
    (folder / name).write_bytes(content)
    assert seen in str(files.find_damage(folder))


@pytest.mark.parametrize("name", ["a", files.MANIFEST])
def test_missing_files_are_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert files.find_damage(folder) == f"{name} is missing"


def test_two_ranks_share_the_hashing_and_together_see_everything(folder: Path) -> None:
    (folder / "b").write_bytes(b"BETA")
    found = [files.find_damage(folder, rank, 2) for rank in range(2)]
    assert [item is None for item in found] == [True, False]


def test_a_full_disk_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No space left") as error, files.disk_errors(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "free some space" in error.value.remedy


def test_other_system_errors_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="strange"), files.disk_errors(tmp_path):
        raise OSError(errno.EIO, "strange")


def test_replacing_a_file_leaves_nothing_beside_it(tmp_path: Path) -> None:
    files.write_text(tmp_path / "x", "one")
    files.write_text(tmp_path / "x", "two")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x", "two")]


HOLDER = """
import sys
from pathlib import Path
from covt_runtime.files import exclusive_lock
with exclusive_lock(Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""


def test_a_folder_is_held_against_other_processes_until_the_holder_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, tmp_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunFolderError, match="another covt is at work") as caught, files.exclusive_lock(tmp_path):
            pass
        assert "another folder" in caught.value.remedy
        other.kill()
    with files.exclusive_lock(tmp_path):
        pass
