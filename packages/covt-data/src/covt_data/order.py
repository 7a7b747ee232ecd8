"""The order in which training passes over a set: a new permutation an epoch, the same for any number of ranks."""

import numpy as np


def batch_indices(count: int, step: int, batch_size: int, seed: int) -> list[int]:
    """Rows of the `step`-th batch (from 0) of a set of `count` rows.

    Epochs follow each other without gaps: a batch that an epoch's end cuts off goes on into the next one.
    """
    positions = range(step * batch_size, (step + 1) * batch_size)
    orders = {epoch: _order(count, epoch, seed) for epoch in {position // count for position in positions}}
    return [int(orders[position // count][position % count]) for position in positions]


def _order(count: int, epoch: int, seed: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)
