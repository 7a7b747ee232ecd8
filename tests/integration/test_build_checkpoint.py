"""A vision-language model from a text checkpoint: the language model's numbers stay, everything else is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from covt.main import app
from covt_data.ingest.prepare import prepare
from covt_data.store.prepared_set import PreparedSet
from covt_model.checkpoints.build_checkpoint import build_checkpoint
from covt_model.checkpoints.latent_checkpoint import load_model
from covt_model.checkpoints.text_checkpoint import open_text_checkpoint
from covt_model.encoding.row_images import Picture
from covt_model.encoding.vision_features import VisionFeatures
from covt_model.families import known_families, known_text_types, read_image_settings
from covt_model.families.family import VisionSizes
from covt_model.latent_config import LatentConfig
from covt_model.model_errors import CheckpointError, ModelError

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Text model → the family that takes it.
FAMILY_OF = {"llama": "qwen2_5_vl", "qwen2": "qwen2_5_vl", "qwen3": "qwen3_vl"}
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


def write_text_model(folder: Path, kind: str, *, tied: bool = True, **changes) -> Path:
    """A random text model with its own tokenizer, saved by Transformers."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bare = Tokenizer(models.BPE(vocab={symbol: number for number, symbol in enumerate(alphabet)}, merges=[]))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bare,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=["<|im_start|>"],
        chat_template=CHAT,
    )
    torch.manual_seed(3)
    config = AutoConfig.for_model(
        kind, vocab_size=len(tokenizer), tie_word_embeddings=tied, rope_theta=5e4, eos_token_id=1, **(SIZES | changes)
    )
    model = AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        if name.endswith(("bias", "q_norm.weight", "k_norm.weight")):
            torch.nn.init.normal_(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return write_text_model(tmp_path_factory.mktemp("text") / "llama", "llama")


def test_every_text_model_is_taken_by_a_family() -> None:
    assert set(FAMILY_OF) == set(known_text_types()) and set(FAMILY_OF.values()) == set(known_families())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", FAMILY_OF)
def test_logits_of_text_are_those_of_the_text_model(tmp_path: Path, kind: str, tied: bool) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    text = write_text_model(tmp_path / "text", kind, tied=tied)
    built = build_checkpoint(text, tmp_path / "built", family=FAMILY_OF[kind])
    model, reference = load_model(built), AutoModelForCausalLM.from_pretrained(text, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(built)
    ids = tokenizer("A path of 3 steps: R, R, D.", return_tensors="pt").input_ids
    assert (
        ids.tolist()
        == AutoTokenizer.from_pretrained(text)("A path of 3 steps: R, R, D.", return_tensors="pt").input_ids.tolist()
    )
    with torch.no_grad():
        expected = reference(input_ids=ids).logits
        found = model(input_ids=ids).logits[..., : expected.shape[-1]]
    assert (
        found - expected
    ).abs().max() <= 1e-6  # the output matrix has more rows, so its product is blocked otherwise


def test_the_template_takes_texts_and_images(llama: Path, tmp_path: Path) -> None:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(build_checkpoint(llama, tmp_path / "built"))
    turn = [{"role": "user", "content": "Why?"}]
    parts = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Why?"}]}]
    plain = processor.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    assert plain == "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    seen = processor.tokenizer.apply_chat_template(parts, tokenize=False, add_generation_prompt=True)
    assert seen == plain.replace("Why?", "<|vision_start|><|image_pad|><|vision_end|>Why?")
    assert type(processor).__name__ == "Qwen2_5_VLProcessor"


def test_new_rows_are_drawn_and_old_ones_stay(llama: Path, tmp_path: Path) -> None:
    built = build_checkpoint(llama, tmp_path / "built", latent_size=5, normalize="none")
    before = load_file(llama / "model.safetensors")["model.embed_tokens.weight"]
    after = load_file(built / "model.safetensors")["model.embed_tokens.weight"]
    latent = LatentConfig.read(built)
    assert after.shape[0] % 64 == 0 and torch.equal(after[: len(before)], before)
    new = after[len(before) : latent.end_id + 1]
    assert len(new) == 7 and new.abs().sum(1).min() > 0
    assert latent.size == 5 and latent.normalize == "none"
    assert len({tuple(row) for row in new.tolist()}) == 7


def test_visual_tokens_are_on_the_scale_of_the_text_embeddings(llama: Path, tmp_path: Path) -> None:
    from covt_model.families.image_patches import patchify
    from covt_model.families.qwen2_5_vl.defaults import DEFAULTS

    images = list(torch.randint(0, 256, (40, 3, 28, 28), generator=torch.Generator().manual_seed(5)).to(torch.uint8))
    sizes = VisionSizes(depth=2, hidden=128, window=56)
    model = load_model(build_checkpoint(llama, tmp_path / "built", images=images, vision=sizes, pixels=(784, 10_000)))
    small = replace(DEFAULTS, min_pixels=28 * 28)
    with torch.no_grad():
        seen = [
            model.model.visual(pixels, grid_thw=torch.tensor([grid])).pooler_output
            for pixels, grid in (patchify(image[None], small) for image in images)
        ]
    tokens = torch.cat(seen)
    text = load_file(llama / "model.safetensors")["model.embed_tokens.weight"].std()
    assert tokens.mean(0).abs().max() < 1e-2 * text
    assert torch.allclose(tokens.std(0), text.expand(64), rtol=1e-2)
    assert model.config.vision_config.depth == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "phi3"}, "'phi3' model"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 8.0}}, "scaled rotary positions"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}}, "scaled rotary positions"),
        ({"head_dim": 32}, "heads of 32 dimensions"),
        ({"attention_bias": True}, "biases"),
        ({"mlp_bias": True}, "biases"),
        ({"hidden_act": "gelu"}, "the activation 'gelu'"),
        ({"num_hidden_layers": 3}, "lacks model.layers.2."),
        ({"num_hidden_layers": 1}, "has model.layers.1."),
        ({"intermediate_size": 128}, "its config says"),
    ],
)
def test_a_text_model_that_does_not_fit_is_refused_and_nothing_is_written(llama, tmp_path, changes, reason) -> None:
    text = shutil.copytree(llama, tmp_path / "text")
    config = json.loads((text / "config.json").read_text())
    (text / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ModelError, match=reason) as error:
        build_checkpoint(text, tmp_path / "built")
    assert error.value.remedy and [path.name for path in tmp_path.iterdir()] == ["text"]


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("config.json", None, "no config.json"),
        ("config.json", "{", "not JSON"),
        ("tokenizer.json", "{}", "no usable tokenizer"),
        ("model.safetensors", None, "no safetensors files"),
        ("model.safetensors", "cut", "is cut off"),
    ],
)
def test_a_damaged_folder_is_refused(llama: Path, tmp_path: Path, file: str, content: str | None, reason: str) -> None:
    text = shutil.copytree(llama, tmp_path / "text")
    if content is None:
        (text / file).unlink()
    elif content == "cut":
        (text / file).write_bytes((text / file).read_bytes()[:-10])
    else:
        (text / file).write_text(content)
    with pytest.raises(CheckpointError, match=reason) as error:
        build_checkpoint(text, tmp_path / "built")
    assert error.value.remedy and not (tmp_path / "built").exists()


