"""Exports of sharded checkpoints: equal to DeepSpeed's own consolidation, in little memory, usable without covt."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from family_params import every_family, stored_name
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from covt.error_lines import UsageError
from covt.exporting import export_checkpoint
from covt_data.schema import Image as RowImage
from covt_data.schema import Row
from covt_model.checkpoints.hf_folder import checkpoint_name
from covt_model.families import checkpoint_family
from covt_model.latent_config import LatentConfig
from covt_runtime.launch.workers import WorkerGroup

JOBS = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def make_run(folder: Path, base: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"method": "latent", "resolved": {"model": str(base)}}))
    (folder / "metrics.jsonl").write_text('{"step": 2, "ce": 1.25}\n')
    return folder


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def trained(request, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of two ranks in this dtype, and DeepSpeed's checkpoint of the same weights."""
    place = tmp_path_factory.mktemp(request.param)
    run = make_run(place / "run", tiny_checkpoint)
    payload = {
        "model": str(tiny_checkpoint),
        "dtype": request.param,
        "ours": str(run / "checkpoints"),
        "deepspeed": str(place / "deepspeed"),
    }
    with WorkerGroup(2, log_dir=place / "logs", env=JOBS) as group:
        group.run("export_jobs:train_and_save_twice", payload)
    return run, place / "deepspeed"


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@every_family
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_an_export_has_the_bits_of_deepspeeds_consolidation(trained, dtype: str, tiny_checkpoint: Path, tmp_path: Path):
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    run, theirs = trained
    _, _, folder = export_checkpoint(run, tmp_path / "out", dtype=dtype)
    ours, base = tensors_of(folder), tensors_of(tiny_checkpoint)
    expected = get_fp32_state_dict_from_zero_checkpoint(str(theirs), tag="step_2")
    compared = 0
    for name, tensor in expected.items():
        published = checkpoint_name(name)
        if published == "lm_head.weight":  # tied: stored once, as the embedding
            assert published not in ours
            published = "model.embed_tokens.weight"
        published = stored_name(tiny_checkpoint, published)
        assert torch.equal(ours[published], tensor.to(DTYPES[dtype])), name
        assert not torch.equal(ours[published].float(), base[published].float()), f"{name} was not trained"
        compared += 1
    assert compared >= 20
    towers = {name for name in base if name.startswith(stored_name(tiny_checkpoint, "visual."))}
    assert towers and all(torch.equal(ours[name], base[name].to(DTYPES[dtype])) for name in towers)
    assert set(ours) == set(base)


@every_family
def test_the_card_and_the_config_say_what_it_is(trained, tiny_checkpoint: Path, tmp_path: Path):
    run, _ = trained
    _, _, folder = export_checkpoint(run / "checkpoints" / "step_2", tmp_path / "out", dtype="bf16")
    family = checkpoint_family(tiny_checkpoint)
    model, info = family.model_class().from_pretrained(str(folder), output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight is model.get_input_embeddings().weight
    card = (folder / "README.md").read_text()
    assert "| ce | 1.25 |" in card and "license: unknown" in card and "custom_generate=folder" in card
    assert f"{family.model_class_name}.from_pretrained" in card
    for name in ("generation_config.json", "chat_template.jinja", "tokenizer.json", "preprocessor_config.json"):
        assert (folder / name).is_file(), name


def test_what_cannot_be_exported_is_said(trained, tmp_path: Path):
    run, _ = trained
    with pytest.raises(UsageError, match="no dtype 'fp8'"):
        export_checkpoint(run, tmp_path / "out", dtype="fp8")
    moved = make_run(tmp_path / "moved", tmp_path / "gone")
    (moved / "checkpoints" / "step_2").mkdir(parents=True)
    with pytest.raises(UsageError, match="gone") as error:
        export_checkpoint(moved, None)
    assert "--base" in error.value.remedy
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="other files"):
        export_checkpoint(run, tmp_path / "full")
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"


