"""`accuracy` and its graders, one per file. Imports nothing of `rewards`, `registry`, `adapters`, `command_line`."""

from covt_rewards.accuracy.accuracy_reward import AccuracyReward, grade
from covt_rewards.accuracy.gold_kinds import choose_grader

__all__ = ["AccuracyReward", "choose_grader", "grade"]
