"""Completions → rewards → advantages, group by group."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, pstdev
from typing import Any

import torch
from torch import Tensor

from covt_data.schema import Row
from covt_model.config import LatentConfig
from covt_rewards import ConfiguredReward, Group, LatentFormat, Rollout, Scores, parse_rewards, score_groups
from covt_rl.algorithms.advantages import group_relative, leave_one_out
from covt_rl.config import AlgorithmSection, RewardsSection
from covt_rl.records import Completion
from covt_runtime.sections import PromptSection

ANSWER_MARK = {"boxed": "boxed", "answer": "tag"}
NECESSITY = "necessity"


@dataclass(frozen=True)
class Judged:
    """Rollouts of one prompt with what they were worth."""

    row_id: str
    completions: tuple[Completion, ...]
    ablated: tuple[tuple[Completion, ...], ...]
    """Counterfactual continuations, per completion."""
    totals: tuple[float, ...]
    advantages: tuple[float, ...]
    values: dict[str, list[float]]
    """Unweighted rewards by name, per completion."""


def build_rewards(section: RewardsSection, prompt: PromptSection, latent: LatentConfig) -> list[ConfiguredReward]:
    """The recipe's rewards, plus necessity at weight 0 where it is not among them, so that ν is always logged.

    Raises:
        RewardError: an unknown name, with the nearest one.
    """
    ids = LatentFormat(start_id=latent.start_id, pad_id=latent.pad_id, end_id=latent.end_id, size=latent.size)
    names = [item.partition("=")[0].strip() for item in section.use.split(",")]
    spec = section.use if NECESSITY in names else f"{section.use},{NECESSITY}=0"
    settings = {"format": {"answer": ANSWER_MARK[prompt.format]}} if "format" in names else {}
    return parse_rewards(spec, settings=settings, common={"latent": ids})


def to_group(row: Row, completions: Sequence[Completion], ablated: Sequence[Sequence[Completion]]) -> Group:
    """A rewards group of one row's completions and their counterfactual continuations."""
    rollouts = tuple(
        replace(_rollout(one), ablated=tuple(_rollout(each) for each in continuations))
        for one, continuations in zip(completions, ablated, strict=True)
    )
    return Group(
        id=row.id,
        prompt=row.question,
        answer=row.answer,
        grader=row.grader,
        options=tuple(row.options),
        metadata=json.loads(row.metadata),
        rollouts=rollouts,
    )


def _rollout(completion: Completion) -> Rollout:
    return Rollout.from_json(completion.to_json())


def judge(
    rows: Sequence[Row],
    completions: Sequence[Sequence[Completion]],
    ablated: Sequence[Sequence[Sequence[Completion]]],
    rewards: Sequence[ConfiguredReward],
    algorithm: AlgorithmSection,
) -> tuple[list[Judged], dict[str, float]]:
    """Score every group and turn the scores into advantages; also the metrics for the log, in TRL's names."""
    groups = [to_group(row, own, extra) for row, own, extra in zip(rows, completions, ablated, strict=True)]
    scores = score_groups(groups, rewards)
    flat = advantages(scores, rewards, algorithm).split([len(group.totals) for group in scores.groups])
    judged = [
        Judged(
            row_id=row.id,
            completions=tuple(own),
            ablated=tuple(tuple(each) for each in extra),
            totals=score.totals,
            advantages=tuple(part.tolist()),
            values=score.values,
        )
        for row, own, extra, score, part in zip(rows, completions, ablated, scores.groups, flat, strict=True)
    ]
    return judged, metrics(scores)


def advantages(scores: Scores, rewards: Sequence[ConfiguredReward], algorithm: AlgorithmSection) -> Tensor:
    """[N], one a rollout in the groups' order."""
    groups = torch.tensor([number for number, group in enumerate(scores.groups) for _ in group.totals])
    if algorithm.normalize == "total":
        return _advantage(torch.tensor([total for group in scores.groups for total in group.totals]), groups, algorithm)
    summed = torch.zeros(len(groups))
    for reward in rewards:
        values = torch.tensor([value for group in scores.groups for value in group.values[reward.name]])
        summed += reward.weight * _advantage(values, groups, algorithm)
    return summed


def _advantage(rewards: Tensor, groups: Tensor, algorithm: AlgorithmSection) -> Tensor:
    if algorithm.advantage == "rloo":
        return leave_one_out(rewards, groups)
    return group_relative(rewards, groups, scale=algorithm.advantage == "grpo")


def metrics(scores: Scores) -> dict[str, float]:
    """`reward`, `reward_std`, `frac_reward_zero_std`, `rewards/<name>/mean|std`, `necessity/*`, failures."""
    spreads = [pstdev(group.totals) for group in scores.groups]
    result: dict[str, Any] = {
        "reward": fmean(total for group in scores.groups for total in group.totals),
        "reward_std": fmean(spreads),
        "frac_reward_zero_std": fmean(float(spread == 0) for spread in spreads),
    }
    for name in scores.groups[0].results:
        values = [value for group in scores.groups for value in group.values[name]]
        result[f"rewards/{name}/mean"] = fmean(values)
        result[f"rewards/{name}/std"] = pstdev(values)
    for part in ("nu", "used", "accuracy_ablated"):
        found = [parts[part] for group in scores.groups for parts in group.parts[NECESSITY] if part in parts]
        if found:
            result[f"necessity/{part}"] = fmean(found)
    return result | {f"rewards/{name}/failures": float(count) for name, count in scores.failures.items()}