def test_a_tokenizer_without_turns_or_template_is_refused(llama: Path, tmp_path: Path) -> None:
    text = shutil.copytree(llama, tmp_path / "text")
    (text / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template"):
        build_checkpoint(text, tmp_path / "built")


def test_an_existing_folder_is_left_alone(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "built").mkdir()
    with pytest.raises(ModelError, match="exists"):
        build_checkpoint(llama, tmp_path / "built")
    assert not list((tmp_path / "built").iterdir())


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither a folder nor a file"):
        open_text_checkpoint(tmp_path / "missing")
    (tmp_path / "model.gguf").write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(CheckpointError, match="not a GGUF file"):
        open_text_checkpoint(tmp_path / "model.gguf")


def test_a_set_dtype_holds_for_every_tensor(llama: Path, tmp_path: Path) -> None:
    built = build_checkpoint(llama, tmp_path / "built", dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in load_file(built / "model.safetensors").values()} == {torch.bfloat16}


def test_a_sets_different_cells_are_standardized_helper_images_among_them(llama: Path, tmp_path: Path) -> None:
    """Marked cells, which latents stand for, are few of the set's cells but half of the different ones."""
    prepare("trace", tmp_path / "data", options={"n_train": 64, "n_prompts": 1, "n_test": 1})
    arguments = ["--text", str(llama), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "built")]
    assert CliRunner().invoke(app, ["model", "build", *arguments]).exit_code == 0
    rows = list(PreparedSet(tmp_path / "data").rows("train"))
    images = [i.bytes for row in rows for i in (*row.images, *(i for step in row.steps for i in step.images or ()))]
    features = VisionFeatures(load_model(tmp_path / "built").model.visual, read_image_settings(tmp_path / "built"))
    tokens = torch.cat(features([Picture(image) for image in images]))
    cells = torch.unique(tokens, dim=0)
    assert 64 < len(cells) < len(tokens) / 10
    torch.testing.assert_close(cells.mean(0), torch.zeros(cells.shape[1]), rtol=0, atol=0.01 * float(cells.std()))
    assert tokens.mean(0).abs().max() > 0.1 * float(cells.std())
