"""A vision-language model from a text checkpoint and a fresh vision tower: what `covt model build` writes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from covt_model.checkpoints.hf_folder import write_shards
from covt_model.checkpoints.text_checkpoint import TextCheckpoint, open_text_checkpoint
from covt_model.encoding.latent_tokens import LatentIds, add_latent_tokens, initialize_rows, rows_needed
from covt_model.families import DEFAULT_FAMILY, find_family
from covt_model.families.family import TextBackbone, VisionSizes
from covt_model.latent_config import LatentConfig
from covt_model.latents.heads import build_head, save_head
from covt_model.model_errors import ModelError

EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
SAMPLE_IMAGES, SAMPLE_CELLS = 32, 4


def build_checkpoint(
    text: str | Path,
    out: Path | str,
    *,
    family: str = DEFAULT_FAMILY,
    vision: VisionSizes | None = None,
    images: Sequence[torch.Tensor] = (),
    pixels: tuple[int, int] | None = None,
    latent_size: int = 8,
    head: str = "identity",
    normalize: str = "rms",
    dtype: torch.dtype | None = None,
    seed: int = 0,
) -> Path:
    """Write a vision-language model with latent tokens whose language model is a text checkpoint's.

    For text, the model's logits over the text checkpoint's vocabulary equal that checkpoint's. The tokenizer keeps its
    tokens and its chat template; tokens for images and latents are added, with rows near the mean of the others.
    Tensors of a Hugging Face folder are copied one at a time; a GGUF file is read whole.

    Args:
        text: a Hugging Face folder, a GGUF file, or `smollm2`.
        out: folder to write to, which must not exist.
        family: the model family's `model_type`.
        vision: sizes of the vision tower.
        images: sample images, uint8 [3, H, W] each, whose visual tokens get mean 0 and the standard deviation of the
            text embeddings; by default images of random colors and noise.
        pixels: least and most pixels of an image; by default those of 1 and 1280 visual tokens.
        latent_size: K, latent steps per segment.
        head: the rule that makes a latent from a hidden state.
        normalize: how the hidden state is normalized before it is fed back.
        dtype: dtype of all weights; by default that of the text checkpoint.
        seed: seed of the vision tower and of the new rows.

    Returns:
        `out`.

    Raises:
        CheckpointError: the text checkpoint is missing or damaged.
        ModelError: the family can't take this text model, or `out` exists.
    """
    out = Path(out)
    if out.exists():
        raise ModelError(f"{out} exists", "choose another --out, or remove it")
    target, sizes = find_family(family), vision or VisionSizes()
    backbone, pixels = (
        target.text_backbone(),
        pixels or (target.image_settings.cell**2, 1280 * target.image_settings.cell**2),
    )
    source = open_text_checkpoint(text)
    _check_source(source, backbone, target.title)
    used = len(source.tokenizer)
    ids = _extend_tokenizer(source.tokenizer, backbone)
    rows = rows_needed(source.read(EMBEDDING).shape[0], len(source.tokenizer))
    config = backbone.config(source.config, sizes, rows, source.tokenizer.convert_tokens_to_ids, source.name)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        std = source.read(EMBEDDING)[:used].float().std().item()
        tower = backbone.vision_tower(config, images or _sample_images(seed), pixels, std, seed)
        names, tensors = _tensors(source, backbone, config, tower, seed, range(used, len(source.tokenizer)), used)
        stored = ((target.stored_name(name), t if dtype is None else t.to(dtype)) for name, t in tensors)
        write_shards(stored, partial, map(target.stored_name, names))
        _write_json(partial / "config.json", config)
        source.tokenizer.save_pretrained(partial)
        _write_json(partial / "preprocessor_config.json", backbone.preprocessor(*pixels))
        _write_generation_config(partial, source.tokenizer)
        if (weighted := build_head(head, config["text_config"]["hidden_size"], seed)) is not None:
            save_head(partial, weighted.state_dict())
        LatentConfig(
            start_id=ids.start, pad_id=ids.pad, end_id=ids.end, size=latent_size, head=head, normalize=normalize
        ).write(partial)
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _check_source(source: TextCheckpoint, backbone: TextBackbone, title: str) -> None:
    kind = source.config.get("model_type")
    if kind not in backbone.text_types:
        raise ModelError(
            f"{source.name} is a {kind!r} model, which {title} can't take as its language model",
            f"use a text model of type {' or '.join(backbone.text_types)}",
        )
    if EMBEDDING not in source.names:
        raise ModelError(f"{source.name} has no {EMBEDDING}", "use a causal language model's checkpoint")
    if not source.tokenizer.chat_template:
        raise ModelError(f"{source.name} has no chat template", "use an instruction-tuned checkpoint")
    if "<|im_end|>" not in source.tokenizer.get_vocab():
        raise ModelError(f"the tokenizer of {source.name} has no <|im_end|>", "use a checkpoint with ChatML turns")


def _extend_tokenizer(tokenizer: Any, backbone: TextBackbone) -> LatentIds:
    """Add the image and latent tokens, and let the chat template take messages with images."""
    from tokenizers import AddedToken

    missing = [token for token in backbone.special_tokens if token not in tokenizer.get_vocab()]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in missing], special_tokens=True)
    tokenizer.chat_template = backbone.template_prefix + tokenizer.chat_template
    return add_latent_tokens(tokenizer)


def _tensors(
    source: TextCheckpoint,
    backbone: TextBackbone,
    config: dict[str, Any],
    tower: torch.nn.Module,
    seed: int,
    new_ids: range,
    used: int,
) -> tuple[list[str], Iterator[tuple[str, torch.Tensor]]]:
    """The names of all tensors, and an iterator over them.

    Raises:
        ModelError: the text checkpoint lacks a tensor, or has one that the family has no place for.
    """
    text, zeros = config["text_config"], backbone.zero_tensors(config)
    expected = _language_shapes(config)
    taken = sorted((name for name in source.names if name in expected), key=lambda name: name != EMBEDDING)
    absent = [name for name in expected if name not in source.names and name not in zeros]
    extra = [name for name in source.names if name not in expected and "rotary_emb" not in name]
    if text["tie_word_embeddings"]:
        extra = [name for name in extra if name != OUTPUT]
    if absent or extra:
        what = f"lacks {absent[0]}" if absent else f"has {extra[0]}, which the model has no place for"
        raise ModelError(f"{source.name} {what}", "download the checkpoint again")
    filled = [name for name in zeros if name not in source.names]
    visual = {f"visual.{name}": tensor for name, tensor in tower.state_dict().items()}

    def all_tensors() -> Iterator[tuple[str, torch.Tensor]]:
        kind = torch.float32
        for name in taken:
            tensor = source.read(name)
            kind = tensor.dtype
            if name in (EMBEDDING, OUTPUT):
                tensor = torch.cat([tensor, tensor.new_zeros(text["vocab_size"] - len(tensor), tensor.shape[1])])
                initialize_rows(tensor, new_ids, used, torch.Generator().manual_seed(seed))
            elif tuple(tensor.shape) != expected[name]:
                raise ModelError(
                    f"{source.name}: {name} is {tuple(tensor.shape)}, its config says {expected[name]}",
                    "download the checkpoint again",
                )
            yield name, tensor
        yield from ((name, torch.zeros(zeros[name], dtype=kind)) for name in filled)
        yield from ((name, tensor.to(kind)) for name, tensor in visual.items())

    return [*taken, *filled, *visual], all_tensors()


def _language_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Checkpoint names and shapes of the language model's tensors, from a model without memory."""
    from covt_model.checkpoints.hf_folder import checkpoint_name

    family = find_family(config)
    with torch.device("meta"):
        model = family.model_class()._from_config(family.model_class().config_class(**config))
    shapes = {checkpoint_name(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config["tie_word_embeddings"]:
        shapes.pop(OUTPUT, None)
    return {name: shape for name, shape in shapes.items() if not name.startswith("visual.")}


def _sample_images(seed: int) -> list[torch.Tensor]:
    """Images of random colors, half of them with noise: uint8 [3, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    side = 28 * SAMPLE_CELLS
    images = []
    for number in range(SAMPLE_IMAGES):
        colors = torch.randint(0, 256, (3, SAMPLE_CELLS, SAMPLE_CELLS), generator=generator)
        image = colors.repeat_interleave(28, 1).repeat_interleave(28, 2)
        if number % 2:
            image = (image + torch.randint(-64, 65, (3, side, side), generator=generator)).clamp(0, 255)
        images.append(image.to(torch.uint8))
    return images


def _write_generation_config(folder: Path, tokenizer: Any) -> None:
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    stops = sorted({end, *([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])})
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end
    _write_json(
        folder / "generation_config.json",
        {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": stops, "pad_token_id": pad},
    )


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")
