"""Worker and model runners with latents for CPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm.v1.worker.cpu_model_runner import CPUModelRunner
from vllm.v1.worker.cpu_worker import CPUWorker

from covt_rollout.vllm_plugin.latent_runner import LatentRunner
from covt_rollout.vllm_plugin.latent_worker import LatentWorker

if TYPE_CHECKING:
    from covt_rollout.vllm_plugin.reload_weights import AnyRunner


class LatentCPUModelRunner(LatentRunner, CPUModelRunner):
    """Latent feedback on vLLM's CPU runner."""


class LatentCPUWorker(LatentWorker, CPUWorker):
    """Latent feedback on vLLM's CPU worker."""

    def runner_class(self) -> type[AnyRunner]:
        if not self.vllm_config.use_v2_model_runner:
            return LatentCPUModelRunner
        # vLLM's V2 runner needs Triton, which on CPUs only the tests have.
        from vllm.v1.worker.cpu.model_runner import CPUModelRunner as CPUModelRunnerV2

        from covt_rollout.vllm_plugin.v2.device_runner import DeviceLatentRunner

        return type("DeviceLatentCPUModelRunner", (DeviceLatentRunner, CPUModelRunnerV2), {})
