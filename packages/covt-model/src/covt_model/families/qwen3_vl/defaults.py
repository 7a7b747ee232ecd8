"""Image settings of Qwen3-VL."""

from covt_model.families.image_settings import ImageSettings

DEFAULTS = ImageSettings(
    model_type="qwen3_vl",
    patch=16,
    merge=2,
    temporal=2,
    min_pixels=256 * 256,
    max_pixels=4096 * 4096,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)
"""Settings that hold where a checkpoint's processor config doesn't say otherwise."""
