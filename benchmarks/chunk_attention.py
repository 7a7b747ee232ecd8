"""Attention of a later chunk of text to a long prefix and to itself: forward and backward, time and peak memory.

Shapes are those of Qwen2.5-VL-3B: 16 heads of 128, 2 key heads; 512 queries after 3584 earlier slots. Ours is what the
decoder calls on this device: on a CPU two calls of PyTorch's flash kernel, on a GPU a kernel for unequal lengths. The
bases are one call with an additive mask [B, 1, queries, keys], which is what the decoder did before, and attention by
its definition, which holds all scores and which PyTorch takes on GPUs for a mask with grouped heads. Memory is the
peak over what was held before: keys, values, inputs and their gradients are the same on all sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import harness
from harness import Benchmark, Case

HEADS, GROUPS, WIDTH = 16, 2, 128
EARLIER, OWN = 3584, 512


class Chunk:
    """A chunk of `rows` rows. With several rows, all but the first leave a part of the earlier slots unused."""

    def __init__(self, rows: int, dtype: str, base: str) -> None:
        import torch

        self.dtype, self.base = getattr(torch, dtype), base
        device = "cuda" if torch.cuda.is_available() else "cpu"
        generator = torch.Generator().manual_seed(rows)

        def draw(length: int, heads: int) -> Any:
            return torch.randn(rows, length, heads, WIDTH, generator=generator).to(device, self.dtype).requires_grad_()

        self.prefix = draw(EARLIER, GROUPS), draw(EARLIER, GROUPS)
        self.own = draw(OWN, HEADS), draw(OWN, GROUPS), draw(OWN, GROUPS)
        self.used = torch.ones(rows, EARLIER, dtype=torch.bool, device=device)
        for row in range(1, rows):
            self.used[row, EARLIER - 300 * row :] = False
        self.peak: dict[str, float] = {}

    def run(self, side: str) -> float:
        attend: Callable[[], Any] = self.ours if side == "ours" else partial(self.masked, self.base == "scores")
        for tensor in (*self.prefix, *self.own):
            tensor.grad = None
        seconds, self.peak[side] = harness.measured(lambda: attend().float().sum().backward(), self.used.is_cuda)
        return seconds

    def start(self, cache: Any) -> tuple[Any, Any, Any]:
        """The chunk's queries, keys and values after the prefix, from which they follow as in a model."""
        from covt_model.decoder.attention import extend

        first_key, first_value = (part[0, 0, 0, 0] for part in extend(cache, *self.prefix, 0))
        queries, keys, values = self.own
        return queries + 0 * (first_key + first_value), keys, values

    def ours(self) -> Any:
        import numpy as np
        import torch

        from covt_model.decoder.attention import Chunk, Grid, VarlenChunk, additive
        from covt_model.decoder.kv_buffer import LayerCache
        from covt_model.decoder.varlen_attention import KERNELS, choose_attention

        cache = LayerCache(EARLIER + OWN)
        queries, keys, values = self.start(cache)
        kernel = KERNELS.get(choose_attention("auto", self.used.device, self.dtype))
        if kernel is None:
            earlier = None if self.used.all() else additive(self.used, self.dtype)[:, None, None]
            return Chunk(EARLIER, earlier)(queries, keys, values, cache)
        rows = len(self.used)
        grid = Grid(rows, OWN, torch.arange(rows * OWN, device=self.used.device), [OWN] * rows)
        seen = np.concatenate([self.used.cpu().numpy(), np.ones((rows, OWN), bool)], axis=1)
        index = torch.from_numpy(np.flatnonzero(seen)).to(self.used.device)
        queries, keys, values = (part.flatten(0, 1)[None] for part in (queries, keys, values))
        return VarlenChunk(EARLIER, grid, index, seen.sum(1).tolist(), kernel)(queries, keys, values, cache)

    def masked(self, scores: bool) -> Any:
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel
        from torch.nn.functional import scaled_dot_product_attention

        from covt_model.decoder.attention import additive, extend
        from covt_model.decoder.kv_buffer import LayerCache

        cache = LayerCache(EARLIER + OWN)
        queries, keys, values = self.start(cache)
        every = extend(cache, keys, values, EARLIER)
        order = torch.ones(OWN, OWN, dtype=torch.bool, device=queries.device).tril()
        visible = [part.expand(len(queries), OWN, -1) for part in (self.used[:, None], order[None])]
        mask = additive(torch.cat(visible, -1), self.dtype)[:, None]
        with sdpa_kernel(SDPBackend.MATH if scores else [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
            return scaled_dot_product_attention(queries.transpose(1, 2), *every, attn_mask=mask, enable_gqa=True)


@contextmanager
def cases() -> Iterator[list[Case]]:
    found: list[Case] = []
    for rows, dtype, base in (
        (1, "float32", "mask"),
        (1, "float32", "scores"),
        (4, "float32", "mask"),
        (1, "bfloat16", "mask"),
        (1, "bfloat16", "scores"),
    ):
        name = f"{rows} row{'s' if rows > 1 else ''}, {dtype}, against {base}"
        found += harness.time_and_memory(name, Chunk(rows, dtype, base))
    yield found


BENCHMARK = Benchmark(
    name="chunk_attention",
    about="a chunk of 512 queries over 4096 keys, 16 heads of 128, 2 key heads, forward and backward",
    headline="1 row, float32, against mask: memory",
    cases=cases,
    rounds=5,
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
