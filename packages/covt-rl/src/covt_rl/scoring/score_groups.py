"""Completions → rewards → advantages, group by group."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, pstdev
from typing import Any

import torch

from covt_data.schema import Row
from covt_model.latent_config import LatentConfig
from covt_rewards import ConfiguredReward, Group, LatentFormat, Rollout, Scores, parse_rewards, score_groups
from covt_rl.algorithms.advantage_registry import load_advantage
from covt_rl.algorithms.advantages import group_has_spread
from covt_rl.rl_recipe import AlgorithmSection, RewardsSection
from covt_rl.scoring.collected import Collected
from covt_rl.scoring.reward_process import guard
from covt_rollout.client.completions import Completion
from covt_rollout.vllm_plugin.protocol import Latents
from covt_runtime.recipe_schema import PromptSection

ANSWER_MARK = {"boxed": "boxed", "answer": "tag"}
NECESSITY = "necessity"


@dataclass(frozen=True)
class ScoredGroup:
    """The rollouts of one prompt with their rewards.

    Attributes:
        row_id: the prompt's row.
        completions: the rollouts.
        ablated, control: the continuations of each rollout, with its latents changed and kept.
        totals: weighted sums of the rewards.
        advantages: empty until `with_advantages`.
        values: unweighted rewards by name, per completion.
        latents: the server's [pads, H] of each completion, where they are to be replayed.
    """

    row_id: str
    completions: tuple[Completion, ...]
    ablated: tuple[tuple[Completion, ...], ...]
    totals: tuple[float, ...]
    advantages: tuple[float, ...]
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
    rewards = parse_rewards(spec, settings=settings, common={"latent": ids})
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
    return Rollout.from_json(completion.to_json())


def score(
    rows: Sequence[Row], collected: Collected, rewards: Sequence[ConfiguredReward]
) -> tuple[list[ScoredGroup], Scores]:
    """Score every group. Advantages are computed later, from the groups that are trained on."""
    control = collected.control or [[] for _ in rows]
    groups = [
        to_group(row, own, without, same)
        for row, own, without, same in zip(rows, collected.completions, collected.ablated, control, strict=True)
    ]
    scores = score_groups(groups, rewards)
    latents = collected.latents or [[] for _ in rows]
    scored = [
        ScoredGroup(
            row_id=row.id,
            completions=tuple(own),
            ablated=tuple(tuple(each) for each in without),
            totals=result.totals,
            advantages=(),
            values=result.values,
            control=tuple(tuple(each) for each in same),
            latents=tuple(held),
        )
        for row, own, without, same, held, result in zip(
            rows, collected.completions, collected.ablated, control, latents, scores.groups, strict=True
        )
    ]
    return scored, scores


def with_advantages(
    scored: Sequence[ScoredGroup],
    rewards: Sequence[ConfiguredReward],
    algorithm: AlgorithmSection,
    penalties: Sequence[Sequence[float]] | None = None,
) -> list[ScoredGroup]:
    """Compute the advantages of a step's groups.

    Args:
        scored: the groups.
        rewards: the recipe's rewards with their weights.
        algorithm: names the advantage, and says whether it normalizes the total or each reward.
        penalties: subtracted from the totals, for each rollout (the KL in the reward).

    Raises:
        RewardError: an advantage of the user's own can't be loaded.
    """
    if not scored:
        return []
    if penalties is not None:
        scored = [
            replace(group, totals=tuple(t - p for t, p in zip(group.totals, each, strict=True)))
            for group, each in zip(scored, penalties, strict=True)
        ]
    groups = torch.tensor([number for number, group in enumerate(scored) for _ in group.totals])
    lengths = torch.tensor([sampled_tokens(one) for group in scored for one in group.completions])
    advantage = load_advantage(algorithm.advantage)
    if algorithm.normalize == "total":
        totals = torch.tensor([total for group in scored for total in group.totals], dtype=torch.float64)
        flat = advantage(totals, groups, lengths)
    else:
        flat = torch.zeros(len(groups), dtype=torch.float64)
        for reward in rewards:
            values = torch.tensor([v for group in scored for v in group.values[reward.name]], dtype=torch.float64)
            flat += reward.weight * advantage(values, groups, lengths)
    parts = flat.split([len(group.totals) for group in scored])
    return [replace(group, advantages=tuple(part.tolist())) for group, part in zip(scored, parts, strict=True)]


def _have_spread(totals: Sequence[float]) -> bool:
    """Whether the totals of one group differ by more than rounding."""
    together = torch.zeros(len(totals), dtype=torch.int64)
    return bool(group_has_spread(torch.tensor(totals, dtype=torch.float64), together).any())


def sampled_tokens(completion: Completion) -> int:
    """Tokens that the policy chose: neither pads nor the end marker that is forced after them."""
    pads = sum(end - start for start, end in completion.latent_spans)
    ends = sum(end < len(completion.token_ids) for _, end in completion.latent_spans)
    return len(completion.token_ids) - pads - ends


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