def make_row(number: int, cells: int) -> Row:
    """A question about a random picture of `cells` × `cells` visual tokens."""
    pixels = torch.randint(0, 256, (cells * 4, cells * 4, 3), generator=torch.Generator().manual_seed(number))
    file = io.BytesIO()
    Image.fromarray(pixels.to(torch.uint8).numpy()).resize((28 * cells, 28 * cells), Image.Resampling.NEAREST).save(
        file, "PNG"
    )
    question = "<image>Which cell do you reach?" + " Follow the arrows." * number
    return Row(
        id=f"row-{number}", source="made-up", split="test", question=question, answer="B1", grader="text",
        images=[RowImage(bytes=file.getvalue())],
    )  # fmt: skip


def with_adapters(shapes: dict[str, list[int]], rank: int) -> tuple[dict[str, list[int]], dict[str, float]]:
    """Names and shapes under adapters, in the order of the modules, and what the adapters are filled with."""
    found: dict[str, list[int]] = {}
    for name, shape in shapes.items():
        owner = name.removesuffix(".weight")
        if "embed" in name:
            found |= {f"{owner}.rows": [3, shape[1]], f"{owner}.base.weight": shape}
        else:
            found[f"{owner}.base_layer.weight"] = shape
            found |= {
                f"{owner}.lora_A.default.weight": [rank, shape[1]],
                f"{owner}.lora_B.default.weight": [shape[0], rank],
            }
    fills = {
        name: 1.0 if name.endswith(".rows") else 0.0 for name in found if "lora_" in name or name.endswith(".rows")
    }
    return found, fills


