"""The table of advantages: names to functions of rewards, groups and lengths.

To add an advantage:
1. write its mathematics as a function of tensors in a file of this folder;
2. add a line to `ADVANTAGES` that calls it with what it needs.
An advantage of your own needs neither: name it in the recipe, as in `algorithm.advantage = "./mine.py:function"`.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from covt_rewards import RewardError
from covt_rewards.user_code import is_file_reference, load_from_file
from covt_rl.algorithms.advantages import group_relative, leave_one_out
from covt_rl.algorithms.reinforce import reinforce_pp, reinforce_pp_baseline

AdvantageFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""float64 rewards [N] of all rollouts of a step, groups [N] (equal integers for rollouts of one prompt), lengths [N] in
counted tokens → advantages [N]."""

ADVANTAGES: dict[str, AdvantageFunction] = {
    "grpo": lambda rewards, groups, lengths: group_relative(rewards, groups),
    "dr_grpo": lambda rewards, groups, lengths: group_relative(rewards, groups, scale=False),
    "rloo": lambda rewards, groups, lengths: leave_one_out(rewards, groups),
    "reinforce_pp": lambda rewards, groups, lengths: reinforce_pp(rewards, lengths),
    "reinforce_pp_baseline": reinforce_pp_baseline,
}


def check_advantage_name(name: str) -> str:
    """Return a name that the table has or that refers to a file; raises ValueError for any other."""
    if name not in ADVANTAGES and not is_file_reference(name):
        raise ValueError(f"Input should be one of {', '.join(ADVANTAGES)}, or ./file.py:function")
    return name


@cache
def load_advantage(name: str) -> AdvantageFunction:
    """The function of an advantage, after a trial on four rollouts where it is the user's.

    Args:
        name: a name of the table, or `./file.py:function`; a relative path starts at the working directory.

    Raises:
        RewardError: the file or function can't be loaded, or does not turn rewards [N] into finite advantages [N].
    """
    if not is_file_reference(name):
        return ADVANTAGES[name]
    found = load_from_file(name)
    rewards, groups = torch.tensor([0.0, 1.0, 0.5, 0.5], dtype=torch.float64), torch.tensor([0, 0, 1, 1])
    remedy = f"{Path(name).name} is called with rewards [N], groups [N] and lengths [N] and returns advantages [N]"
    try:
        result = found(rewards, groups, torch.tensor([3, 4, 5, 6]))
    except Exception as error:
        raise RewardError(f"algorithm.advantage = {name!r} raises {type(error).__name__}: {error}", remedy) from error
    if not isinstance(result, Tensor) or result.shape != rewards.shape or not bool(result.isfinite().all()):
        raise RewardError(f"algorithm.advantage = {name!r} returned {result!r} for 4 rewards", remedy)
    return found
