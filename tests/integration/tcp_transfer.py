"""vLLM's weight transfer with a store on TCP in the place of NCCL: the same requests in the same order, on CPUs.

Imported by the server's worker (`--worker-cls tcp_transfer.TcpWorker`).
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.distributed.utils import StatelessProcessGroup
from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine

from covt_rollout.vllm_plugin.cpu_worker import LatentCPUWorker


class TcpEngine(NCCLWeightTransferEngine):
    """vLLM's engine, with everything but the broadcast itself."""

    def init_transfer_engine(self, init_info: Any) -> None:
        rank = self.parallel_config.rank + init_info.rank_offset
        group = StatelessProcessGroup.create(
            init_info.master_address, init_info.master_port, rank, init_info.world_size, store_timeout=120
        )
        self.model_update_group: Any = group

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: Any) -> None:
        described = zip(update_info.names, update_info.dtype_names, update_info.shapes, strict=True)
        for name, dtype, shape in described:
            tensor = self.model_update_group.broadcast(torch.empty(0), src=0)
            assert (tensor.dtype, list(tensor.shape)) == (getattr(torch, dtype), shape), name
            self.model.load_weights([(name, tensor)])

    def shutdown(self) -> None:
        self.model_update_group = None


WeightTransferEngineFactory.register_engine("tcp", TcpEngine)


class TcpWorker(LatentCPUWorker):
    """The CPU's worker, whose module registers the engine."""
