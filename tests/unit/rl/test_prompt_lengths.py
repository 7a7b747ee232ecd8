"""Prompts without room for an answer: every row is read by one rank, and one long prompt need not end a run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from covt_data.ingest.prepare import prepare
from covt_rl.planning.prompt_lengths import (
    find_long_prompts,
    reachable_rows,
    refuse_long_prompts,
    share_of_rank,
)
from covt_rl.rl_errors import RlError
from covt_rl.rl_recipe import RlConfig
from covt_rl.rollouts.rollout_stream import training_stream

LENGTHS = [10, 90, 20, 95, 30]


class Words:
    """An encoder of which every word of the question is a token; it remembers what it encoded."""

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode_prompt(self, row: Any) -> Any:
        self.encoded.append(row.id)
        return SimpleNamespace(expanded=np.zeros(len(row.question.split())))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    lines = [
        json.dumps({"id": f"r{n}", "question": " ".join(["word"] * size), "answer": "B3", "grader": "text"})
        for n, size in enumerate(LENGTHS)
    ]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    prepare("jsonl", folder / "set", options={"path": str(folder / "rows.jsonl"), "split": "prompts"})
    return folder / "set"


def config(**sections: Any) -> RlConfig:
    values: dict[str, dict[str, Any]] = {"rollout": {"max_tokens": 10, "prompts": 2}, "data": {"max_length": 100}}
    for name, section in sections.items():
        values[name] = values.get(name, {}) | section
    return RlConfig.model_validate(values)


def found(data: Path, recipe: RlConfig, ranks: int = 2) -> tuple[list[Any], list[list[str]], int]:
    """Long prompts, what each rank encoded, and the number of rows that were looked at."""
    stream = training_stream(data, recipe)
    indexes = reachable_rows(stream, recipe, recipe.algorithm.steps or 3)
    encoders = [Words() for _ in range(ranks)]
    parts = [
        find_long_prompts(stream.rows, share_of_rank(indexes, rank, ranks), cast("Any", encoder), recipe)
        for rank, encoder in enumerate(encoders)
    ]
    return [one for part in parts for one in part], [encoder.encoded for encoder in encoders], len(indexes)


@given(st.lists(st.integers(0, 1000), unique=True).map(sorted), st.integers(1, 9))
def test_the_ranks_share_the_rows_in_runs_of_stored_neighbors(indexes: list[int], ranks: int):
    shares = [share_of_rank(indexes, rank, ranks) for rank in range(ranks)]
    assert [index for share in shares for index in share] == indexes
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_each_row_is_encoded_by_one_rank(data: Path):
    long, encoded, total = found(data, config())
    assert [name for names in encoded for name in names] == [f"r{n}" for n in range(5)]
    assert [(one.row_id, one.length) for one in long] == [("r3", 95)]
    assert total == 5
    assert [one.row_id for one in found(data, config(server={"max_model_len": 99}))[0]] == ["r1", "r3"]


def test_a_short_run_looks_at_the_rows_that_it_can_sample_only(data: Path):
    recipe = config(algorithm={"steps": 1})
    stream = training_stream(data, recipe)
    assert reachable_rows(stream, recipe, 1) == sorted({stream.index(0), stream.index(1)})
    _, encoded, total = found(data, recipe)
    assert sum(map(len, encoded)) == total == 2
    assert len(reachable_rows(stream, config(algorithm={"steps": 1}, rollout={"dynamic": 1}), 1)) == 4
    assert len(reachable_rows(stream, config(algorithm={"steps": 9}), 9)) == 5


def test_a_long_prompt_is_refused_by_name_with_the_settings_that_help(data: Path):
    recipe = config(server={"max_model_len": 99})
    long, _, total = found(data, recipe)
    with pytest.raises(RlError, match=r"2 of 5 prompts are too long: r3 \(95 tokens\), r1 \(90 tokens\)") as caught:
        refuse_long_prompts(long, total, recipe)
    assert "exceed server.max_model_len = 99" in str(caught.value)
    assert caught.value.remedy.startswith("raise server.max_model_len")
    assert "data.on_bad=skip" in caught.value.remedy
    refuse_long_prompts([], total, recipe)


def test_it_is_left_out_where_the_recipe_says_so_but_not_all_of_them(data: Path):
    recipe = config(data={"on_bad": "skip", "max_length": 100})
    long, _, total = found(data, recipe)
    refuse_long_prompts(long, total, recipe)
    short = config(data={"on_bad": "skip", "max_length": 15})
    with pytest.raises(RlError, match="5 of 5 prompts are too long") as caught:
        refuse_long_prompts(*(found(data, short)[part] for part in (0, 2)), short)
    assert "on_bad" not in caught.value.remedy
