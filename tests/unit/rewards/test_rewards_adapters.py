"""The adapters, called as TRL, veRL and EasyR1 call their reward functions."""

import importlib.util
import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from covt_rewards import GoldError, Group, LatentFormat, RewardError, Rollout, parse_rewards, score_groups
from covt_rewards.accuracy import AccuracyReward
from covt_rewards.adapters import easyr1, verl
from covt_rewards.adapters.trl import reward_funcs, reward_weights

EXAMPLES = Path(__file__).parents[3] / "packages" / "covt-rewards" / "examples"
MAP = {"rows": ["SFG"]}
LATENT = LatentFormat(100, 101, 102, 2)
SPAN = [100, 101, 101, 102]


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def test_trl_gives_what_the_rewards_give_for_the_same_groups() -> None:
    texts = [r"\boxed{R,R}", r"\boxed{R}", r"\boxed{7}", r"\boxed{8}"]
    answers = ["R,R", "R,R", "7", "7"]
    metadata = [MAP, MAP, {}, {}]
    functions = reward_funcs("format=0.5,accuracy")
    assert [function.__name__ for function in functions] == ["format", "accuracy"]
    assert reward_weights(functions) == [0.5, 1.0]
    groups = [
        Group("R,R", (Rollout(texts[0]), Rollout(texts[1])), metadata=MAP),
        Group("7", (Rollout(texts[2]), Rollout(texts[3]))),
    ]
    expected = score_groups(groups, parse_rewards("format,accuracy"))
    for function in functions:
        values = function(
            prompts=["walk", "walk", "add", "add"],
            completions=[chat(text) for text in texts],
            completion_ids=[[1], [1], [1], [1]],
            answer=answers,
            metadata=metadata,
            trainer_state=None,
            log_extra=None,
        )
        assert values == [value for group in expected.groups for value in group.values[function.__name__]]


def test_trl_rewards_see_the_group_its_token_ids_and_its_continuations() -> None:
    logged: dict[str, float] = {}
    (contrast,) = reward_funcs("necessity", {"necessity": {"preset": "contrast"}}, {"latent": LATENT})
    columns: dict[str, Any] = {"answer": ["7", "7", "9"], "grader": ["math"] * 3}
    ids = [SPAN, [5], SPAN]
    assert contrast(["p", "p", "q"], ["7", "8", "9"], ids, **columns) == [1.0, 0.0, 0.0]
    (necessity,) = reward_funcs("necessity", common={"latent": LATENT})
    given = {**columns, "ablated": [["8", "7"], [], ["9"]], "log_metric": logged.__setitem__}
    assert necessity(["p", "p", "q"], ["7", "8", "9"], ids, **given) == [0.5, 0.0, 0.0]
    assert logged["necessity/nu"] == 0.25


def test_trl_skips_a_group_whose_gold_answer_is_unreadable(caplog: pytest.LogCaptureFixture) -> None:
    (function,) = reward_funcs("accuracy")
    values = function(["p", "q"], ["4", "4"], None, answer=["Z", "4"], grader=["choice", "math"], options=[["a"], []])
    assert values == [None, 1.0]
    assert "GoldError" in caplog.text
    with pytest.raises(GoldError):
        AccuracyReward().check_gold(Group("Z", (), grader="choice", options=("a",)))


def test_a_missing_answer_column_is_named() -> None:
    (function,) = reward_funcs("accuracy")
    with pytest.raises(RewardError, match=r"example 0\.answer is missing"):
        function(["p"], ["4"], None)


def test_verl_calls_for_one_completion() -> None:
    """As the managers `naive` and `dapo` do, with keywords, and the reward loop's, with further ones."""
    parameters = list(inspect.signature(verl.compute_score).parameters)
    assert parameters[:4] == ["data_source", "solution_str", "ground_truth", "extra_info"]
    info = {"metadata": MAP, "index": 3, "num_turns": 2, "rollout_reward_scores": {}}
    call = {"data_source": "vsp", "solution_str": r"\boxed{R,R}", "ground_truth": "", "extra_info": info}
    expected = {"score": pytest.approx(1.0), "format": 1.0, "accuracy": 1.0, "acc": 1.0}
    assert verl.compute_score(**call) == expected
    assert verl.compute_score(**call, strict_box_verify=False, reward_router_address="host:1") == expected
    with pytest.raises(RewardError, match=r"vsp\[0\]\.options"):
        verl.compute_score("vsp", "x", "y", {"options": 5})


def test_verl_calls_by_position_where_it_wants_a_number() -> None:
    """As the manager `prime` does: task, completion, reference, extra_info."""
    function = partial(verl.compute_number, rewards="format=0.25,accuracy")
    assert [function("vsp", text, "R,R", {"metadata": MAP}) for text in (r"\boxed{R,R}", "R,R", "L")] == [
        1.25,
        1.0,
        0.0,
    ]


def test_verl_calls_for_a_batch() -> None:
    """As the manager `batch` does, with keywords in the plural."""
    batch = verl.compute_score_batch(
        data_sources=["vsp", "x"],
        solution_strs=[r"\boxed{R}", "5"],
        ground_truths=["", "5"],
        extra_infos=[{"metadata": MAP}, None],
        rewards="accuracy",
    )
    assert batch == [{"score": 0.0, "accuracy": 0.0, "acc": 0.0}, {"score": 1.0, "accuracy": 1.0, "acc": 1.0}]


SIZES = """
from covt_rewards import RewardResult

def size(group):
    return [RewardResult(10 * len(group.rollouts) + place) for place, _ in enumerate(group.rollouts)]
"""


def test_a_batch_that_verl_has_reordered_is_grouped_by_question_or_index(tmp_path: Path) -> None:
    (tmp_path / "sizes.py").write_text(SIZES)

    def sizes(sources: list[str], infos: Sequence[Mapping[str, object] | None]) -> list[float]:
        texts = ["7"] * len(sources)
        given = verl.compute_score_batch(sources, texts, texts, infos, rewards=f"{tmp_path}/sizes.py:size")
        return [record["score"] for record in given]

    by_index = [{"index": index} for index in (0, 1, 0, 0)]
    assert sizes(["a"] * 4, by_index) == [30, 10, 31, 32]
    assert sizes(["a", "b", "a", "b"], by_index) == [20, 10, 21, 10]
    assert sizes(["a"] * 3, [{"question": question} for question in "pqp"]) == [20, 10, 21]
    assert sizes(["a"] * 2, [None, None]) == [10, 10]  # equal answers alone are no group


def test_easyr1_loads_a_file_and_calls_its_function_with_a_batch() -> None:
    """As its BatchFunctionRewardManager does: module from a path, `partial` with the configured settings."""
    spec = importlib.util.spec_from_file_location("custom_reward_fn", EXAMPLES / "easyr1_reward.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (module.REWARD_NAME, module.REWARD_TYPE) == ("covt", "batch")
    function = partial(module.compute_score, rewards="format=0.5,accuracy=0.5")
    records = [
        {"response": r"\boxed{4}", "response_length": 3, "ground_truth": "4"},
        {"response": "5", "response_length": 1, "ground_truth": "4"},
    ]
    assert function(records) == [
        {"overall": 1.0, "format": 1.0, "accuracy": 1.0},
        {"overall": 0.0, "format": 0.0, "accuracy": 0.0},
    ]
    with pytest.raises(RewardError, match="reward_type=batch"):
        easyr1.compute_score(records[0])  # type: ignore[arg-type]
