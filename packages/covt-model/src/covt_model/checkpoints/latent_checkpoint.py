"""Loading and preparing checkpoints: stock Hugging Face folders with latent settings in their config."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from covt_model.checkpoints.hf_folder import NOT_COPIED, SourceWeights, checkpoint_name, link_weights, write_shards
from covt_model.checkpoints.latent_rows import read_rows, save_rows
from covt_model.decoder.varlen_attention import check_attention
from covt_model.encoding.latent_tokens import add_latent_tokens, initialize_rows, rows_needed
from covt_model.families import find_family
from covt_model.latent_config import KEY, LatentConfig, read_config
from covt_model.latents.heads import attach_head, build_head, save_head

if TYPE_CHECKING:
    from covt_model.decoder.model_types import VisionLanguageModel


@contextmanager
def quiet_progress() -> Iterator[None]:
    """Keep Transformers' loading and saving bars off the terminal, which belongs to our own progress display."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_model(
    checkpoint: Path | str, *, dtype: torch.dtype = torch.float32, attention: str = "sdpa"
) -> VisionLanguageModel:
    """The checkpoint's model in evaluation mode, with the weights of its latent head where it has one.

    attention: `sdpa`, or `flash_attention_2` on a GPU in bf16: the names that Transformers has too. Raises ModelError
    when it is another architecture.
    """
    config = read_config(checkpoint)
    family = find_family(config, checkpoint)
    check_attention(attention, dtype)
    with quiet_progress():
        model = family.model_class().from_pretrained(str(checkpoint), dtype=dtype, attn_implementation=attention).eval()
    if KEY in config:
        attach_head(model, checkpoint, LatentConfig.from_dict(config[KEY]))
        _apply_rows(model, checkpoint)
    return model


@torch.no_grad()
def _apply_rows(model: VisionLanguageModel, checkpoint: Path | str) -> None:
    """Put the latent tokens' rows into the embedding and an output matrix of its own."""
    ids, rows = read_rows(checkpoint)
    for name, parameter in model.named_parameters():
        if (new := rows.get(checkpoint_name(name))) is not None:
            parameter[list(ids)] = new.to(parameter.dtype)


def prepare_checkpoint(
    source: Path | str,
    out: Path | str,
    *,
    size: int = 8,
    head: str = "identity",
    normalize: str = "none",
    seed: int = 0,
) -> Path:
    """Write a published checkpoint with the three latent tokens and latent settings to `out`.

    The tokens take free rows of the embedding where there are any, as in every published size. The weights are then
    links to the source's files, and the tokens' rows lie beside them (`latent_rows`). Only where no rows are free does
    the vocabulary grow, and the weights are copied a tensor at a time. The rows are drawn near the mean of the others.

    Args:
        source: folder of the published checkpoint.
        out: folder to write to.
        size: K, latent steps per segment.
        head: the rule that makes a latent from a hidden state.
        normalize: how the hidden state is normalized before it is fed back.
        seed: seed of the rows and of a head with weights.

    Raises:
        CheckpointError: the source is damaged.
        ModelError: the source is of an unknown family.
    """
    from transformers import AutoTokenizer

    out, config = Path(out), read_config(source)
    family = find_family(config, source)
    weights = SourceWeights(source)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for file in Path(source).iterdir():
            if file.is_file() and not NOT_COPIED.match(file.name):
                shutil.copyfile(file, partial / file.name)
        tokenizer = AutoTokenizer.from_pretrained(str(source))
        used = len(tokenizer)
        ids = add_latent_tokens(tokenizer)
        tokenizer.save_pretrained(partial)
        embedding = weights.stored(family.vocabulary_weights[0])
        rows = rows_needed(embedding.shape[0], len(tokenizer))

        def grown(name: str) -> torch.Tensor:
            tensor = weights.read(name)
            tensor = torch.cat([tensor, tensor.new_zeros(rows - len(tensor), tensor.shape[1])])
            initialize_rows(tensor, ids, used, torch.Generator().manual_seed(seed))
            return tensor

        vocabulary = [name for name in family.vocabulary_weights if name in weights.names()]
        if rows == embedding.shape[0]:
            link_weights(Path(source), partial)
            save_rows(partial, {name: grown(name)[list(ids)] for name in vocabulary})
        else:
            names = weights.names()
            tensors = ((family.stored_name(n), grown(n) if n in vocabulary else weights.read(n)) for n in names)
            write_shards(tensors, partial, map(family.stored_name, names))
        text = config.get("text_config") or config
        text["vocab_size"] = rows
        if (weighted := build_head(head, text["hidden_size"], seed)) is not None:
            save_head(partial, weighted.state_dict())
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        LatentConfig(
            start_id=ids.start, pad_id=ids.pad, end_id=ids.end, size=size, head=head, normalize=normalize
        ).write(partial)
        shutil.rmtree(out, ignore_errors=True)
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out
