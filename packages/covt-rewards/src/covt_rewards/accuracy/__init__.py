"""`accuracy`: the gold answer against the completion's, one grader a file."""

from covt_rewards.accuracy.accuracy_reward import AccuracyReward

__all__ = ["AccuracyReward"]
