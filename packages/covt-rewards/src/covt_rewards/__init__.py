"""Group-aware rewards for visual reasoning RL: format, accuracy, necessity and more, without torch.

from covt_rewards import Group, Rollout, grade, parse_rewards, score_groups

rewards = parse_rewards("format,accuracy=1.0,necessity")
scores = score_groups([Group(answer="4", rollouts=(Rollout(r"\\boxed{4}"), Rollout("4?")))], rewards)
scores.groups[0].totals
grade(r"so it is \\boxed{4}", gold="4")
"""

from covt_rewards.accuracy.accuracy_reward import AccuracyReward, grade
from covt_rewards.accuracy.gold_kinds import choose_grader
from covt_rewards.answers import FinalAnswer, final_answer
from covt_rewards.latents import LatentFormat, find_latent_spans, find_whole_spans
from covt_rewards.registry import ConfiguredReward, available, load, make, parse_rewards
from covt_rewards.reward_errors import GoldError, RewardError
from covt_rewards.score import GroupScore, Scores, iter_scores, score_group, score_groups
from covt_rewards.types import Group, Reward, RewardResult, Rollout

__all__ = [
    "AccuracyReward",
    "ConfiguredReward",
    "FinalAnswer",
    "GoldError",
    "Group",
    "GroupScore",
    "LatentFormat",
    "Reward",
    "RewardError",
    "RewardResult",
    "Rollout",
    "Scores",
    "available",
    "choose_grader",
    "final_answer",
    "find_latent_spans",
    "find_whole_spans",
    "grade",
    "iter_scores",
    "load",
    "make",
    "parse_rewards",
    "score_group",
    "score_groups",
]
