"""Made-up pictures and rows for the model tests."""

from __future__ import annotations

import io
import json
import random

import torch
from PIL import Image as PilImage

from covt_data.schema import Image, Row, Step


def random_picture(generator: torch.Generator, cells: int) -> torch.Tensor:
    """uint8 [3, 28·cells, 28·cells] of 7 px squares in random colours."""
    squares = torch.randint(0, 256, (3, cells * 4, cells * 4), generator=generator, dtype=torch.uint8)
    return squares.repeat_interleave(7, 1).repeat_interleave(7, 2)


def png(picture: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    PilImage.fromarray(picture.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def make_row(index: int, *, segments: int = 1, cells: int = 2, helpers: int = 4) -> Row:
    """A row with `segments` latent segments of `helpers` helper images, each with a one-cell focus box."""
    generator = torch.Generator().manual_seed(index)
    choose = random.Random(index)
    picture = random_picture(generator, cells)
    steps, focus = [Step(type="text", text="I look.")], []
    for number in range(segments):
        boxes = []
        for _ in range(helpers):
            x, y = choose.randrange(cells) * 28, choose.randrange(cells) * 28
            boxes.append([x, y, x + 28, y + 28])
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


def text_model(*, heads: int = 4, kv_heads: int = 2, layers: int = 2, seed: int = 0):
    """A language model of Qwen2.5-VL's kind with random weights, head size 16, grouped queries; fp32."""
    from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel

    config = Qwen2_5_VLTextConfig(
        vocab_size=32,
        hidden_size=heads * 16,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        initializer_range=0.15,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLTextModel(config).eval()
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms of 1 and biases of 0 would hide what depends on them
                parameter.data.add_(0.2 * torch.randn_like(parameter))
    return model
