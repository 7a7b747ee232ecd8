"""What families share that take their language model from a text checkpoint: tokens, chat template, rotary settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from covt_model.families.image_settings import ImageSettings

SPECIAL_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
# Put before a text model's own chat template: turns a message of parts into one text with image tokens in it.
CONTENT_PARTS = (
    "{%- set flat = namespace(messages=[]) -%}"
    "{%- for message in messages -%}"
    "{%- if message['content'] is string -%}"
    "{%- set flat.messages = flat.messages + [message] -%}"
    "{%- else -%}"
    "{%- set text = namespace(all='') -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}"
    "{%- set text.all = text.all + '<|vision_start|><|image_pad|><|vision_end|>' -%}"
    "{%- else -%}{%- set text.all = text.all + part['text'] -%}{%- endif -%}"
    "{%- endfor -%}"
    "{%- set flat.messages = flat.messages + [{'role': message['role'], 'content': text.all}] -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- set messages = flat.messages -%}"
)


def mrope_sections(head_size: int) -> list[int]:
    """Split half of a head's dimensions among time, height and width as the published models do: 2 : 3 : 3."""
    half = head_size // 2
    side = 3 * half // 8
    return [half - 2 * side, side, side]


def rotary_settings(text: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary settings under the name of today's Transformers or of earlier ones."""
    if (parameters := text.get("rope_parameters")) is not None:
        return dict(parameters)
    scaling = text.get("rope_scaling") or {}
    return {"rope_theta": text.get("rope_theta", 10_000.0), "rope_type": scaling.get("rope_type", scaling.get("type"))}


def preprocessor_config(settings: ImageSettings, processor: str, min_pixels: int, max_pixels: int) -> dict[str, Any]:
    """The content of preprocessor_config.json; processor: the class that Transformers takes for text and images."""
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": processor,
        "min_pixels": min_pixels,
        "max_pixels": max_pixels,
        "patch_size": settings.patch,
        "merge_size": settings.merge,
        "temporal_patch_size": settings.temporal,
        "image_mean": list(settings.mean),
        "image_std": list(settings.std),
    }
