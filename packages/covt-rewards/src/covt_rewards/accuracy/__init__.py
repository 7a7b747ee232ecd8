"""`accuracy` and its graders, one per file. Imports nothing of `rewards`, `registry`, `adapters`, `command_line`."""

from covt_rewards.accuracy.accuracy_reward import AccuracyReward, grade

__all__ = ["AccuracyReward", "grade"]
