"""Loading and preparing checkpoints: stock Qwen2.5-VL folders with latent settings in their config."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from covt_model.config import read_config
from covt_model.errors import ModelError

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLForConditionalGeneration


@contextmanager
def quiet_progress() -> Iterator[None]:
    """Keep Transformers' loading and saving bars off the terminal, which belongs to our own progress display."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_model(
    checkpoint: Path | str, *, dtype: torch.dtype = torch.float32, attention: str = "sdpa"
) -> Qwen2_5_VLForConditionalGeneration:
    """The checkpoint's model in evaluation mode; raises ModelError when it is another architecture."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    kind = read_config(checkpoint).get("model_type")
    if kind != "qwen2_5_vl":
        raise ModelError(f"{checkpoint} is a {kind!r} model", "use a Qwen2.5-VL checkpoint")
    with quiet_progress():
        return Qwen2_5_VLForConditionalGeneration.from_pretrained(
            str(checkpoint), dtype=dtype, attn_implementation=attention
        ).eval()
