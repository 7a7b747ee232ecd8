"""A tiny Qwen2.5-VL from scratch, as a complete checkpoint folder that stock Transformers and vLLM load."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from covt_model.checkpoints.latent_checkpoint import quiet_progress
from covt_model.encoding.latent_tokens import add_latent_tokens, rows_needed
from covt_model.encoding.prompt import IMAGE_TAG
from covt_model.families.qwen2_5_vl.image_patches import ImageSettings, patchify
from covt_model.latent_config import LatentConfig
from covt_model.latents.heads import build_head, save_head
from covt_model.model_errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
ROLES = ("system", "user", "assistant")
# Qwen2.5-VL's layout without the default system prompt, whose tokens a tiny model would have to carry in every row.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# One 28 px cell is one visual token; pictures from 1 to 16 × 16 cells keep their size.
SETTINGS = ImageSettings(min_pixels=28 * 28, max_pixels=16 * 16 * 28 * 28)


def build_tiny(
    out_dir: Path | str,
    texts: Iterable[str],
    images: Sequence[torch.Tensor],
    *,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 2,
    intermediate: int = 192,
    mrope: tuple[int, int, int] = (4, 6, 6),
    rope_theta: float = 1e4,
    init_std: float = 0.08,
    vision_depth: int = 1,
    vision_hidden: int = 64,
    window: int = 28,
    latent_size: int = 8,
    head: str = "identity",
    normalize: str = "rms",
    vocab_size: int = 512,
    max_positions: int = 4096,
    seed: int = 0,
) -> Path:
    """Write a randomly initialised model with its own tokenizer to `out_dir` and return that path.

    texts: what the byte-level BPE tokenizer is trained on. images: sample pictures, uint8 [3, H, W] of whole 28 px
    cells, the distinct tiles of the data at best; the merger's last linear layer is rescaled so that their visual
    tokens have mean 0 and standard deviation 1 in every dimension, since features of a random vision tower share a
    large common component that hides the picture. With `window` 28 each cell is a vision window of its own, so a
    crop of one cell has the very features that the cell has within its picture. `vocab_size` is the most tokens the
    tokenizer may have; with few different texts it has fewer, and the embedding has that number of rows rounded up to
    a multiple of 64.
    """
    if 2 * sum(mrope) != hidden // heads:
        raise ModelError(f"mrope {mrope} must sum to half the head size {hidden // heads}", "change mrope or heads")
    if sum(picture.numel() for picture in images) < 2 * 3 * SETTINGS.cell**2:
        raise ModelError("build_tiny got fewer than two cells of sample pictures", "pass pictures of the training set")
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    words = [part for text in (*texts, *ROLES) for part in text.split(IMAGE_TAG)]
    tokenizer = train_tokenizer(words, vocab_size)
    ids = add_latent_tokens(tokenizer)
    if len(tokenizer) > vocab_size:
        raise ModelError(
            f"vocab_size {vocab_size} is below the {len(tokenizer)} tokens of bytes and special tokens",
            "use at least 266",
        )
    token = tokenizer.convert_tokens_to_ids
    config = {
        "tie_word_embeddings": True,
        "image_token_id": token("<|image_pad|>"),
        "video_token_id": token("<|video_pad|>"),
        "vision_start_token_id": token("<|vision_start|>"),
        "vision_end_token_id": token("<|vision_end|>"),
        "bos_token_id": token("<|endoftext|>"),
        "eos_token_id": token("<|im_end|>"),
        "pad_token_id": token("<|endoftext|>"),
        "text_config": {
            "vocab_size": rows_needed(0, len(tokenizer)),
            "hidden_size": hidden,
            "intermediate_size": intermediate,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "max_position_embeddings": max_positions,
            "rms_norm_eps": 1e-6,
            "initializer_range": init_std,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": rope_theta, "mrope_section": list(mrope)},
            "bos_token_id": token("<|endoftext|>"),
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": None,
        },
        "vision_config": {
            "depth": vision_depth,
            "hidden_size": vision_hidden,
            "intermediate_size": 2 * vision_hidden,
            "num_heads": max(1, vision_hidden // 32),
            "out_hidden_size": hidden,
            "window_size": window,
            "fullatt_block_indexes": [],
            "initializer_range": init_std,
            "patch_size": SETTINGS.patch,
            "spatial_merge_size": SETTINGS.merge,
            "temporal_patch_size": SETTINGS.temporal,
        },
    }
    model = _random_model(config, seed)
    scale_vision(model, images, seed)
    with quiet_progress():
        model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    _write_json(out / "preprocessor_config.json", _preprocessor())
    (out / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    _write_json(
        out / "generation_config.json",
        {
            "bos_token_id": token("<|endoftext|>"),
            "eos_token_id": [token("<|im_end|>"), token("<|endoftext|>")],
            "pad_token_id": token("<|endoftext|>"),
        },
    )
    if (weighted := build_head(head, hidden, seed)) is not None:
        save_head(out, weighted.state_dict())
    LatentConfig(
        start_id=ids.start, pad_id=ids.pad, end_id=ids.end, size=latent_size, head=head, normalize=normalize
    ).write(out)
    return out


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """Byte-level BPE with Qwen2's pre-tokenizer, leaving room for the special and latent tokens in `vocab_size`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    bare = Tokenizer(models.BPE())
    bare.normalizer = Qwen2Tokenizer().backend_tokenizer.normalizer
    bare.pre_tokenizer = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL) - 3,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bare.train_from_iterator(texts, trainer)
    trained = json.loads(bare.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=trained["vocab"],
        merges=[tuple(pair) for pair in trained["merges"]],  # pyright: ignore[reportArgumentType]
        unk_token=None,  # pyright: ignore[reportArgumentType]
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=list(SPECIAL[1:]),
        chat_template=CHAT_TEMPLATE,
    )


