"""Completions → rewards, group by group."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from statistics import fmean, pstdev
from typing import Any

import torch

from covt_data.schema import Row
from covt_model.latent_config import LatentConfig
from covt_rewards import ConfiguredReward, Group, LatentFormat, Rollout, Scores, parse_rewards, score_groups
from covt_rl.algorithms.advantages import group_has_spread
from covt_rl.rl_recipe import RewardsSection
from covt_rl.scoring.collected import Collected
from covt_rl.scoring.reward_process import guard
from covt_rl.scoring.shared_accuracy import share_accuracy
from covt_rollout.client.completions import Completion
from covt_rollout.vllm_plugin.protocol import Latents
from covt_runtime.recipe_schema import PromptSection

ANSWER_MARK = {"boxed": "boxed", "answer": "tag"}
NECESSITY = "necessity"
MOST_WORKERS = 8
"""Groups that are scored side by side; mathematical answers are compared in as many processes."""


@dataclass(frozen=True)
class ScoredGroup:
    """The rollouts of one prompt with their rewards.

    Attributes:
        row_id: the prompt's row.
        completions: the rollouts.
        ablated, control: the continuations of each rollout, with its latents changed and kept.
        totals: weighted sums of the rewards.
        values: unweighted rewards by name, per completion.
        latents: the server's [pads, H] of each completion, where they are to be replayed.
    """

    row_id: str
    completions: tuple[Completion, ...]
    ablated: tuple[tuple[Completion, ...], ...]
    totals: tuple[float, ...]
    values: dict[str, list[float]]
    control: tuple[tuple[Completion, ...], ...] = ()
    latents: tuple[Latents | None, ...] = ()

    @property
    def has_spread(self) -> bool:
        """Whether the rollouts differ in their totals; nothing can be learned from a group in which they are equal."""
        return _have_spread(self.totals)


def build_rewards(
    section: RewardsSection, prompt: PromptSection, latent: LatentConfig, max_tokens: int | None = None
) -> list[ConfiguredReward]:
    """The recipe's rewards, plus necessity at weight 0 where it is not among them, so that ν is always logged.

    A reward of the user's own scores in another process.

    Args:
        section: the recipe's `[rewards]`.
        prompt: where the answer stands, for the `format` reward.
        latent: latent settings of the checkpoint.
        max_tokens: greatest length of a rollout, for the soft length penalty.

    Raises:
        RewardError: an unknown name, with the nearest one.
    """
    ids = LatentFormat(start_id=latent.start_id, pad_id=latent.pad_id, end_id=latent.end_id, size=latent.size)
    names = [item.partition("=")[0].strip() for item in section.use.split(",")]
    spec = section.use if NECESSITY in names else f"{section.use},{NECESSITY}=0"
    settings: dict[str, dict[str, object]] = {}
    if "format" in names:
        settings["format"] = {"answer": ANSWER_MARK[prompt.format]}
    if "length" in names and max_tokens is not None:
        settings["length"] = {"max_tokens": max_tokens, "buffer": max(1, max_tokens // 4)}
    for name, given in section.settings.items():
        settings[name] = settings.get(name, {}) | given
    rewards = share_accuracy(parse_rewards(spec, settings=settings, common={"latent": ids}))
    return [guard(reward, settings.get(reward.name, {}), names, section.time_limit) for reward in rewards]


def to_group(
    row: Row,
    completions: Sequence[Completion],
    ablated: Sequence[Sequence[Completion]],
    control: Sequence[Sequence[Completion]] = (),
) -> Group:
    """A rewards group of one row's completions and their continuations."""
    kept = control or [()] * len(completions)
    rollouts = tuple(
        replace(_rollout(one), ablated=tuple(map(_rollout, without)), control=tuple(map(_rollout, same)))
        for one, without, same in zip(completions, ablated, kept, strict=True)
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
    return Rollout(**{field.name: getattr(completion, field.name) for field in fields(completion)})


def score(
    rows: Sequence[Row], collected: Collected, rewards: Sequence[ConfiguredReward]
) -> tuple[list[ScoredGroup], Scores]:
    """Score every group. Advantages are computed later, from the groups that are trained on."""
    control = collected.control or [[] for _ in rows]
    groups = [
        to_group(row, own, without, same)
        for row, own, without, same in zip(rows, collected.completions, collected.ablated, control, strict=True)
    ]
    scores = score_groups(groups, rewards, workers=min(MOST_WORKERS, os.cpu_count() or 1))
    latents = collected.latents or [[] for _ in rows]
    scored = [
        ScoredGroup(
            row_id=row.id,
            completions=tuple(own),
            ablated=tuple(tuple(each) for each in without),
            totals=result.totals,
            values=result.values,
            control=tuple(tuple(each) for each in same),
            latents=tuple(held),
        )
        for row, own, without, same, held, result in zip(
            rows, collected.completions, collected.ablated, control, latents, scores.groups, strict=True
        )
    ]
    return scored, scores


def _have_spread(totals: Sequence[float]) -> bool:
    """Whether the totals of one group differ by more than rounding."""
    together = torch.zeros(len(totals), dtype=torch.int64)
    return bool(group_has_spread(torch.tensor(totals, dtype=torch.float64), together).any())


def metrics(scores: Scores) -> dict[str, float]:
    """`reward`, `reward_std`, `frac_reward_zero_std`, `rewards/<name>/mean|std`, `necessity/*`, failures."""
    result: dict[str, Any] = {
        "reward": fmean(total for group in scores.groups for total in group.totals),
        "reward_std": fmean(pstdev(group.totals) for group in scores.groups),
        "frac_reward_zero_std": fmean(float(not _have_spread(group.totals)) for group in scores.groups),
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
