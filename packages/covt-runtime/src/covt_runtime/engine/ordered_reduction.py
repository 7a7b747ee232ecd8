"""Gradients reduced bucket by bucket in one order on all ranks, whatever order a rank's backward pass makes them in.

DeepSpeed fills a bucket with gradients as they arrive. Where ranks use different parameters, or run different numbers
of latent steps, they arrive in different orders, and buckets of different parameters would be added up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class OrderedReduction:
    """Stands between DeepSpeed's gradient hooks and its buckets: a gradient waits until those before it are there.

    The order is the reverse of the parameters', which is about the order in which a backward pass makes gradients, so
    that few wait. Every trained parameter must have a gradient in every backward pass.

    Args:
        sharded: DeepSpeed's ZeRO-3 optimizer; its two methods for adding a gradient and ending a pass are replaced.
        parameters: the trained parameters in the order of the model.
    """

    def __init__(self, sharded: Any, parameters: Sequence[Any]) -> None:
        self._order = list(reversed(parameters))
        self._ready: dict[int, Any] = {}
        self._next = 0
        self._reduce = sharded.reduce_independent_p_g_buckets_and_remove_grads
        self._end = sharded.independent_gradient_partition_epilogue
        sharded.reduce_independent_p_g_buckets_and_remove_grads = self._add
        sharded.independent_gradient_partition_epilogue = self._end_pass

    def _add(self, parameter: Any) -> None:
        """Take in a gradient, and hand on all whose turn it is."""
        self._ready[id(parameter)] = parameter
        while self._next < len(self._order) and id(self._order[self._next]) in self._ready:
            self._reduce(self._ready.pop(id(self._order[self._next])))
            self._next += 1

    def _end_pass(self) -> None:
        assert not self._ready and self._next in (0, len(self._order)), "a trained parameter has no gradient"
        self._next = 0
        self._end()
