"""Division of a step's rows among ranks, and among the forwards of each rank."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Entry:
    """A row of a step: its index in the set and its length in tokens."""

    index: int
    length: int


Group = Sequence[Entry]
"""Rows of one forward."""
Cost = Callable[[Group], int]
"""Counts the tokens that a group's forward computes."""


def padded_cost(group: Group) -> int:
    """Tokens of rows padded to the longest."""
    return len(group) * max((entry.length for entry in group), default=0)


def packed_cost(group: Group) -> int:
    """Tokens of rows laid end to end."""
    return sum(entry.length for entry in group)


def group_in_order(rows: Group, ranks: int, micro: int) -> list[list[Group]]:
    """For each rank, its groups of `micro` rows: rank r takes every `ranks`-th row, in order."""
    per_rank = [rows[rank::ranks] for rank in range(ranks)]
    return [[own[start : start + micro] for start in range(0, len(own), micro)] for own in per_rank]


def group_by_length(rows: Group, ranks: int, micro: int, budget: int = 0) -> list[list[Group]]:
    """For each rank, its groups of rows of similar length. The n-th groups of all ranks have similar lengths too.

    Args:
        rows: the rows of the step.
        ranks: number of ranks.
        micro: most rows per group.
        budget: most padded tokens per group, unless it is a single row; 0 sets no limit.
    """
    ordered = sorted(rows, key=lambda entry: entry.length)

    def divide(groups: int) -> list[Group]:
        edges = [len(ordered) * i // groups for i in range(groups + 1)]
        return [ordered[start:end] for start, end in pairwise(edges)]

    return _fewest_groups(divide, len(rows), ranks, micro, budget, padded_cost)


def group_packed(rows: Group, ranks: int, micro: int, budget: int = 0) -> list[list[Group]]:
    """For each rank, its groups of rows to be laid end to end, with about equally many tokens per group.

    The longest remaining row goes to the shortest group (Graham's LPT rule). The arguments are those of
    `group_by_length`.
    """
    ordered = sorted(rows, key=lambda entry: -entry.length)

    def divide(groups: int) -> list[Group]:
        divided: list[list[Entry]] = [[] for _ in range(groups)]
        for entry in ordered:
            open_ones = [group for group in divided if len(group) < micro]
            min(open_ones, key=lambda group: (packed_cost(group), len(group))).append(entry)
        return list(divided)

    return _fewest_groups(divide, len(rows), ranks, micro, budget, packed_cost)


def _fewest_groups(
    divide: Callable[[int], list[Group]], rows: int, ranks: int, micro: int, budget: int, cost: Cost
) -> list[list[Group]]:
    """Divide rows into the same number of groups for each rank, as few as the limits allow."""
    per_rank = -(-rows // (ranks * micro))
    while True:
        groups = divide(ranks * per_rank)
        fits = not budget or all(cost(group) <= budget for group in groups if len(group) > 1)
        if fits or ranks * per_rank >= rows:
            return [groups[rank::ranks] for rank in range(ranks)]
        per_rank += 1
