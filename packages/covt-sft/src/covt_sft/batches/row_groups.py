"""Which rank takes which rows of a step, and in which of its forwards."""

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
"""Tokens that a group's forward computes."""


def padded_cost(group: Group) -> int:
    """Every row is as long as the longest."""
    return len(group) * max((entry.length for entry in group), default=0)


def packed_cost(group: Group) -> int:
    """Rows lie end to end."""
    return sum(entry.length for entry in group)


def group_in_order(rows: Group, ranks: int, micro: int) -> list[list[Group]]:
    """Per rank its groups of `micro` rows: rank r takes every `ranks`-th row, in order."""
    shares = [rows[rank::ranks] for rank in range(ranks)]
    return [[share[start : start + micro] for start in range(0, len(share), micro)] for share in shares]


def group_by_length(rows: Group, ranks: int, micro: int, budget: int = 0) -> list[list[Group]]:
    """Per rank its groups of rows alike in length; in one turn all ranks have about the same.

    A group has at most `micro` rows and, unless it is a single row, at most `budget` padded tokens (0: any number).
    """
    ordered = sorted(rows, key=lambda entry: entry.length)

    def deal(groups: int) -> list[Group]:
        edges = [len(ordered) * i // groups for i in range(groups + 1)]
        return [ordered[start:end] for start, end in pairwise(edges)]

    return _fewest_turns(deal, len(rows), ranks, micro, budget, padded_cost)


def group_packed(rows: Group, ranks: int, micro: int, budget: int = 0) -> list[list[Group]]:
    """Per rank its groups of rows to be laid end to end, with about equally many tokens each.

    The longest row left goes to the shortest group (Graham's LPT rule). Limits as in `group_by_length`.
    """
    ordered = sorted(rows, key=lambda entry: -entry.length)

    def deal(groups: int) -> list[Group]:
        dealt: list[list[Entry]] = [[] for _ in range(groups)]
        for entry in ordered:
            open_ones = [group for group in dealt if len(group) < micro]
            min(open_ones, key=lambda group: (packed_cost(group), len(group))).append(entry)
        return list(dealt)

    return _fewest_turns(deal, len(rows), ranks, micro, budget, packed_cost)


def _fewest_turns(
    deal: Callable[[int], list[Group]], rows: int, ranks: int, micro: int, budget: int, cost: Cost
) -> list[list[Group]]:
    """Deal rows to `ranks` × turns groups with as few turns as the limits allow."""
    turns = -(-rows // (ranks * micro))
    while True:
        groups = deal(ranks * turns)
        fits = not budget or all(cost(group) <= budget for group in groups if len(group) > 1)
        if fits or ranks * turns >= rows:
            return [groups[rank::ranks] for rank in range(ranks)]
        turns += 1
