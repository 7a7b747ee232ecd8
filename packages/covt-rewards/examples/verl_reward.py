"""Rewards for veRL. Configuration:

    custom_reward_function.path=pkg://covt_rewards.adapters.verl
    custom_reward_function.name=compute_score  (reward_model.reward_manager=naive or dapo, and the reward loop's)
                                compute_score_batch  (reward_manager=batch)
                                compute_number  (reward_manager=prime)
    +custom_reward_function.reward_kwargs.rewards="format=0.1,accuracy=0.9"

The calls below are those of veRL's reward managers.
"""

from covt_rewards.adapters.verl import compute_number, compute_score, compute_score_batch

one = compute_score(
    data_source="geometry3k", solution_str=r"So it is \boxed{\frac{1}{2}}", ground_truth="0.5", extra_info={"index": 0}
)
print(one)
number = compute_number("geometry3k", r"So it is \boxed{\frac{1}{2}}", "0.5", {"index": 0})
print(number)
walk = {"metadata": {"rows": ["SFG"]}}
batch = compute_score_batch(
    data_sources=["vsp", "mathvision", "vsp"],  # sorted by length: the two walks still form one group
    solution_strs=[r"\boxed{R,R}", r"\boxed{B}", r"\boxed{R}"],
    ground_truths=["R,R", "snake", "R,R"],
    extra_infos=[{**walk, "index": 0}, {"options": ["cat", "snake"], "index": 1}, {**walk, "index": 0}],
    rewards="format=0.5,accuracy",
)
print(batch)
assert one["score"] == number == 1.0
assert [record["score"] for record in batch] == [1.5, 1.5, 0.5]
