"""A random tiny model whose answers begin with a latent span, and a small set of rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from latent_oracle import Oracle
from server_tools import build_checkpoint

from covt_data.ingest.prepare import prepare
from covt_data.schema import Row
from covt_data.store.prepared_set import PreparedSet
from covt_model.encoding.encode import Encoder
from covt_model.latent_config import LatentConfig


def make_set(folder: Path) -> Path:
    """A prepared set with 4 test rows, whose helper pictures are crops of one cell."""
    prepare("trace", folder, options={"n_train": 8, "n_prompts": 1, "n_test": 4})
    return folder


def make_model(folder: Path, rows: list[Row]) -> Path:
    """A checkpoint with ILVR's feedback rule and K 4.

    Its output matrix is its own. The row of the start marker points to the hidden states at the end of the rows'
    prompts, and away from those of other positions, so that answers begin with a span and go on with other tokens.
    """
    checkpoint = build_checkpoint(folder, normalize="none")
    oracle, latent = Oracle(checkpoint), LatentConfig.read(checkpoint)
    encoder = Encoder(checkpoint)
    first, later = hidden_states(oracle, encoder, rows)
    model = oracle.model
    embedding = model.get_input_embeddings().weight.detach()
    output = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(1)) / 4
    # What all hidden states have in common would make one token the likeliest everywhere.
    common = torch.nn.functional.normalize(later.mean(0), dim=0)
    output -= torch.outer(output @ common, common)
    direction = first.mean(0) - later.mean(0)
    needed = (first @ output.T).max()
    # Special tokens are never the likeliest: an answer with an image's placeholder could not be asked again.
    output[encoder.tokenizer.all_special_ids] = 0
    output[latent.start_id] = direction * 2 * needed / (first @ direction).min().clamp(min=1e-3)
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(output)
    model.save_pretrained(checkpoint)
    latent.write(checkpoint)
    return checkpoint


@torch.no_grad()
def hidden_states(oracle: Oracle, encoder: Encoder, rows: list[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states [n, H] at the end of the prompts, and at positions of answers that are forced to have a span."""
    latent = oracle.latent
    first: list[torch.Tensor] = []
    later: list[torch.Tensor] = []
    for row in rows:
        ids, features, grids = oracle.expand(
            encoder.encode_prompt(row).ids.tolist(), [image.bytes for image in row.images]
        )
        span = [latent.start_id, *[latent.pad_id] * latent.size, latent.end_id]
        words = np.random.default_rng(0).integers(0, 256, 24).tolist()
        hidden = oracle.hidden([*ids, *span, *words], len(ids), features, grids, {})
        first.append(hidden[len(ids) - 1])
        later.extend(hidden[len(ids) + latent.size + 1 :])
    return torch.stack(first), torch.stack(later)


def read_rows(folder: Path) -> list[Row]:
    """Its test rows."""
    return list(PreparedSet(folder).rows("test"))
