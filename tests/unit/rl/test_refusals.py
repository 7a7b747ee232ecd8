"""What is refused before a training starts, with numbers and a remedy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from recording_server import Recorder, with_server

from covt_data.ingest.prepare import prepare
from covt_data.schema import Row
from covt_data.store.prepared_set import PreparedSet
from covt_model.latent_config import LatentConfig
from covt_rl.planning import checks
from covt_rl.planning.checks import check_golds, check_server
from covt_rl.rl_errors import RlError
from covt_rl.rl_recipe import RlConfig
from covt_rl.scoring.score_groups import build_rewards
from covt_rl.training.train import plan

LATENT = LatentConfig(start_id=100, pad_id=101, end_id=102, size=2)


def prepared(folder: Path, *rows: dict[str, Any], split: str = "prompts") -> Path:
    folder.mkdir()
    lines = [json.dumps({"id": f"r{n}", "question": f"{n}?"} | row) for n, row in enumerate(rows)]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    prepare("jsonl", folder / "set", options={"path": str(folder / "rows.jsonl"), "split": split})
    return folder / "set"


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return prepared(tmp_path / "good", {"answer": "B3"}, {"answer": "A1"})


class Rows:
    """A set that our preparation would not have written: its second row's grader wants a map that isn't there."""

    def rows(self, split: str, limit: int | None = None) -> Iterator[Row]:
        shared: dict[str, Any] = {"source": "s", "split": split, "question": "where?", "metadata": "{}"}
        yield Row(id="r0", answer="B3", grader="text", **shared)
        yield Row(id="r1", answer="LR", grader="vsp", **shared)


def check(data: Any, /, **sections: Any) -> None:
    config = RlConfig.model_validate(sections)
    check_golds(data, config, build_rewards(config.rewards, config.prompt, LATENT))


@pytest.mark.parametrize("use", ["accuracy", "format,necessity", "format"])
def test_a_gold_answer_that_the_accuracy_reward_can_t_read_is_named(good: Path, use: str):
    """Also where only ν needs it."""
    check(PreparedSet(good), rewards={"use": use})
    with pytest.raises(RlError, match=r"row r1 of prompts: .*needs its map in metadata\.rows") as caught:
        check(Rows(), rewards={"use": use})
    assert "prepare the data again" in caught.value.remedy


def test_all_gold_answers_that_cannot_be_read_are_named_at_once(good: Path):
    class Two(Rows):
        def rows(self, split: str, limit: int | None = None) -> Iterator[Row]:
            yield from super().rows(split, limit)
            yield Row(id="r2", answer="???", grader="math", source="s", split=split, question="q", metadata="{}")

    with pytest.raises(RlError, match=r"^2 gold answers cannot be read: row r1 of prompts: .*; row r2 of prompts: "):
        check(Two())


def test_so_is_one_of_a_set_that_is_mixed_in(good: Path, monkeypatch: pytest.MonkeyPatch):
    own = PreparedSet(good)
    monkeypatch.setattr(checks, "PreparedSet", lambda _path: Rows())
    with pytest.raises(RlError, match="row r1 of other of elsewhere: "):
        check(own, data={"split": "prompts", "mix": [{"path": "elsewhere", "split": "other"}]})


@pytest.mark.parametrize(
    ("sections", "message", "remedy"),
    [
        ({"data": {"split": "nowhere"}}, "has no split 'nowhere'", "choose one of prompts"),
        ({"eval": {"every": 1, "split": "test"}}, "has no split 'test'", "choose one of prompts"),
        ({"rollout": {"prompts": 3}}, "rollout.prompts = 3, the set has 2", "use fewer prompts per step"),
        ({"data": {"mix": [{"path": "SET", "split": "prompts"}]}}, "data.mix has no epoch", "set algorithm.steps"),
    ],
)
def test_a_plan_that_the_data_can_t_fill_is_refused(
    good: Path, tmp_path: Path, sections: dict[str, Any], message: str, remedy: str
):
    (tmp_path / "config.json").write_text("{}")
    LATENT.write(tmp_path)
    values: dict[str, Any] = {"model": {"path": str(tmp_path)}, "rollout": {"prompts": 1}, **sections}
    data = {"path": str(good), "split": "prompts"} | sections.get("data", {})
    data["mix"] = [mixed | {"path": str(good)} for mixed in data.get("mix", [])]
    with pytest.raises(RlError, match=message) as caught:
        plan(RlConfig.model_validate(values | {"data": data}))
    assert remedy in caught.value.remedy


def test_a_server_with_another_tokenizer_is_refused_before_it_is_asked_for_a_token():
    ours, other = Recorder(), Recorder()
    # The client's `decode` is `str`.
    ours.text, other.text = str(list(range(100))), "something else"
    with pytest.raises(RlError, match=r"has another tokenizer: ids \[0, 1, 2\]… are 'something else'") as caught:
        with_server([ours, other], check_server)
    assert "serve the checkpoint that is trained" in caught.value.remedy
    assert other.calls == ["/detokenize"]
