"""Rollouts step by step: each prompt once, what was journalled is not sampled again, groups without spread go."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from covt_data.ingest.prepare import prepare
from covt_data.schema import Row
from covt_model.latent_config import LatentConfig
from covt_rl.rl_recipe import RlConfig
from covt_rl.rollouts.journal import Journal
from covt_rl.rollouts.rollout_stream import RolloutStream, training_stream
from covt_rl.scoring.collected import Collected
from covt_rl.scoring.score_groups import build_rewards
from covt_rollout.client.completions import Completion

LATENT = LatentConfig(start_id=100, pad_id=101, end_id=102, size=2)
IDS = [f"r{n}" for n in range(10)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared set of ten prompts."""
    folder = tmp_path_factory.mktemp("prompts")
    lines = [json.dumps({"id": name, "question": f"{name}?", "answer": "B3", "grader": "text"}) for name in IDS]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    prepare("jsonl", folder / "set", options={"path": str(folder / "rows.jsonl"), "split": "prompts"})
    return folder / "set"


def completion(row: Row, index: int, text: str) -> Completion:
    return Completion(
        group_id=row.id,
        sample_index=index,
        prompt_ids=(1,),
        token_ids=(100, 101, 101, 102, 7),
        logprobs=(-0.1, 0.0, 0.0, 0.0, -0.2),
        text=text,
        finish_reason="stop",
        latent_spans=((1, 3),),
    )


class Sampler:
    """Answers as the server would; even rows get one right answer of two, odd rows none."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def collect(self, rows: Sequence[Row], step: int, turn: int = 0) -> Collected:
        self.asked.append([row.id for row in rows])
        groups = [
            [completion(row, i, "\\boxed{B3}" if i == 0 and int(row.id[1:]) % 2 == 0 else "no") for i in range(2)]
            for row in rows
        ]
        latents = [[np.full((2, 3), n, np.float32) for n in range(2)] for _ in rows]
        return Collected(groups, [[[] for _ in group] for group in groups], latents=cast("Any", latents))


def source(
    data: Path,
    folder: Path,
    sampler: Sampler,
    notes: list[str],
    dynamic: int = 0,
    skip: frozenset[int] = frozenset(),
    **algorithm: Any,
) -> RolloutStream:
    config = RlConfig.model_validate(
        {"rollout": {"prompts": 4, "samples": 2, "dynamic": dynamic}, "algorithm": algorithm}
    )
    rewards = build_rewards(config.rewards.model_copy(update={"use": "accuracy"}), config.prompt, LATENT)
    return RolloutStream(
        cast("Any", sampler),
        rewards,
        training_stream(data, config),
        config,
        Journal(folder),
        steps=3,
        note=notes.append,
        skip=skip,
    )


def test_an_epoch_takes_every_prompt_once_and_then_ends(data: Path, tmp_path: Path):
    sampler = Sampler()
    rollouts = source(data, tmp_path, sampler, [])
    taken = [rollouts.take(step, step) for step in range(3)]
    ids = [group.row_id for one in taken if one is not None for group in one.groups]
    assert sorted(ids) == IDS
    assert [one and len(one.groups) for one in taken] == [4, 4, 2]
    assert rollouts.take(3, 3) is None


def test_what_was_journalled_is_read_back_and_not_sampled_again(data: Path, tmp_path: Path):
    first, second = Sampler(), Sampler()
    written = source(data, tmp_path, first, []).take(0, 0)
    resumed = source(data, tmp_path, second, [])
    read = resumed.take(0, 5)
    assert second.asked == []
    assert written is not None and read is not None
    assert json.dumps(read.metrics) == json.dumps(written.metrics)
    assert (read.cursor, read.weights) == (4, 0)
    for before, after in zip(written.groups, read.groups, strict=True):
        assert (before.completions, before.totals, before.values) == (after.completions, after.totals, after.values)
        np.testing.assert_array_equal(cast("Any", before.latents), cast("Any", after.latents))
    following = resumed.take(1, 1)
    assert following is not None
    assert not {group.row_id for group in read.groups} & {group.row_id for group in following.groups}


def test_groups_without_spread_are_replaced_within_bounds(data: Path, tmp_path: Path):
    sampler, notes = Sampler(), []
    rollouts = source(data, tmp_path, sampler, notes, dynamic=1)
    one = rollouts.take(0, 0)
    assert one is not None
    assert all(group.has_spread for group in one.groups)
    asked = [name for part in sampler.asked for name in part]
    assert len(sampler.asked) == 2 and len(set(asked)) == len(asked) == one.cursor
    assert one.metrics["dynamic/dropped_groups"] == len(asked) - len(one.groups)
    assert (len(one.groups) < 4) == bool(notes)


def test_rollouts_ahead_are_those_of_the_next_step(data: Path, tmp_path: Path):
    rollouts = source(data, tmp_path, Sampler(), [])
    first = rollouts.take(0, 0)
    rollouts.begin(1, 0)
    rollouts.settle()
    assert rollouts.has(1)
    second = rollouts.take(1, 1)
    assert first is not None and second is not None
    assert second.weights == 0 and second.cursor == 8
    rollouts.close()


def test_old_journals_are_removed(data: Path, tmp_path: Path):
    rollouts = source(data, tmp_path, Sampler(), [])
    for step in range(3):
        rollouts.take(step, step)
    rollouts.journal.forget_before(2)
    assert [rollouts.has(step) for step in range(3)] == [False, False, True]


@pytest.mark.parametrize("left_out", [{0}, {3, 7}, {0, 1, 2, 3, 4, 5, 6}])
def test_an_epoch_without_the_rows_that_are_left_out_ends_with_the_last_good_one(
    data: Path, tmp_path: Path, left_out: set[int]
):
    sampler = Sampler()
    rollouts = source(data, tmp_path, sampler, [], skip=frozenset(left_out))
    while rollouts.cursor < len(IDS):
        assert rollouts.take(step := len(sampler.asked), step) is not None
    assert rollouts.take(9, 9) is None
    asked = [name for part in sampler.asked for name in part]
    assert sorted(asked) == sorted(name for number, name in enumerate(IDS) if number not in left_out)
    assert all(sampler.asked)


def test_a_run_of_a_number_of_steps_goes_through_the_rows_again_without_them(data: Path, tmp_path: Path):
    sampler = Sampler()
    rollouts = source(data, tmp_path, sampler, [], skip=frozenset({2, 5}), steps=5)
    for step in range(5):
        taken = rollouts.take(step, step)
        assert taken is not None and len(taken.groups) == 4
    asked = [name for part in sampler.asked for name in part]
    assert len(asked) == 20 and {"r2", "r5"}.isdisjoint(asked)
