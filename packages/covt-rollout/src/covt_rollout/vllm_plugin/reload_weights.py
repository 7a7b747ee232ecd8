"""New weights from a folder of safetensors, in place."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from covt_model.model_errors import CheckpointError, ModelError
from covt_rollout.vllm_plugin.engine_settings import checkpoint_folder

if TYPE_CHECKING:
    from covt_rollout.vllm_plugin.latent_runner import LatentRunner

OUTPUT = "language_model.lm_head.weight"
VISION = "visual."
Shapes = dict[str, tuple[int, ...]]


def check(runner: LatentRunner, folder: Path) -> torch.nn.Module | None:
    """Compare names and shapes of `folder/*.safetensors` with the served checkpoint's; returns the head beside them.

    Raises CheckpointError or ModelError; nothing has been changed then.
    """
    names = served_model(runner).hf_to_vllm_mapper.map_name
    shapes, served = read_shapes(folder), read_shapes(checkpoint_folder(runner.model_config.model))
    compare({names(n): s for n, s in shapes.items()}, {names(n): s for n, s in served.items()}, folder)
    return runner.read_head(folder)


def load(runner: LatentRunner, folder: Path, head: torch.nn.Module | None) -> dict[str, Any]:
    """Load every tensor of `folder/*.safetensors`, under the names of checkpoints or of parameters, into the model.

    The caller has checked them, pauses the engine and clears its caches. head: of the feedback rule.
    """
    begun = time.perf_counter()
    runner.reload_weights(weights_iterator=tensors(folder))
    repack_tied_head(served_model(runner))
    runner.latents.head = head
    return {"seconds": time.perf_counter() - begun}


def finish(runner: LatentRunner) -> None:
    """After weights came another way than by `load`: pack the output matrix, and forget what old weights computed."""
    repack_tied_head(served_model(runner))
    runner.reset_encoder_cache()
    runner.reset_mm_cache()


def served_model(runner: LatentRunner) -> Any:
    """vLLM's Qwen2.5-VL; it has attributes that vLLM's interface of models doesn't name."""
    return runner.get_model()


def files(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        raise CheckpointError(f"{folder} has no *.safetensors", "write the weights there before loading them")
    return found


def read_shapes(folder: Path) -> Shapes:
    """Name → shape of all tensors, from the files' headers. Raises CheckpointError for a file that is cut off."""
    from safetensors import SafetensorError, safe_open

    shapes: Shapes = {}
    for path in files(folder):
        try:
            with safe_open(path, "pt") as file:
                shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise CheckpointError(f"{path} can't be read: {error}", "write the weights again") from error
    return shapes


def compare(new: Shapes, served: Shapes, folder: Path) -> None:
    """Raise ModelError unless `new` has exactly the served checkpoint's tensors.

    A tied output matrix is no tensor of its own, and may be among the new ones all the same. The vision tower may be
    left out as a whole: a trainer that freezes it has nothing new to say of it.
    """
    unknown = sorted(set(new) - set(served) - {OUTPUT})
    missing = sorted(set(served) - set(new))
    if not any(name.startswith(VISION) for name in new):
        missing = [name for name in missing if not name.startswith(VISION)]
    other = sorted(name for name in set(new) & set(served) if new[name] != served[name])
    for names, what in ((missing, "lacks"), (unknown, "has unknown"), (other, "has other shapes for")):
        if names:
            raise ModelError(
                f"{folder} {what} {len(names)} tensors, first {names[0]}",
                "push all weights of the model that is served, under the names of its checkpoint",
            )


def tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    from safetensors import safe_open

    for path in files(folder):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                yield name, file.get_tensor(name)


def repack_tied_head(model: Any) -> None:
    """Pack the output matrix again where it shares the embedding.

    On CPUs vLLM multiplies with a packed copy of the output matrix. A reload packs a layer when its own tensors
    arrive, and a tied one has none of its own, so it would go on with the old copy.
    """
    head, embedding = model.language_model.lm_head, model.language_model.model.embed_tokens
    if getattr(head, "weight", None) is None or head is embedding:
        return
    if head.weight.data_ptr() == embedding.weight.data_ptr():
        head.quant_method.process_weights_after_loading(head)
