"""Replaces the served weights in place, from a folder of safetensors."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from covt_model.checkpoints.latent_rows import read_rows
from covt_model.model_errors import CheckpointError, ModelError
from covt_rollout.vllm_plugin.engine_settings import checkpoint_folder

if TYPE_CHECKING:
    from covt_rollout.vllm_plugin.latent_runner import LatentRunner
    from covt_rollout.vllm_plugin.v2.device_runner import DeviceLatentRunner

    AnyRunner = LatentRunner | DeviceLatentRunner

OUTPUT = "language_model.lm_head.weight"
VISION = "visual."
Shapes = dict[str, tuple[int, ...]]


def check(runner: AnyRunner, folder: Path) -> torch.nn.Module | None:
    """Compare names and shapes of `folder/*.safetensors` with the served checkpoint's, and read the head beside them.

    Nothing is changed. Raises CheckpointError or ModelError for weights that can't be loaded.
    """
    names = served_model(runner).hf_to_vllm_mapper.map_name
    shapes, served = read_shapes(folder), read_shapes(checkpoint_folder(runner.model_config.model))
    compare({names(n): s for n, s in shapes.items()}, {names(n): s for n, s in served.items()}, folder)
    return runner.read_head(folder)


def load(runner: AnyRunner, folder: Path, head: torch.nn.Module | None) -> dict[str, Any]:
    """Load every tensor of `folder/*.safetensors`, named as in checkpoints or as parameters, into the model.

    The caller has called `check`, has paused the engine and clears its caches.

    Args:
        runner: of the served model.
        folder: of the new weights.
        head: of the feedback rule, as `check` returned it.

    Returns:
        The seconds that loading took.
    """
    begun = time.perf_counter()
    runner.reload_weights(weights_iterator=tensors(folder))
    repack_tied_head(served_model(runner))
    runner.latents.head = head
    return {"seconds": time.perf_counter() - begun}


def finish(runner: AnyRunner) -> None:
    """After vLLM's own transfer of weights, pack the output matrix and clear what old weights have computed."""
    repack_tied_head(served_model(runner))
    runner.reset_encoder_cache()
    runner.reset_mm_cache()


def served_model(runner: AnyRunner) -> Any:
    """vLLM's model, untyped because it has attributes that vLLM's interface of models doesn't name."""
    return runner.get_model()


def files(folder: Path) -> list[Path]:
    """The folder's safetensors, sorted; raises CheckpointError when there are none."""
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        raise CheckpointError(f"{folder} has no *.safetensors", "write the weights there before loading them")
    return found


def read_shapes(folder: Path) -> Shapes:
    """Read the shapes of all tensors by name from the files' headers; raises CheckpointError for a truncated file."""
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

    A tied output matrix is not a tensor of the checkpoint, but the new ones may include it. A trainer that freezes the
    vision tower may leave it out as a whole.
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
    """Read the folder's tensors one after the other."""
    from safetensors import safe_open

    for path in files(folder):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                yield name, file.get_tensor(name)


def apply_latent_rows(runner: AnyRunner) -> None:
    """Put the latent tokens' rows into the matrices, where the checkpoint has them beside linked weights.

    Under tensor parallelism each rank replaces the rows of its own slice of the vocabulary.
    """
    ids, rows = read_rows(checkpoint_folder(runner.model_config.model))
    if not rows:
        return
    language = served_model(runner).language_model
    for name, layer in (
        ("model.embed_tokens.weight", language.model.embed_tokens),
        ("lm_head.weight", language.lm_head),
    ):
        if name not in rows:
            continue
        first, last = layer.shard_indices.org_vocab_start_index, layer.shard_indices.org_vocab_end_index
        for token, row in zip(ids, rows[name], strict=True):
            if first <= token < last:
                layer.weight.data[token - first] = row.to(layer.weight)
    if "lm_head.weight" in rows:
        language.lm_head.quant_method.process_weights_after_loading(language.lm_head)
    repack_tied_head(served_model(runner))


def repack_tied_head(model: Any) -> None:
    """Pack the output matrix again where it shares the embedding.

    On CPUs vLLM multiplies with a packed copy of the output matrix. A reload packs a layer when its own tensors
    arrive. A tied matrix has none, so it would keep using the old copy.
    """
    head, embedding = model.language_model.lm_head, model.language_model.model.embed_tokens
    if getattr(head, "weight", None) is None or head is embedding:
        return
    if head.weight.data_ptr() == embedding.weight.data_ptr():
        head.quant_method.process_weights_after_loading(head)
