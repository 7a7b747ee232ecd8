"""Attention over sequences of unequal lengths laid end to end, by flash-attention on a GPU (Dao, arXiv 2307.08691).

No mask and no scores exist in memory: a kernel gets the sequences' lengths and goes over the scores tile by tile.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from itertools import accumulate

import torch

from covt_model.model_errors import ModelError

ATTENTION = ("sdpa", "varlen", "flash_attention_2")
"""Attention of the language model: PyTorch's `scaled_dot_product_attention`, which runs anywhere; PyTorch's kernel for
unequal lengths; the package flash-attn."""
FLASH_DTYPES = (torch.bfloat16, torch.float16)
FLASH_CAPABILITY = (8, 0)
"""Oldest GPUs (Ampere) on which flash-attention runs."""

Varlen = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Sequence[int], Sequence[int]], torch.Tensor]
"""Causal attention within each sequence, aligned at its end: its last query sees all its keys. Takes queries [sum of
query lengths, heads, D], keys and values [sum of key lengths, kv heads, D] sequence by sequence, query lengths and key
lengths; returns the shape of the queries. A sequence may have no queries."""


def choose_attention(wanted: str, device: torch.device | str, dtype: torch.dtype) -> str:
    """One of `ATTENTION`; for `auto` the one that holds no scores and is the fastest known on the device.

    Raises:
        ModelError: the attention that is wanted is unknown, or can't run here in this dtype.
    """
    if wanted != "auto":
        check_attention(wanted, dtype)
        return wanted
    device = torch.device(device)
    if (
        device.type != "cuda"
        or dtype not in FLASH_DTYPES
        or torch.cuda.get_device_capability(device) < FLASH_CAPABILITY
    ):
        return "sdpa"
    if importlib.util.find_spec("flash_attn"):
        return "flash_attention_2"
    return "varlen" if torch.backends.cuda.is_flash_attention_available() else "sdpa"


def check_attention(attention: str, dtype: torch.dtype) -> None:
    """Raise ModelError if `attention` is not one of `ATTENTION`, or can't run here in this dtype."""
    if attention not in ATTENTION:
        raise ModelError(f"attention is {attention!r}", f"use auto or one of {', '.join(ATTENTION)}")
    if attention != "sdpa":
        _check_kernel(attention, dtype)


def transformers_attention(attention: str) -> str:
    """Transformers' name for the attention of a model that is loaded: it doesn't know `varlen`."""
    return "sdpa" if attention == "varlen" else attention


def _check_kernel(attention: str, dtype: torch.dtype) -> None:
    if attention == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        raise ModelError(
            "attention 'flash_attention_2' needs the package flash-attn", "install the group `gpu`, or use 'auto'"
        )
    if not torch.cuda.is_available():
        raise ModelError(f"attention {attention!r} needs a GPU", "use 'auto' or 'sdpa'")
    if dtype not in FLASH_DTYPES:
        raise ModelError(f"attention {attention!r} can't compute in {dtype}", "use bf16, or 'auto' or 'sdpa'")


def flash_varlen(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    query_lengths: Sequence[int],
    key_lengths: Sequence[int],
) -> torch.Tensor:
    """The package flash-attn; a `Varlen`."""
    from flash_attn import flash_attn_varlen_func  # pyright: ignore[reportMissingImports]

    starts = _starts(query_lengths, queries.device), _starts(key_lengths, keys.device)
    return flash_attn_varlen_func(queries, keys, values, *starts, max(query_lengths), max(key_lengths), causal=True)


def torch_varlen(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    query_lengths: Sequence[int],
    key_lengths: Sequence[int],
) -> torch.Tensor:
    """PyTorch's own build of flash-attention; a `Varlen`."""
    from torch.nn.attention.varlen import varlen_attn

    starts = _starts(query_lengths, queries.device), _starts(key_lengths, keys.device)
    lengths = max(query_lengths), max(key_lengths)
    # A window that is open to the left and closed to the right is how this function spells "causal".
    return varlen_attn(queries, keys, values, *starts, *lengths, window_size=(-1, 0), enable_gqa=True)  # pyright: ignore[reportReturnType]


KERNELS: dict[str, Varlen] = {"varlen": torch_varlen, "flash_attention_2": flash_varlen}


def _starts(lengths: Sequence[int], device: torch.device) -> torch.Tensor:
    return torch.tensor(list(accumulate(lengths, initial=0)), dtype=torch.int32, device=device)
