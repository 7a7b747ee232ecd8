"""The trainer's side of vLLM's NCCL weight transfer: join the group of workers and broadcast tensors to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

BUCKET_BYTES, BUCKETS = 1 << 30, 2
Tensors = Callable[[], Iterator[tuple[str, "torch.Tensor"]]]


def connect_nccl(address: str, port: int, size: int) -> Any:
    """vLLM's communicator on this rank's GPU, as rank 0 of `size`."""
    from vllm.distributed.weight_transfer.nccl_common import trainer_init

    return trainer_init({"master_address": address, "master_port": port, "world_size": size})


def send_nccl(group: Any, tensors: Tensors) -> None:
    """Broadcast the tensors in packed buckets, then leave the group."""
    from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_producer

    try:
        packed_nccl_broadcast_producer(
            iterator=tensors(),
            group=group,
            src=0,
            post_iter_func=lambda item: item[1].to(group.device),
            buffer_size_bytes=BUCKET_BYTES,
            num_buffers=BUCKETS,
        )
    finally:
        group.destroy()
