"""Full weights read from and loaded into a sharded model, bucket by bucket."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from covt_runtime.runtime_errors import CheckpointError

SHARD_BYTES = 5 << 30
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def gather(parameters: Sequence[Any], most: int | None = None) -> None:
    """Gather sharded parameters on every rank; parameters that are whole already cost nothing.

    Args:
        parameters: in the same order on every rank.
        most: elements per message, unless it is a single parameter; None sends one message.
    """
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    absent = [p for p in parameters if p.ds_status == ZeroParamStatus.NOT_AVAILABLE]
    for bucket in by_size(absent, most):
        bucket[0].all_gather_coalesced(bucket).wait()


def by_size(parameters: Sequence[Any], most: int | None) -> Iterator[list[Any]]:
    """Divide parameters, in order, into buckets of at most this many elements, unless it is a single parameter."""
    bucket: list[Any] = []
    size = 0
    for parameter in parameters:
        if bucket and most is not None and size + parameter.ds_numel > most:
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.ds_numel
    if bucket:
        yield bucket


@contextmanager
def gathered_by_module(module: nn.Module) -> Iterator[None]:
    """Gather each submodule's parameters around its forward only, inside the context (collective).

    It is for forwards without gradients where DeepSpeed's own hooks have been removed.
    """
    handles = []
    for part in module.modules():
        own = [p for p in part.parameters(recurse=False) if not getattr(p, "ds_persist", False)]
        if own:
            handles.append(part.register_forward_pre_hook(lambda *_, own=own: gather(own)))
            handles.append(part.register_forward_hook(lambda *_, own=own: _partition(own)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _partition(parameters: Sequence[Any]) -> None:
    parameters[0].partition(param_list=list(parameters))


def _buckets(module: nn.Module, bucket_bytes: int) -> Iterator[list[tuple[str, Any]]]:
    bucket: list[tuple[str, Any]] = []
    size = 0
    for name, parameter in module.named_parameters():
        bucket.append((name, parameter))
        size += getattr(parameter, "ds_numel", parameter.numel()) * parameter.element_size()
        if size >= bucket_bytes:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket


def iterate_gathered(module: nn.Module, bucket_bytes: int) -> Iterator[tuple[str, Tensor | None]]:
    """(name, full tensor on the CPU), gathered bucket by bucket; None instead of the tensor on ranks other than 0."""
    import deepspeed
    import torch.distributed as dist

    is_main = dist.get_rank() == 0
    for bucket in _buckets(module, bucket_bytes):
        with deepspeed.zero.GatheredParameters([parameter for _, parameter in bucket]):
            copies = [(name, p.detach().cpu() if is_main else None) for name, p in bucket]
        yield from copies


def save_gathered(
    named: Iterator[tuple[str, Tensor | None]], folder: Path, dtype: Literal["bf16", "fp32"] | None, rank: int
) -> None:
    """Write tensors as `model.safetensors`, or above 5 GiB in total as numbered files with an index."""
    shards: list[dict[str, Tensor]] = [{}]
    sizes: list[int] = [0]
    written: list[Path] = []

    def flush() -> None:
        path = folder / f"model-part-{len(written) + 1:05d}.safetensors"
        save_file(shards[-1], path, metadata={"format": "pt"})
        written.append(path)

    weight_map: dict[str, int] = {}
    total = 0
    if rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
    for name, tensor in named:
        if rank != 0 or tensor is None:
            continue
        tensor = (tensor if dtype is None else tensor.to(DTYPES[dtype])).contiguous()
        if sizes[-1] and sizes[-1] + tensor.nbytes > SHARD_BYTES:
            flush()
            shards[-1] = {}
            sizes.append(0)
        shards[-1][name] = tensor
        weight_map[name] = len(written)
        sizes[-1] += tensor.nbytes
        total += tensor.nbytes
    if rank != 0:
        return
    flush()
    if len(written) == 1:
        written[0].rename(folder / "model.safetensors")
        return
    names = [f"model-{i + 1:05d}-of-{len(written):05d}.safetensors" for i in range(len(written))]
    for path, name in zip(written, names, strict=True):
        path.rename(folder / name)
    index = {"metadata": {"total_size": total}, "weight_map": {k: names[i] for k, i in weight_map.items()}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True))


def read_tensor_files(path: Path) -> dict[str, Path]:
    """The safetensors file of each tensor, by its name, for one file or all files of a folder."""
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{path} holds no .safetensors file", "give the folder of a model or checkpoint")
    where: dict[str, Path] = {}
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            where.update(dict.fromkeys(tensors.keys(), file))
    return where


def _read(source: Mapping[str, Tensor] | dict[str, Path], name: str) -> Tensor:
    found = source[name]
    if isinstance(found, Tensor):
        return found
    with safe_open(found, framework="pt") as tensors:
        return tensors.get_tensor(name)


def load_gathered(
    module: nn.Module, source: Mapping[str, Tensor] | Path, rank: int, bucket_bytes: int = 64 << 20
) -> None:
    """Overwrite every parameter of a sharded model by name.

    Raises:
        CheckpointError: a parameter is missing or has another shape.
    """
    import deepspeed

    # Every rank reads files, so that all ranks find the same mistakes. A mapping exists only on rank 0.
    tensors = read_tensor_files(source) if isinstance(source, Path) else source
    if rank == 0 or isinstance(source, Path):
        missing = [name for name, _ in module.named_parameters() if name not in tensors]
        if missing:
            raise CheckpointError(
                f"{len(missing)} parameters are missing, the first is {missing[0]}",
                "load a checkpoint of the same architecture",
            )
    for bucket in _buckets(module, bucket_bytes):
        with deepspeed.zero.GatheredParameters([parameter for _, parameter in bucket], modifier_rank=0):
            if rank != 0:
                continue
            for name, parameter in bucket:
                tensor = _read(tensors, name)
                if tensor.shape != parameter.shape:
                    raise CheckpointError(
                        f"{name} has shape {tuple(tensor.shape)}, the model has {tuple(parameter.shape)}",
                        "load a checkpoint of the same architecture and size",
                    )
                parameter.data.copy_(tensor)
