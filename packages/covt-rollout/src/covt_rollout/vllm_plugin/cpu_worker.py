"""Worker and model runner with latents for CPUs."""

from __future__ import annotations

from vllm.v1.worker.cpu_model_runner import CPUModelRunner
from vllm.v1.worker.cpu_worker import CPUWorker

from covt_rollout.vllm_plugin.latent_runner import LatentRunner
from covt_rollout.vllm_plugin.latent_worker import LatentWorker


class LatentCPUModelRunner(LatentRunner, CPUModelRunner):
    """Latent feedback on vLLM's CPU runner."""


class LatentCPUWorker(LatentWorker, CPUWorker):
    """Latent feedback on vLLM's CPU worker."""

    runner_class = LatentCPUModelRunner
