"""Where new weights are written: what killed runs left goes, and a folder without room is said in one sentence."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from covt_rollout.rollout_errors import WeightPushError
from covt_rollout.server.weight_root import PREFIX, host_name, remove_stale_folders, weights_root
from covt_rollout.weights.weight_files import ServedNames, write_weights
from covt_rollout.weights.weight_folder import check_room, scratch_folder


@pytest.fixture(scope="module")
def dead() -> int:
    """The id of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


@pytest.mark.parametrize("name", ["{pid}-x", "{pid}@{host}-x"], ids=["of an older release", "of this one"])
def test_folders_of_dead_publishers_are_removed_and_those_of_living_ones_kept(
    tmp_path: Path, dead: int, name: str
) -> None:
    gone, living = (tmp_path / (PREFIX + name.format(pid=pid, host=host_name())) for pid in (dead, 1))
    gone.mkdir()
    living.mkdir()
    with scratch_folder(tmp_path) as folder:
        assert folder.is_dir()
        assert not gone.exists()
        assert living.exists()
    assert not folder.exists()


def test_a_folder_of_another_machine_s_publisher_is_kept(tmp_path: Path, dead: int) -> None:
    """Its process can't be seen from here."""
    theirs = tmp_path / f"{PREFIX}{dead}@another-host-1-x"
    theirs.mkdir()
    remove_stale_folders(tmp_path)
    assert theirs.is_dir()


def test_a_folder_that_can_t_be_written_is_named() -> None:
    with pytest.raises(WeightPushError, match="/proc/nowhere") as caught, scratch_folder(Path("/proc/nowhere")):
        pass
    assert "rollout.weight_folder" in caught.value.remedy


def test_room_for_two_copies_is_asked_for_before_anything_is_written(tmp_path: Path) -> None:
    check_room(tmp_path, 1024)
    with pytest.raises(WeightPushError, match=r"GiB are free; 2 copies of the model need 2097152\.00 GiB") as caught:
        check_room(tmp_path, float(1 << 50))
    assert "rollout.weight_folder" in caught.value.remedy and "--shm-size" in caught.value.remedy
    with pytest.raises(WeightPushError, match="nowhere"):
        check_room(tmp_path / "nowhere", 1)


def test_weights_go_to_shared_memory_unless_the_recipe_names_a_folder(tmp_path: Path) -> None:
    assert weights_root(str(tmp_path)) == tmp_path
    assert weights_root("") == weights_root() == Path("/dev/shm")


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Nothing larger can be written, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_folder_that_fills_up_is_one_sentence_with_a_remedy_and_leaves_nothing(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    save_file({"model.w": torch.zeros(4)}, checkpoint / "model.safetensors")
    names, folder = ServedNames.read(checkpoint), tmp_path / "weights"
    folder.mkdir()
    with (
        files_of_at_most(4096),
        pytest.raises(WeightPushError, match=f"can't write weights to {folder}") as caught,
        scratch_folder(folder) as scratch,
    ):
        write_weights([("model.language_model.w", torch.zeros(1 << 16))], scratch, names)
    assert "rollout.weight_folder" in caught.value.remedy
    assert list(folder.iterdir()) == []
