"""New weights for a running server: a push through shared memory, against one HTTP call a tensor.

Costs are wall seconds from tensors in memory until the server answers with them. The base does what trainers do that
update parameter by parameter: pause, one request with name, shape and values for each tensor on a connection that stays
open, finish, resume. Gathering from ZeRO-3 shards, the same for both, is left out.
"""

from __future__ import annotations

import base64
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import harness
from harness import Benchmark, Case
from rollout_work import QUICKSTART, SMALL, Size, build, serving

# The 7B model's number of layers; with hidden size 64 its tensors are small.
LAYERS = 28
MANY = f"{LAYERS} layers of hidden size 64"
HEADLINE = MANY
PROBE = tuple(range(5, 25))


class TensorByTensor:
    """Methods that the base adds to the server's worker (`--worker-extension-cls`)."""

    model_runner: Any

    def bench_begin(self) -> None:
        from vllm.model_executor.model_loader.reload.layerwise import initialize_layerwise_reload

        initialize_layerwise_reload(self.model_runner.get_model())

    def bench_tensor(self, name: str, shape: list[int], values: str) -> None:
        """values: base64 of float32."""
        import torch

        tensor = torch.frombuffer(bytearray(base64.b64decode(values)), dtype=torch.float32).reshape(shape)
        self.model_runner.get_model().load_weights([(name, tensor)])

    def bench_finish(self) -> None:
        from vllm.model_executor.model_loader.reload.layerwise import finalize_layerwise_reload

        from covt_rollout.vllm_plugin.reload_weights import repack_tied_head

        model = self.model_runner.get_model()
        finalize_layerwise_reload(model, self.model_runner.model_config)
        repack_tied_head(model)


class Pushes:
    """Both ways to give a server `tensors`, its checkpoint's weights by name."""

    def __init__(self, server: Any, tensors: dict[str, Any]) -> None:
        from covt_rollout.client.blocking_client import BlockingClient
        from covt_rollout.client.rollout_client import RolloutClient
        from covt_rollout.weights.weight_files import ServedNames

        self.client = RolloutClient.for_checkpoint(server.url, server.checkpoint, timeout=120)
        self.blocking = BlockingClient(self.client)
        self.names = ServedNames.read(server.checkpoint)
        self.tensors = tensors
        self.version = 0

    def __enter__(self) -> Pushes:
        self.blocking.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.blocking.__exit__(None, None, None)

    def ours(self, scale: float = 1.0) -> float:
        from covt_rollout.weights.weight_sync import publish

        self.version += 1
        scaled = self.scaled(scale)
        begun = time.perf_counter()
        self.blocking.run(publish(self.client, scaled.items(), self.version, self.names))
        return time.perf_counter() - begun

    def base(self, scale: float = 1.0) -> float:
        self.version += 1
        scaled = self.scaled(scale)
        begun = time.perf_counter()
        self.blocking.run(self._base(scaled))
        self.client.version = self.version
        return time.perf_counter() - begun

    async def _base(self, tensors: dict[str, Any]) -> None:
        each = self.client.transport.call_each
        await each("POST", "/pause", params={"mode": "abort"})
        await each("POST", "/collective_rpc", {"method": "bench_begin"})
        for name, tensor in tensors.items():
            values = base64.b64encode(tensor.numpy().tobytes()).decode()
            arguments = [name, list(tensor.shape), values]
            await each("POST", "/collective_rpc", {"method": "bench_tensor", "args": arguments})
        await each("POST", "/collective_rpc", {"method": "bench_finish"})
        await each("POST", "/update_weight_version", {"new_version": str(self.version)})
        await each("POST", "/resume")

    def scaled(self, scale: float) -> dict[str, Any]:
        return {name: tensor if scale == 1.0 else tensor * scale for name, tensor in self.tensors.items()}

    def check(self) -> None:
        """Both ways leave the same model: equal answers after the same push, others than before it."""
        from covt_rollout.client.rollout_requests import PromptRequest, Sampling

        def logprobs() -> tuple[float, ...]:
            request = self.client.generate([PromptRequest(PROBE)], Sampling(max_tokens=8, temperature=0))
            return self.blocking.run(request)[0][0].logprobs

        before = logprobs()
        self.ours(scale=1.2)
        ours = logprobs()
        self.ours()
        self.base(scale=1.2)
        base = logprobs()
        self.base()
        assert ours == base != before == logprobs(), "the two ways to push leave different models"


@contextmanager
def cases() -> Iterator[list[Case]]:
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        # The servers import `TensorByTensor` from here.
        os.environ["PYTHONPATH"] = str(Path(__file__).parent)
        many = replace(QUICKSTART, layers=LAYERS)
        yield [
            of_size(stack, folder, MANY, many),
            of_size(stack, folder, "26 M parameters, 8 layers of hidden size 512", SMALL),
        ]


def of_size(stack: ExitStack, folder: Path, name: str, size: Size) -> Case:
    from safetensors.torch import load_file

    checkpoint = build(folder / name, size)
    extension = ("--worker-extension-cls", "weight_sync.TensorByTensor")
    server = stack.enter_context(serving(checkpoint, folder / f"{name}.log", extra=extension))
    tensors = load_file(checkpoint / "model.safetensors")
    pushes = stack.enter_context(Pushes(server, tensors))
    pushes.check()
    return Case(name, pushes.ours, pushes.base)


BENCHMARK = Benchmark(
    name="weight_sync",
    about="new weights into a running server through shared memory, against one HTTP call a tensor",
    headline=HEADLINE,
    cases=cases,
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
