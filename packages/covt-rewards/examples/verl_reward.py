"""Rewards for veRL. In its configuration:

    custom_reward_function.path=pkg://covt_rewards.adapters.verl
    custom_reward_function.name=compute_score_batch  (with reward_model.reward_manager=batch; else compute_score)
    +custom_reward_function.reward_kwargs.rewards="format=0.1,accuracy=0.9"

Below are the calls that veRL's reward managers then make.
"""

from covt_rewards.adapters.verl import compute_score, compute_score_batch

one = compute_score(
    data_source="geometry3k", solution_str=r"So it is \boxed{\frac{1}{2}}", ground_truth="0.5", extra_info={"index": 0}
)
print(one)
batch = compute_score_batch(
    data_sources=["vsp", "vsp", "mathvision"],
    solution_strs=[r"\boxed{R,R}", r"\boxed{R}", r"\boxed{B}"],
    ground_truths=["R,R", "R,R", "snake"],
    extra_infos=[{"metadata": {"rows": ["SFG"]}}, {"metadata": {"rows": ["SFG"]}}, {"options": ["cat", "snake"]}],
    rewards="format=0.5,accuracy",
)
print(batch)
assert one["score"] == 1.0
assert [record["score"] for record in batch] == [1.5, 0.5, 1.5]
