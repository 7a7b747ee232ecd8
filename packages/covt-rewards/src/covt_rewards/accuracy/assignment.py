"""The assignment problem on a small dense matrix: the Hungarian method with potentials (Kuhn 1955, Munkres 1957).

Plain Python, O(n²·m): up to about a hundred objects take milliseconds, and the package needs no scipy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def assign(cost: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """Find the one-to-one assignment of rows to columns with the least total cost.

    Args:
        cost: `[rows, columns]`, every row of the same length.

    Returns:
        Pairs (row, column) in ascending rows, as many as there are rows or columns, whichever are fewer.
    """
    if not cost or not cost[0]:
        return []
    if len(cost) > len(cost[0]):
        return sorted((row, column) for column, row in assign(list(zip(*cost, strict=True))))
    rows, columns = len(cost), len(cost[0])
    # Column 0 and row 0 are virtual: the augmenting path of each new row starts there.
    row_potential = [0.0] * (rows + 1)
    column_potential = [0.0] * (columns + 1)
    row_of = [0] * (columns + 1)
    for new_row in range(1, rows + 1):
        row_of[0] = new_row
        slack = [math.inf] * (columns + 1)
        came_from = [0] * (columns + 1)
        done = [False] * (columns + 1)
        column = 0
        while row_of[column]:
            done[column] = True
            row = row_of[column]
            step, nearest = math.inf, 0
            for j in range(1, columns + 1):
                if done[j]:
                    continue
                reduced = cost[row - 1][j - 1] - row_potential[row] - column_potential[j]
                if reduced < slack[j]:
                    slack[j], came_from[j] = reduced, column
                if slack[j] < step:
                    step, nearest = slack[j], j
            for j in range(columns + 1):
                if done[j]:
                    row_potential[row_of[j]] += step
                    column_potential[j] -= step
                else:
                    slack[j] -= step
            column = nearest
        while column:
            row_of[column] = row_of[came_from[column]]
            column = came_from[column]
    return sorted((row_of[j] - 1, j - 1) for j in range(1, columns + 1) if row_of[j])
