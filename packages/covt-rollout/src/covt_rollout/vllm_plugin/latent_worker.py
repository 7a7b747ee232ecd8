"""vLLM's worker with the latent runner, and the methods that clients call through /collective_rpc.

`LatentWorker` is for GPUs; the worker for CPUs, in `cpu_worker`, differs only in its base classes.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vllm.v1.worker.gpu_worker import Worker

from covt_rollout.latent_readings import nearest_words, patch_cosines, picture_features
from covt_rollout.vllm_plugin import reload_weights as weights
from covt_rollout.vllm_plugin.engine_settings import EngineSettings, check_supported, checkpoint_folder
from covt_rollout.vllm_plugin.latent_runner import LatentRunner
from covt_rollout.vllm_plugin.placement_checks import reaches, sees_file
from covt_rollout.vllm_plugin.protocol import decode_latents, encode_latents

if TYPE_CHECKING:
    from covt_rollout.vllm_plugin.reload_weights import AnyRunner

# The version of weights that have been replaced only in part.
BROKEN = -1


class LatentWorker(Worker):
    """Refuses unsupported settings, then turns the worker's model runner into one that feeds latents."""

    weight_version = 0

    def init_device(self) -> None:
        check_supported(self.vllm_config)
        settings = EngineSettings.read(self.vllm_config)
        super().init_device()
        cast(Any, self.model_runner).__class__ = self.runner_class()
        self.latent_runner.start_latents(settings)

    def runner_class(self) -> type[AnyRunner]:
        """The runner with latents, for the model runner that vLLM has chosen."""
        if self.vllm_config.use_v2_model_runner:
            from covt_rollout.vllm_plugin.v2.device_runner import DeviceLatentRunner

            return DeviceLatentRunner
        return LatentRunner

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        super().load_model(*args, **kwargs)
        weights.apply_latent_rows(self.latent_runner)

    @property
    def latent_runner(self) -> AnyRunner:
        return cast("AnyRunner", self.model_runner)

    def covt_take_latents(self, keys: list[str]) -> dict[str, list[dict[str, Any]] | None]:
        """Remove and return what the output pads were fed: by key one entry per choice, or None for an unknown key."""
        taken = {key: self.latent_runner.take_latents(key) for key in keys}
        return {
            key: [{"data": wire["latent_data"], "shape": wire["latent_shape"]} for wire in map(encode_latents, choices)]
            if (choices := [found[index] for index in sorted(found)])
            else None
            for key, found in taken.items()
        }

    def covt_read_latents(self, latents: dict[str, Any], pictures: list[str], words: int) -> dict[str, Any]:
        """Tell what latents [P, H] resemble.

        Args:
            latents: `latent_data` and `latent_shape`.
            pictures: encoded pictures in base64.
            words: how many words to name for each latent.

        Returns:
            `cosines`: [P, n] with the n visual features of each picture, on the wire like latents. `words`: for each
            latent pairs of token id and probability, the most probable first.
        """
        rows, files = decode_latents(latents), [base64.b64decode(picture) for picture in pictures]
        model = weights.served_model(self.latent_runner)
        features = picture_features(model, checkpoint_folder(self.vllm_config.model_config.model), files)
        return {
            "cosines": [encode_latents(one) for one in patch_cosines(features, rows)],
            "words": nearest_words(model, rows, words),
        }

    def covt_load_weights(self, folder: str, version: int) -> dict[str, Any]:
        """Replace the weights with those of `folder/*.safetensors`; they are checked before anything is changed."""
        head = weights.check(self.latent_runner, Path(folder))
        self.weight_version = BROKEN
        report = weights.load(self.latent_runner, Path(folder), head)
        self.weight_version = int(version)
        return {"version": self.weight_version, **report}

    def covt_see_file(self, path: str, text: str) -> dict[str, bool]:
        """Whether this machine has the trainer's file, with this text: only then can it read weights from there.

        /collective_rpc would turn a bare bool into text.
        """
        return {"can": sees_file(Path(path), text)}

    def covt_reach_address(self, address: str, port: int) -> dict[str, bool]:
        """Whether this worker can connect to the trainer."""
        return {"can": reaches(address, port)}

    def start_weight_update(self) -> None:
        """Begin vLLM's transfer of weights from a trainer's GPU, and forget one during which a trainer died."""
        self._weight_update_active = False
        self.weight_version = BROKEN
        super().start_weight_update()

    def covt_finish_transfer(self, version: int) -> None:
        """Do what vLLM's transfer leaves to the plugin (see `reload_weights.finish`)."""
        weights.finish(self.latent_runner)
        self.weight_version = int(version)

    def covt_status(self) -> dict[str, Any]:
        """Counters for tests and monitoring."""
        return {
            "weight_version": self.weight_version,
            "sleep_mode": self.vllm_config.model_config.enable_sleep_mode,
            **self.latent_runner.latents.counters(),
        }
