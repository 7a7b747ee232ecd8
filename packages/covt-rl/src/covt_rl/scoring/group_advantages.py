"""Rewards → advantages, for all groups of a step together."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from covt_rewards import ConfiguredReward
from covt_rl.algorithms.advantage_registry import load_advantage
from covt_rl.rl_recipe import AlgorithmSection
from covt_rl.scoring.train_groups import TrainGroup


def with_advantages(
    groups: Sequence[TrainGroup],
    rewards: Sequence[ConfiguredReward],
    algorithm: AlgorithmSection,
    penalties: Sequence[Sequence[float]] | None = None,
) -> list[TrainGroup]:
    """Compute the advantages of a step's groups.

    Args:
        groups: the groups.
        rewards: the recipe's rewards with their weights.
        algorithm: names the advantage, and says whether it normalizes the total or each reward.
        penalties: subtracted from the totals, for each rollout (the KL in the reward).

    Raises:
        RewardError: an advantage of the user's own can't be loaded.
    """
    if not groups:
        return []
    if penalties is not None:
        groups = [
            replace(group, totals=tuple(t - p for t, p in zip(group.totals, each, strict=True)))
            for group, each in zip(groups, penalties, strict=True)
        ]
    index = torch.tensor([number for number, group in enumerate(groups) for _ in group.totals])
    lengths = torch.tensor([one.sampled_tokens for group in groups for one in group.completions])
    advantage = load_advantage(algorithm.advantage)
    if algorithm.normalize == "total":
        totals = torch.tensor([total for group in groups for total in group.totals], dtype=torch.float64)
        flat = advantage(totals, index, lengths)
    else:
        flat = torch.zeros(len(index), dtype=torch.float64)
        for reward in rewards:
            values = torch.tensor([v for group in groups for v in group.values[reward.name]], dtype=torch.float64)
            flat += reward.weight * advantage(values, index, lengths)
    parts = flat.split([len(group.totals) for group in groups])
    return [replace(group, advantages=tuple(part.tolist())) for group, part in zip(groups, parts, strict=True)]