def distinct_cells(pictures: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """The different 28 px cells, uint8 [3, 28, 28] each, of pictures made of whole cells, in order of appearance."""
    side = SETTINGS.cell
    found: dict[bytes, torch.Tensor] = {}
    for picture in pictures:
        rows = picture.unfold(1, side, side).unfold(2, side, side)
        for cell in rows.permute(1, 2, 0, 3, 4).reshape(-1, 3, side, side):
            found.setdefault(cell.numpy().tobytes(), cell)
    return list(found.values())


@torch.no_grad()
def scale_vision(model: Qwen2_5_VLForConditionalGeneration, images: Sequence[torch.Tensor], seed: int) -> None:
    """Draw the vision tower's weights with variance 1/fan-in, then rescale its last linear layer, both in place.

    Afterwards the images' visual tokens have mean 0 and standard deviation 1 in every dimension.
    """
    visual = model.model.visual
    generator = torch.Generator().manual_seed(seed)
    for parameter in visual.parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
    features = []
    for picture in images:
        pixels, grid = patchify(picture[None], SETTINGS)
        features.append(visual(pixels, grid_thw=torch.tensor([grid])).pooler_output)
    tokens = torch.cat(features)
    mean, scale = tokens.mean(0), 1 / (tokens.std(0) + 1e-8)
    last = cast("torch.nn.Linear", visual.merger.mlp[2])
    last.weight.mul_(scale[:, None])
    last.bias.sub_(mean).mul_(scale)


def _random_model(config: dict, seed: int) -> Qwen2_5_VLForConditionalGeneration:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**config)).float().eval()


def _preprocessor() -> dict:
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "min_pixels": SETTINGS.min_pixels,
        "max_pixels": SETTINGS.max_pixels,
        "patch_size": SETTINGS.patch,
        "merge_size": SETTINGS.merge,
        "temporal_patch_size": SETTINGS.temporal,
        "image_mean": list(SETTINGS.mean),
        "image_std": list(SETTINGS.std),
    }


def _write_json(path: Path, values: dict) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")
