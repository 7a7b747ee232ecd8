"""The registry's record of Qwen2.5-VL."""

from __future__ import annotations

from typing import Any

from covt_model.families.family import Family, TextBackbone, TinyFamily
from covt_model.families.image_patches import grid_of, patchify, resize
from covt_model.families.mrope_positions import mrope_positions
from covt_model.families.qwen2_5_vl.defaults import DEFAULTS
from covt_model.families.qwen2_5_vl.published_sizes import layer_vectors, published, vision_parameters


def _model_class() -> Any:
    from transformers import Qwen2_5_VLForConditionalGeneration

    return Qwen2_5_VLForConditionalGeneration


def _vision_class() -> Any:
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

    return Qwen2_5_VisionTransformerPretrainedModel


def _visual_features(visual: Any, patches: Any, grids: Any) -> Any:
    from covt_model.families.qwen2_5_vl import tower

    return tower.visual_features(visual, patches, grids)


def _is_cellwise(visual: Any) -> bool:
    from covt_model.families.qwen2_5_vl import tower

    return tower.is_cellwise(visual)


def _empty_tower(vision: Any) -> None:
    vision.depth = 0


def _tiny() -> TinyFamily:
    from covt_model.families import tiny_tokenizer
    from covt_model.families.qwen2_5_vl import text_backbone, tiny
    from covt_model.families.qwen2_5_vl.tower import scale_tower

    return TinyFamily(
        cell=tiny.SETTINGS.cell,
        chat_template=tiny_tokenizer.CHAT_TEMPLATE,
        end_token="<|im_end|>",
        text_end_token="<|endoftext|>",
        train_tokenizer=tiny_tokenizer.train_tokenizer,
        config=tiny.tiny_config,
        random_model=tiny.random_model,
        scale_vision=lambda model, images, seed, _: scale_tower(model.model.visual, images, tiny.SETTINGS, seed),
        preprocessor=lambda: text_backbone.preprocessor(tiny.SETTINGS.min_pixels, tiny.SETTINGS.max_pixels),
    )


def _text_backbone() -> TextBackbone:
    from covt_model.families import text_backbone_parts
    from covt_model.families.qwen2_5_vl import text_backbone

    return TextBackbone(
        text_types=text_backbone.TEXT_TYPES,
        special_tokens=text_backbone_parts.SPECIAL_TOKENS,
        template_prefix=text_backbone_parts.CONTENT_PARTS,
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
    visual_features=_visual_features,
    is_cellwise=_is_cellwise,
    empty_tower=_empty_tower,
    positions=mrope_positions,
    published_config=published,
    layer_vectors=layer_vectors,
    vision_parameters=vision_parameters,
    tiny=_tiny,
    text_backbone=_text_backbone,
    vocabulary_weights=("model.embed_tokens.weight", "lm_head.weight"),
    stored_name=str,
)
