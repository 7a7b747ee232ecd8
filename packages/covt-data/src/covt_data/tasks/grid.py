"""Directions, cells and the eight symmetries of the square, for all grid tasks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from operator import itemgetter
from typing import Any

Cell = tuple[int, int]

MOVES: dict[str, Cell] = {"U": (-1, 0), "D": (1, 0), "L": (0, -1), "R": (0, 1)}
"""Direction letter → (row, column) offset; rows count downward. Generators draw in this order, so it is part of
every generated set."""

CELL_PIXELS = 28
"""Pixels per side of a cell, unless a set is prepared with others. A cell is a visual token of an encoder whose merged
tokens cover as many pixels."""


def step(cell: Cell, move: str) -> Cell:
    offset = MOVES[move]
    return cell[0] + offset[0], cell[1] + offset[1]


def on_grid(cell: Cell, size: int) -> bool:
    return 0 <= cell[0] < size and 0 <= cell[1] < size


@cache
def moves_on_grid(cell: Cell, size: int) -> tuple[str, ...]:
    """The moves from `cell` that stay on a `size`×`size` grid, in the order of `MOVES`."""
    return tuple(move for move in MOVES if on_grid(step(cell, move), size))


def cell_box(cell: Cell, side: int = CELL_PIXELS) -> list[int]:
    """The pixel box [x0, y0, x1, y1) of a cell of `side` pixels."""
    top, left = cell[0] * side, cell[1] * side
    return [left, top, left + side, top + side]


def _symmetry(size: int, transpose: bool, flip_rows: bool, flip_columns: bool) -> tuple[list[int], dict[str, str]]:
    """New index of each old cell (row-major), and how direction letters turn."""

    def move_cell(cell: Cell) -> Cell:
        row, column = (cell[1], cell[0]) if transpose else cell
        return (size - 1 - row if flip_rows else row), (size - 1 - column if flip_columns else column)

    new_index: list[int] = []
    for row in range(size):
        for column in range(size):
            moved = move_cell((row, column))
            new_index.append(moved[0] * size + moved[1])
    turned: dict[str, str] = {}
    origin = move_cell((0, 0))
    for letter, offset in MOVES.items():
        moved = move_cell(offset)
        difference = (moved[0] - origin[0], moved[1] - origin[1])
        turned[letter] = next(name for name, other in MOVES.items() if other == difference)
    return new_index, turned


Symmetry = tuple[Callable[[str], Any], dict[int, str], list[int]]


@cache
def symmetries(size: int) -> tuple[Symmetry, ...]:
    """The eight symmetries as (gather, turn, new_index), for a map written as one row-major string.

    `"".join(gather(cells))` moves the cells, `.translate(turn)` turns direction letters, and `new_index[i]` is where
    the cell `i` lands.
    """
    found: list[Symmetry] = []
    for transpose in (False, True):
        for flip_rows in (False, True):
            for flip_columns in (False, True):
                new_index, turned = _symmetry(size, transpose, flip_rows, flip_columns)
                old_index = [0] * len(new_index)
                for old, new in enumerate(new_index):
                    old_index[new] = old
                found.append((itemgetter(*old_index), str.maketrans(turned), new_index))
    return tuple(found)
