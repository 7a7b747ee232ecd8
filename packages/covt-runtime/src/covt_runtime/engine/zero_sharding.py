"""Sharding a model over the ranks while it is built and loaded, so that no rank ever holds it whole."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor

from covt_runtime.engine.optimizer_settings import ZeroConfig
from covt_runtime.engine.weights import DTYPES
from covt_runtime.engine.zero_config import deepspeed_config, prepare_deepspeed

PIECE = 1 << 22
"""Elements that are read and cast together."""


class StoredTensor(Protocol):
    """A tensor in a file."""

    def read(self, start: int, stop: int) -> Tensor:
        """Elements start … stop−1 of the flattened tensor."""
        ...


@runtime_checkable
class MappedTensor(StoredTensor, Protocol):
    """A tensor whose bytes in the file are those in memory."""

    @property
    def dtype(self) -> torch.dtype: ...

    def mapped(self, start: int, stop: int) -> Tensor | None:
        """Elements start … stop−1 of the flattened tensor, in the file's own pages; None where it can't be mapped."""
        ...


class ZeroSharding:
    """ZeRO-3's division of a model: each rank holds one of `world_size` equal pieces of each flattened parameter.

    Build the model in `building()`, then `fill` each parameter. DeepSpeed can't build into NVMe: with
    `zero.offload_parameters = "nvme"` every rank holds the whole model until the engine takes it.

    Args:
        zero: the recipe's section.
        maps: pieces in the file's dtype stay in the file's pages, which the system can take back. For frozen weights
            on a CPU; the adapters that are trained beside them are added later.
    """

    def __init__(self, zero: ZeroConfig, *, maps: bool = False) -> None:
        self.zero = zero
        self.maps = maps and zero.offload_parameters == "none"

    def building(self) -> AbstractContextManager[Any]:
        """A context in which the parameters of each new module are divided (collective)."""
        from deepspeed.runtime.zero.partition_parameters import Init

        class EmptyInit(Init):
            """Divides parameters without sending rank 0's values to the others, as `fill` overwrites them."""

            def _zero_init_param(self, param: Any) -> None:
                self._convert_to_deepspeed_param(param)
                param.partition()

        prepare_deepspeed(self.zero)
        if self.zero.offload_parameters == "nvme":
            return nullcontext()
        return EmptyInit(
            dtype=DTYPES[self.zero.dtype],
            config_dict_or_path=deepspeed_config(self.zero, clip=0.0, trainable=self.zero.reduce_bucket_size),
        )

    def shape(self, parameter: Any) -> tuple[int, ...]:
        """The shape of the whole parameter."""
        return tuple(getattr(parameter, "ds_shape", parameter.shape))

    def fill(self, parameter: Any, stored: StoredTensor) -> None:
        """Read this rank's piece of a parameter; nothing else of the tensor is read."""
        sharded = hasattr(parameter, "ds_tensor")
        piece: Tensor = parameter.ds_tensor.data if sharded else parameter.data.view(-1)
        first = dist.get_rank() * piece.numel() if sharded else 0
        held = max(0, min(piece.numel(), torch.Size(self.shape(parameter)).numel() - first))
        whole = sharded and held == piece.numel()
        if self.maps and whole and isinstance(stored, MappedTensor) and stored.dtype == piece.dtype:
            mapped = stored.mapped(first, first + held)
            if mapped is not None:
                parameter.ds_tensor.data = mapped
                return
        for start in range(0, held, PIECE):
            stop = min(start + PIECE, held)
            piece[start:stop].copy_(stored.read(first + start, first + stop))
        piece[held:].zero_()