MEASURE = """
import json, re, sys
from pathlib import Path
import covt_model.checkpoints.hf_folder as export
from covt_model.latent_config import LatentConfig
from covt_runtime.checkpoints.shard_files import stored_parameters

def status(key):
    return int(re.search(key + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

run, base, out, shard_bytes, rank = sys.argv[1:]
parameters = stored_parameters(Path(run))
latent, dtype = LatentConfig.read(base), export.torch.bfloat16
if int(rank):
    from covt_model.checkpoints.lora import merged
    parameters = merged(parameters, 1 / int(rank), latent)
with export.ShardWriter(Path(base), ["warm"]) as writer:  # loads the libraries' code, which isn't the model's share
    writer.add("warm", export.torch.ones(1000, 1000), export.torch.bfloat16)
(Path(base) / "model.safetensors").unlink()
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
export.write_checkpoint(parameters, base, out, latent, shard_bytes=int(shard_bytes), dtype=dtype)
print(json.dumps(status("VmHWM") - before))
"""


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_memory_is_that_of_a_shard_file_however_big_the_model(tmp_path: Path, lora_rank: int):
    """A checkpoint of 3 ranks with 240 MB; its export has files of at most 32 MB, the largest of one tensor.

    With adapters, whose product is 0, the embedding's rows 1 to 3 get 1 more.
    """
    shapes = {"model.embed_tokens.weight": [4000, 4000]}
    shapes |= {f"model.layers.{n}.mlp.up_proj.weight": [2000, 2000] for n in range(11)}
    base, checkpoint, ranks = tmp_path / "base", tmp_path / "step_1", 3
    base.mkdir(), checkpoint.mkdir()
    (base / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl", "tie_word_embeddings": True}))
    LatentConfig(start_id=1, pad_id=2, end_id=3).write(base)
    zeros = {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    save_file(
        zeros | {"visual.patch_embed.weight": torch.ones(4000, 2000, dtype=torch.bfloat16)}, base / "m.safetensors"
    )
    fills: dict[str, float] = {}
    if lora_rank:
        shapes, fills = with_adapters(shapes, lora_rank)
    for rank in range(ranks):
        sizes = {name: math.ceil(math.prod(shape) / ranks) for name, shape in shapes.items()}
        values = {f"weight/{name}": torch.full((size,), fills.get(name, rank + 0.5)) for name, size in sizes.items()}
        save_file(values, checkpoint / f"rank_{rank}.safetensors")
    from covt_runtime import files
    from covt_runtime.checkpoints.shard_files import FORMAT

    (checkpoint / "state.json").write_text(
        json.dumps({"format": FORMAT, "step": 1, "world_size": ranks, "parameters": shapes})
    )
    files.write_manifest(checkpoint)
    arguments = [str(checkpoint), str(base), str(tmp_path / "out"), str(32_000_000), str(lora_rank)]
    done = subprocess.run([sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    largest = max(file.stat().st_size for file in (tmp_path / "out").glob("*.safetensors"))
    assert 31_000_000 < largest < 33_000_000
    assert int(done.stdout) <= 1.3 * largest, f"{int(done.stdout) / 1e6:.0f} MB for files of {largest / 1e6:.0f} MB"
    with safe_open(next((tmp_path / "out").glob("model-00001*")), "pt") as first:
        embed = first.get_tensor("model.embed_tokens.weight").reshape(-1)
    assert embed[0] == 0.5 and embed[len(embed) // 2] == 1.5 and embed[-1] == 2.5
    assert embed[4000 * 2] == (1.5 if lora_rank else 0.5)


ALONE = """
import json, sys
sys.path.append(sys.argv[1])
assert not [name for name in sys.modules if name.startswith("covt")]
try:
    import covt_model
except ImportError:
    pass
else:
    raise AssertionError("covt is importable here")
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

folder, task = sys.argv[2], json.load(open(sys.argv[3]))
model = AutoModelForImageTextToText.from_pretrained(folder)
bias = torch.zeros(model.config.text_config.vocab_size)
for token, value in task["bias"].items():
    bias[int(token)] = value
model.lm_head.register_forward_hook(lambda module, inputs, logits: logits + bias)
processor = AutoProcessor.from_pretrained(folder)
processor.tokenizer.padding_side = "left"
images = [Image.open(path) for path in task["images"]]
inputs = processor(text=task["texts"], images=images, padding=True, return_tensors="pt")
assert not inputs["attention_mask"].all(), "no row is padded"
if task["drop_types"]:
    inputs.pop("mm_token_type_ids", None)
result = model.generate(
    **inputs, max_new_tokens=task["new"], do_sample=False, custom_generate=folder, trust_remote_code=True,
    return_dict_in_generate=True, output_scores=True,
)
start = inputs["input_ids"].shape[1]
logprobs = [scores.log_softmax(-1) for scores in result.scores]
print(json.dumps({
    "ids": result.sequences[:, start:].tolist(),
    "logprobs": [[float(step[row, token]) for step, token in zip(logprobs, ids)]
                 for row, ids in enumerate(result.sequences[:, start:].tolist())],
    "sampled": model.generate(**inputs, max_new_tokens=task["new"], do_sample=True, temperature=0.8,
                              custom_generate=folder, trust_remote_code=True)[:, start:].tolist(),
}))
"""


@every_family
@pytest.mark.parametrize("head", ["identity", "none", "linear", "mlp"])
def test_transformers_alone_decodes_latents_like_our_reference(tiny_checkpoint: Path, tmp_path: Path, head: str):
    """Batch of three with prompts of different lengths, in a process whose only packages are installed ones."""
    import transformers

    from covt_model.checkpoints.hf_folder import write_checkpoint
    from covt_model.checkpoints.latent_checkpoint import load_model
    from covt_model.encoding.encode import Encoder
    from covt_model.encoding.prompt import PromptConfig, messages
    from covt_model.encoding.vision_features import VisionFeatures
    from covt_model.families import read_image_settings
    from covt_model.generation.latent_generation import generate
    from covt_model.latents.heads import ATTRIBUTE, build_head

    new = 40
    base = load_model(tiny_checkpoint)
    latent = LatentConfig(**{**asdict(LatentConfig.read(tiny_checkpoint)), "head": head})
    weights = [(name, p) for name, p in base.named_parameters() if "visual" not in name]
    torch.manual_seed(0)
    if (feedback_head := build_head(head, base.config.text_config.hidden_size)) is not None:
        weights += [(f"{ATTRIBUTE}.{name}", 0.3 * torch.randn_like(p)) for name, p in feedback_head.named_parameters()]
    folder = write_checkpoint(weights, tiny_checkpoint, tmp_path / "model", latent)
    model, encoder = load_model(folder), Encoder(folder)
    bias = torch.zeros(model.config.text_config.vocab_size)
    model.lm_head.register_forward_hook(lambda _module, _inputs, logits: logits + bias)
    rows = [make_row(number, cells) for number, cells in ((0, 2), (1, 3), (2, 1))]
    prompts = [encoder.encode_prompt(row) for row in rows]
    features = VisionFeatures(model.model.visual, read_image_settings(folder))([p for q in prompts for p in q.pictures])
    # Random models end their turns more or less readily: the first of these with spans and turns of unequal lengths.
    for eos_bias in (2.0, 1.8, 1.6, 1.4, 1.2, 2.2, 2.4):
        values = {latent.start_id: 2.2, encoder.eos_id: eos_bias}
        bias[list(values)] = torch.tensor(list(values.values()))
        expected = generate(model, prompts, features, latent, max_new_tokens=new)
        spans, lengths = sum(len(one.latent_spans) for one in expected), {len(one.token_ids) for one in expected}
        if spans >= 3 and len(lengths) > 1:
            break
    assert spans >= 3 and (head in ("linear", "mlp") or len(lengths) > 1)

    task = {"bias": values, "images": [], "new": new, "drop_types": head == "none"}
    task["texts"] = [
        encoder.tokenizer.apply_chat_template(messages(row, PromptConfig()), add_generation_prompt=True, tokenize=False)
        for row in rows
    ]
    for number, row in enumerate(rows):
        Image.open(io.BytesIO(row.images[0].bytes)).save(tmp_path / f"{number}.png")
        task["images"].append(str(tmp_path / f"{number}.png"))
    (tmp_path / "task.json").write_text(json.dumps(task))
    packages = str(Path(transformers.__file__).parents[1])
    done = subprocess.run(
        # -S: no .pth files, through which an editable install makes covt importable.
        [sys.executable, "-I", "-S", "-c", ALONE, packages, str(folder), str(tmp_path / "task.json")],
        capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, "HF_HOME": str(tmp_path / "hf")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for one, ids, logprobs in zip(expected, found["ids"], found["logprobs"], strict=True):
        length = len(one.token_ids)
        assert ids[:length] == one.token_ids
        assert set(ids[length:]) <= {encoder.pad_id}
        for ours, theirs in zip(one.logprobs, logprobs, strict=False):
            assert ours == 0 or theirs == pytest.approx(ours, abs=1e-4)  # 0: forced
    for ids in found["sampled"]:
        text = [token for token in ids if token != encoder.pad_id]
        for position, token in enumerate(text):
            if token == latent.pad_id:
                run = text[max(0, position - latent.size) : position]
                assert latent.start_id in run


def test_the_documented_example_runs_without_covt(tiny_checkpoint: Path, tmp_path: Path):
    """The code of docs/export.md, which is also on every model card, as it stands, beside the exported files."""
    import transformers

    from covt_model.checkpoints.hf_folder import write_checkpoint
    from covt_model.checkpoints.latent_checkpoint import load_model

    base = load_model(tiny_checkpoint)
    weights = ((name, p) for name, p in base.named_parameters() if "visual" not in name)
    folder = write_checkpoint(weights, tiny_checkpoint, tmp_path / "model", LatentConfig.read(tiny_checkpoint))
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    code = page.partition("```python\n")[2].partition("```")[0]
    on_card = (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    assert code.count("\n") == on_card.count("\n") == 11
    (folder / "picture.png").write_bytes(make_row(0, 2).images[0].bytes)
    packages = str(Path(transformers.__file__).parents[1])
    for example in (code, on_card.replace("max_new_tokens=512", "max_new_tokens=20")):
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({packages!r})\n{example}"],
            capture_output=True, text=True, check=False, cwd=folder, env=os.environ | {"HF_HOME": str(tmp_path / "hf")},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
