"""A tiny model from scratch, as a complete checkpoint folder that stock Transformers and vLLM load."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import interpolate

from covt_model.checkpoints.latent_checkpoint import quiet_progress
from covt_model.encoding.latent_tokens import add_latent_tokens, rows_needed
from covt_model.encoding.prompt import IMAGE_TAG
from covt_model.families import DEFAULT_FAMILY, find_family
from covt_model.families.family import TinyFamily, TinySizes
from covt_model.latent_config import LatentConfig
from covt_model.latents.heads import build_head, save_head
from covt_model.model_errors import ModelError

ROLES = ("system", "user", "assistant")


def build_tiny(
    out_dir: Path | str,
    texts: Iterable[str],
    images: Sequence[torch.Tensor],
    *,
    family: str = DEFAULT_FAMILY,
    latent_size: int = 8,
    head: str = "identity",
    normalize: str = "rms",
    vocab_size: int = 512,
    seed: int = 0,
    **sizes: Any,
) -> Path:
    """Write a randomly initialized model with its own tokenizer to `out_dir` and return that path.

    The vision tower is rescaled so that the visual tokens of `images` have mean 0 and standard deviation 1 in every
    dimension: features of a random tower share a large common component that hides the image.

    Args:
        out_dir: folder to write to.
        texts: what the byte-level BPE tokenizer is trained on.
        images: sample images, uint8 [3, H, W] of whole cells; best the distinct cells of the data.
        family: the family's `model_type`.
        latent_size: K, latent steps per segment.
        head: the rule that makes a latent from a hidden state.
        normalize: how the hidden state is normalized before it is fed back.
        vocab_size: the most tokens the tokenizer may have; with few different texts it has fewer. The embedding has
            that number of rows rounded up to a multiple of 64.
        seed: seed of the weights.
        sizes: fields of `TinySizes`.

    Raises:
        ModelError: sizes that don't fit together, too few sample images, or an unknown family.
    """
    tiny, sized = find_family(family).tiny(), TinySizes(**sizes)
    if sum(image.numel() for image in images) < 2 * 3 * tiny.cell**2:
        raise ModelError("build_tiny got fewer than two cells of sample images", "pass images of the training set")
    words = [part for text in (*texts, *ROLES) for part in text.split(IMAGE_TAG)]
    tokenizer = tiny.train_tokenizer(words, vocab_size)
    ids = add_latent_tokens(tokenizer)
    if len(tokenizer) > vocab_size:
        raise ModelError(
            f"vocab_size {vocab_size} is below the {len(tokenizer)} tokens of bytes and special tokens",
            "use at least 266",
        )
    config = tiny.config(sized, rows_needed(0, len(tokenizer)), tokenizer.convert_tokens_to_ids)
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    model = tiny.random_model(config, seed)
    tiny.scale_vision(model, images, seed, sized)
    with quiet_progress():
        model.save_pretrained(out)
    _write_text_files(out, tiny, tokenizer)
    if (weighted := build_head(head, sized.hidden, seed)) is not None:
        save_head(out, weighted.state_dict())
    LatentConfig(
        start_id=ids.start, pad_id=ids.pad, end_id=ids.end, size=latent_size, head=head, normalize=normalize
    ).write(out)
    return out


def _write_text_files(out: Path, tiny: TinyFamily, tokenizer: Any) -> None:
    """Write tokenizer, chat template, image settings and generation settings."""
    tokenizer.save_pretrained(out)
    _write_json(out / "preprocessor_config.json", tiny.preprocessor())
    (out / "chat_template.jinja").write_text(tiny.chat_template)
    end, text_end = (tokenizer.convert_tokens_to_ids(token) for token in (tiny.end_token, tiny.text_end_token))
    _write_json(
        out / "generation_config.json",
        {"bos_token_id": text_end, "eos_token_id": [end, text_end], "pad_token_id": text_end},
    )


def distinct_cells(images: Iterable[torch.Tensor], family: str = DEFAULT_FAMILY) -> list[torch.Tensor]:
    """List the different whole cells, uint8 [3, side, side] each, of images [3, H, W], in order of appearance.

    A side shorter than a cell is stretched to one.
    """
    side = find_family(family).tiny().cell
    found: dict[bytes, torch.Tensor] = {}
    for image in images:
        size = [max(side, length) for length in image.shape[1:]]
        whole = image if size == list(image.shape[1:]) else interpolate(image[None], size)[0]
        rows = whole.unfold(1, side, side).unfold(2, side, side)
        for cell in rows.permute(1, 2, 0, 3, 4).reshape(-1, 3, side, side):
            found.setdefault(cell.numpy().tobytes(), cell)
    return list(found.values())


def random_cells(count: int, seed: int, family: str = DEFAULT_FAMILY) -> list[torch.Tensor]:
    """Draw cells of noise, uint8 [3, side, side] each, for data with too few images to scale a vision tower with."""
    side = find_family(family).tiny().cell
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator))


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")
