"""Encoded samples with the real Qwen2.5-VL tokenizer, chat template and picture settings, pinned."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from golden_rows import golden_row

from covt_model.encoding.encode import Encoder
from covt_model.encoding.latent_tokens import add_latent_tokens
from covt_model.encoding.prompt import PromptConfig
from covt_model.latent_config import LatentConfig

GOLDEN = Path(__file__).with_name("encoded_samples.json")

pytestmark = pytest.mark.shared_data


@pytest.fixture(scope="module")
def qwen(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published tokenizer and settings (no weights) with the latent tokens added."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("qwen")
    for file in (shared_data / "qwen25vl_tokenizer").iterdir():
        shutil.copyfile(file, folder / file.name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = add_latent_tokens(tokenizer)
    tokenizer.save_pretrained(folder)
    LatentConfig(start_id=ids.start, pad_id=ids.pad, end_id=ids.end).write(folder)
    return folder


def encoded(folder: Path) -> dict:
    """What is pinned, by case name."""
    cases = {
        "latent": Encoder(folder, selection="ilvr").encode(golden_row(1)),
        "two segments": Encoder(folder, selection="ilvr").encode(golden_row(2, segments=2, cells=5)),
        "plain": Encoder(folder, mode="plain").encode(golden_row(1)),
        "system": Encoder(
            folder, PromptConfig(system="Think in pictures.", template="{{ question }}\nBox it."), selection="ilvr"
        ).encode(golden_row(3)),
    }
    return {
        name: {
            "input_ids": sample.input_ids.tolist(),
            "labels": sample.labels.tolist(),
            "positions": sample.position_ids.tolist(),
            "spans": [list(span) for span in sample.spans],
        }
        for name, sample in cases.items()
    }


def test_encoded_samples_are_as_pinned(qwen):
    """To pin anew on purpose: COVT_PIN=1."""
    result = encoded(qwen)
    if os.environ.get("COVT_PIN"):
        GOLDEN.write_text(json.dumps(result) + "\n")
    assert result == json.loads(GOLDEN.read_text())


def test_the_prompt_equals_the_real_processor(qwen):
    from transformers import AutoProcessor

    encoder, processor = Encoder(qwen), AutoProcessor.from_pretrained(qwen)
    row = golden_row(1)
    prompt = encoder.encode_prompt(row)
    content = [{"type": "image"}, {"type": "text", "text": row.question.removeprefix("<image>")}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    expected = processor(text=[text], images=[prompt.pictures[0].pixels()], return_tensors="pt")
    assert prompt.expanded.tolist() == expected["input_ids"][0].tolist()
    assert [list(grid) for grid in prompt.grids] == expected["image_grid_thw"].tolist()
    assert text.startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>")


def test_latent_tokens_take_the_first_free_rows(qwen):
    latent = LatentConfig.read(qwen)
    assert (latent.start_id, latent.pad_id, latent.end_id) == (151665, 151666, 151667)
    assert latent.end_id < json.loads((qwen / "config.json").read_text())["vocab_size"]
