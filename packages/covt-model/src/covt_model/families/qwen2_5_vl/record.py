"""The registry's record of Qwen2.5-VL."""

from __future__ import annotations

from typing import Any

from covt_model.families.family import Family, TextBackbone, TinyFamily
from covt_model.families.qwen2_5_vl.image_patches import DEFAULTS, grid_of, patchify, resize
from covt_model.families.qwen2_5_vl.positions import mrope_positions
from covt_model.families.qwen2_5_vl.published_sizes import published


def _model_class() -> Any:
    from transformers import Qwen2_5_VLForConditionalGeneration

    return Qwen2_5_VLForConditionalGeneration


def _vision_class() -> Any:
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

    return Qwen2_5_VisionTransformerPretrainedModel


def _is_cellwise(vision: Any) -> bool:
    """Whether every block has windows of one cell, as in tiny models."""
    return not vision.fullatt_block_indexes and vision.window_size == vision.patch_size * vision.spatial_merge_size


def _tiny() -> TinyFamily:
    from covt_model.families.qwen2_5_vl import text_backbone, tiny
    from covt_model.families.qwen2_5_vl.vision_scaling import standardize_vision

    return TinyFamily(
        cell=tiny.SETTINGS.cell,
        chat_template=tiny.CHAT_TEMPLATE,
        end_token="<|im_end|>",
        text_end_token="<|endoftext|>",
        train_tokenizer=tiny.train_tokenizer,
        config=tiny.tiny_config,
        random_model=tiny.random_model,
        scale_vision=lambda model, images, seed: standardize_vision(model.model.visual, images, tiny.SETTINGS, seed),
        preprocessor=lambda: text_backbone.preprocessor(tiny.SETTINGS.min_pixels, tiny.SETTINGS.max_pixels),
    )


def _text_backbone() -> TextBackbone:
    from covt_model.families.qwen2_5_vl import text_backbone

    return TextBackbone(
        text_types=text_backbone.TEXT_TYPES,
        special_tokens=text_backbone.SPECIAL_TOKENS,
        template_prefix=text_backbone.CONTENT_PARTS,
        config=text_backbone.build_config,
        zero_tensors=text_backbone.zero_tensors,
        vision_tower=text_backbone.vision_tower,
        preprocessor=text_backbone.preprocessor,
    )


FAMILY = Family(
    model_type="qwen2_5_vl",
    title="Qwen2.5-VL",
    model_class_name="Qwen2_5_VLForConditionalGeneration",
    model_class=_model_class,
    vision_class=_vision_class,
    image_settings=DEFAULTS,
    grid_of=grid_of,
    resize=resize,
    patchify=patchify,
    is_cellwise=_is_cellwise,
    positions=mrope_positions,
    published_config=published,
    tiny=_tiny,
    text_backbone=_text_backbone,
    vocabulary_weights=("model.embed_tokens.weight", "lm_head.weight"),
)
