"""flash-attention over sequences of unequal lengths laid end to end (Dao, arXiv 2307.08691)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch

from covt_model.model_errors import ModelError


def check_flash(dtype: torch.dtype) -> None:
    """Raises ModelError when flash-attention can't run: no package, no GPU, or a dtype it doesn't know."""
    try:
        import flash_attn  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ModelError(
            "attention 'flash_attention_2' needs the package flash-attn", "install the group `gpu`, or use 'sdpa'"
        ) from error
    if not torch.cuda.is_available():
        raise ModelError("attention 'flash_attention_2' needs a GPU", "use 'sdpa'")
    if dtype not in (torch.bfloat16, torch.float16):
        raise ModelError(f"attention 'flash_attention_2' can't compute in {dtype}", "use bf16, or 'sdpa'")


def flash_varlen(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    query_lengths: Sequence[int],
    key_lengths: Sequence[int],
) -> torch.Tensor:
    """Causal attention within each sequence, aligned at its end: its last query sees all its keys.

    queries: [sum of query lengths, heads, D]; keys, values: [sum of key lengths, kv heads, D], sequence by sequence.
    Returns the shape of `queries`. A sequence may have no queries.
    """
    from flash_attn import flash_attn_varlen_func  # pyright: ignore[reportMissingImports]

    return flash_attn_varlen_func(
        queries,
        keys,
        values,
        _starts(query_lengths, queries.device),
        _starts(key_lengths, keys.device),
        max(query_lengths),
        max(key_lengths),
        causal=True,
    )


def _starts(lengths: Sequence[int], device: torch.device) -> torch.Tensor:
    return torch.tensor(list(accumulate(lengths, initial=0)), dtype=torch.int32, device=device)
