"""The published tokenizer and chat template of Qwen3-VL: needs the hub, or a folder with the files in COVT_QWEN3_VL.

The folder holds the repository without its weights: config.json, tokenizer, chat template and image settings.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from covt_data.schema import Image, Row, Step
from covt_model.encoding.encode import Encoder
from covt_model.encoding.latent_tokens import add_latent_tokens, rows_needed
from covt_model.families import checkpoint_family
from covt_model.latent_config import LatentConfig

pytestmark = pytest.mark.slow

HUB_ID = "Qwen/Qwen3-VL-4B-Instruct"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the published files with the latent tokens added."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from transformers import AutoTokenizer

    source = os.environ.get("COVT_QWEN3_VL")
    if source is None:
        try:
            source = snapshot_download(HUB_ID, ignore_patterns=["*.safetensors", "*.bin"])
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            pytest.skip(f"{HUB_ID} can't be downloaded, and COVT_QWEN3_VL names no copy: {type(error).__name__}")
    folder = tmp_path_factory.mktemp("published")
    for file in Path(source).iterdir():
        if file.is_file() and file.suffix != ".safetensors":
            shutil.copyfile(file, folder / file.name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = add_latent_tokens(tokenizer)
    tokenizer.save_pretrained(folder)
    LatentConfig(start_id=ids.start, pad_id=ids.pad, end_id=ids.end).write(folder)
    return folder


def row() -> Row:
    import io

    from PIL import Image as PilImage

    def png(seed: int, height: int, width: int) -> Image:
        pixels = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed))
        buffer = io.BytesIO()
        PilImage.fromarray(pixels.to(torch.uint8).numpy()).save(buffer, "PNG")
        return Image(bytes=buffer.getvalue())

    steps = [Step(type="latent", images=[png(3, 64, 64)]), Step(type="text", text="The answer is \\boxed{B}.")]
    return Row(
        id="row", source="made-up", split="train", question="<image>First, then <image>second: which is larger?",
        answer="B", grader="text", images=[png(1, 300, 200), png(2, 500, 333)], steps=steps,
    )  # fmt: skip


def test_settings_are_those_that_the_family_assumes(published: Path) -> None:
    from covt_model.families import read_image_settings

    family = checkpoint_family(published)
    assert read_image_settings(published) == family.image_settings
    config, sizes = json.loads((published / "config.json").read_text()), family.published_config(HUB_ID)
    assert sizes is not None
    for part in ("text_config", "vision_config"):
        assert {key: config[part].get(key) for key in sizes[part]} | {"model_type": None} == (
            sizes[part] | {"model_type": None}
        )


def test_the_latent_tokens_take_free_rows(published: Path) -> None:
    from transformers import AutoTokenizer

    rows = json.loads((published / "config.json").read_text())["text_config"]["vocab_size"]
    tokenizer = AutoTokenizer.from_pretrained(published)
    assert rows_needed(rows, len(tokenizer)) == rows
    latent = LatentConfig.read(published)
    assert latent.end_id < rows and tokenizer.decode([latent.start_id], skip_special_tokens=True) == ""


def test_encoded_prompts_equal_the_published_processor(published: Path) -> None:
    from transformers import AutoProcessor

    encoder, processor = Encoder(published, selection="ilvr"), AutoProcessor.from_pretrained(published)
    prompt = encoder.encode_prompt(row())
    pieces = row().question.split("<image>")
    content = [part for piece in pieces for part in ({"type": "image"}, {"type": "text", "text": piece})][1:]
    content = [part for part in content if part.get("text") != ""]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    images = [picture.pixels() for picture in prompt.pictures]
    expected = processor(text=[text], images=images, return_tensors="pt")
    assert prompt.expanded.tolist() == expected["input_ids"][0].tolist()
    assert [list(grid) for grid in prompt.grids] == expected["image_grid_thw"].tolist()
    assert encoder.encode(row()).spans
