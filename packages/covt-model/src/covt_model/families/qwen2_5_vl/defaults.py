"""Image settings of Qwen2.5-VL."""

from covt_model.families.image_settings import ImageSettings

DEFAULTS = ImageSettings(
    model_type="qwen2_5_vl",
    patch=14,
    merge=2,
    temporal=2,
    min_pixels=56 * 56,
    max_pixels=28 * 28 * 1280,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)
"""Settings that hold where a checkpoint's processor config doesn't say otherwise."""
