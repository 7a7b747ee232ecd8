"""A process's place among the ranks, read from the environment of the common launchers."""

import pytest

from covt_runtime.process_environment import (
    is_main_process,
    launched_from_outside,
    place_in_group,
    ranks_here,
    visible_gpus,
)
from covt_runtime.runtime_errors import LaunchError

TORCHRUN = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
SRUN = {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8", "MASTER_ADDR": "a", "MASTER_PORT": "1"}


@pytest.mark.parametrize(("env", "place"), [(TORCHRUN, (3, 1, 4)), (SRUN, (5, 1, 8))])
def test_the_place_is_read_from_torchrun_or_slurm(env: dict[str, str], place: tuple[int, int, int]) -> None:
    assert launched_from_outside(env)
    assert place_in_group(env) == place


def test_a_plain_process_and_one_inside_a_slurm_allocation_start_their_own_ranks() -> None:
    assert not launched_from_outside({})
    assert not launched_from_outside({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"})


def test_a_stray_rank_is_an_error_that_names_what_is_missing() -> None:
    with pytest.raises(LaunchError, match="LOCAL_RANK, WORLD_SIZE") as error:
        place_in_group({"RANK": "0"})
    assert "torchrun" in error.value.remedy


def test_one_process_speaks_for_a_training() -> None:
    assert is_main_process({})
    assert is_main_process(TORCHRUN | {"RANK": "0", "LOCAL_RANK": "0"})
    assert not is_main_process(TORCHRUN) and not is_main_process(SRUN)


@pytest.mark.parametrize(
    ("env", "here"),
    [
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "2"}, (2, False)),
        (TORCHRUN | {"RANK": "1", "LOCAL_SIZE": "2"}, (2, True)),
        (SRUN | {"SLURM_NTASKS_PER_NODE": "4"}, (4, False)),
        (SRUN | {"SLURM_PROCID": "1"}, (8, True)),
    ],
)
def test_a_machine_knows_its_ranks_and_whether_it_has_rank_0(env: dict[str, str], here: tuple[int, bool]) -> None:
    assert ranks_here(env) == here


def test_gpus_are_those_the_process_may_see() -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "0,3"}) == 2
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == 0
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == 0
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "0", "DS_ACCELERATOR": "cpu"}) == 0
