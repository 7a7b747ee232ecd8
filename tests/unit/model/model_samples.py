"""Made-up pictures and rows for the model tests."""

from __future__ import annotations

import io
import json
import random
from typing import Any

import torch
from PIL import Image as PilImage
from transformers import AutoModel

from covt_data.schema import Image, Row, Step
from covt_model.families import DEFAULT_FAMILY, find_family

MROPE = {16: [2, 3, 3], 24: [4, 4, 4]}


def random_picture(generator: torch.Generator, cells: int, side: int = 28) -> torch.Tensor:
    """uint8 [3, side·cells, side·cells] of squares in random colors, 4 × 4 in a cell."""
    squares = torch.randint(0, 256, (3, cells * 4, cells * 4), generator=generator, dtype=torch.uint8)
    return squares.repeat_interleave(side // 4, 1).repeat_interleave(side // 4, 2)


def png(picture: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    PilImage.fromarray(picture.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def make_row(index: int, *, segments: int = 1, cells: int = 2, helpers: int = 4, side: int = 28) -> Row:
    """A row with `segments` latent segments of `helpers` helper images, each with a focus box of one cell."""
    generator = torch.Generator().manual_seed(index)
    choose = random.Random(index)
    picture = random_picture(generator, cells, side)
    steps, focus = [Step(type="text", text="I look.")], []
    for number in range(segments):
        boxes = []
        for _ in range(helpers):
            x, y = choose.randrange(cells) * side, choose.randrange(cells) * side
            boxes.append([x, y, x + side, y + side])
        focus.append(boxes)
        steps.append(Step(type="latent", images=[Image(bytes=png(picture))] * helpers))
        steps.append(Step(type="text", text=f"Step {number}: the answer is \\boxed{{B{number + 1}}}."))
    return Row(
        id=f"row-{index}",
        source="made-up",
        split="train",
        question="<image>Follow the arrows. Where do you end?",
        images=[Image(bytes=png(picture))],
        answer="B1",
        grader="text",
        steps=steps,
        metadata=json.dumps({"focus": focus}),
    )


def text_model(
    family: str = DEFAULT_FAMILY,
    *,
    heads: int = 4,
    kv_heads: int = 2,
    layers: int = 2,
    head_size: int = 16,
    seed: int = 0,
):
    """A language model of the family's kind with random weights, 16 dimensions per head, grouped queries; fp32."""
    config = (
        find_family(family)
        .model_class()
        .config_class.sub_configs["text_config"](
            vocab_size=32,
            hidden_size=heads * 16,
            intermediate_size=96,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            initializer_range=0.15,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": MROPE[head_size]},
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
    )
    if hasattr(config, "head_dim"):
        config.head_dim = head_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModel.from_config(config, dtype=torch.float32).eval()
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms of 1 and biases of 0 would hide what depends on them
                parameter.data.add_(0.2 * torch.randn_like(parameter))
    return model


def visual_arguments(features: torch.Tensor, is_image: torch.Tensor, hidden: int) -> dict[str, Any]:
    """What Transformers' language model is told of DeepStack: features [N, W] of the visual tokens, bool [B, T]."""
    if features.shape[1] == hidden:
        return {}
    return {"visual_pos_masks": is_image, "deepstack_visual_embeds": list(features[:, hidden:].split(hidden, 1))}
