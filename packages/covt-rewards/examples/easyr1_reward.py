"""Rewards for EasyR1, as its reward file. Configuration:

worker.reward.reward_type: batch
worker.reward.reward_function: easyr1_reward.py:compute_score
worker.reward.reward_function_kwargs: {rewards: "format=0.1,accuracy=0.9"}
"""

from covt_rewards.adapters.easyr1 import REWARD_NAME, REWARD_TYPE, compute_score

__all__ = ["REWARD_NAME", "REWARD_TYPE", "compute_score"]

if __name__ == "__main__":
    scores = compute_score(
        [
            {"response": r"Half of it: \boxed{\frac{1}{2}}", "response_length": 9, "ground_truth": "0.5"},
            {"response": "I think it is 0.7", "response_length": 6, "ground_truth": "0.5"},
        ],
        rewards="format=0.1,accuracy=0.9",
    )
    print(scores)
    assert [score["overall"] for score in scores] == [1.0, 0.0]
