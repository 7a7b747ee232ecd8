"""GRPO of adapters on two real ranks: the server computes what the trainer does, and the model itself stays."""

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from rl_tools import run, settings
from safetensors.torch import load_file
from server_tools import RunningServer

from covt.exporting import export_checkpoint
from covt_model.checkpoints.computed_tensors import whole
from covt_model.checkpoints.hf_folder import checkpoint_name
from covt_model.checkpoints.lora import FrozenWeights
from covt_model.checkpoints.split_load import load_split
from covt_model.latent_config import LatentConfig
from covt_rl.training.train import plan, train
from covt_runtime.checkpoints.shard_files import stored_parameters
from covt_runtime.checkpoints.tensor_file import TensorFile
from covt_runtime.launch.workers import WorkerGroup
from covt_runtime.metrics.progress import Progress

GAP = 1e-3
LORA = {"rank": 4, "alpha": 8.0}
FASTER = {"lr": 1e-2}


def load_run(checkpoint: Path, start: Path) -> dict[str, torch.Tensor]:
    """Parameters of a run's checkpoint by their names within the model."""
    parameters = stored_parameters(checkpoint, FrozenWeights(start))
    return {name.rpartition("policy.model.")[2]: whole(stored) for name, stored in parameters}


def merged_by_peft(start: Path, trained: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The language model with the trained adapters, put in and merged by peft; rows added to the latent tokens'."""
    model: Any = load_split(start, torch.float32)[0]
    targets = sorted({name.split(".")[-4] for name in trained if ".lora_A." in name})
    options = LoraConfig(r=LORA["rank"], lora_alpha=LORA["alpha"], target_modules=targets)  # pyright: ignore
    inject_adapter_in_model(options, model.model.language_model)
    names = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in trained.items():
            if ".lora_" in name:
                names[name].copy_(value)
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.merge()
    found = {
        checkpoint_name(name.replace(".base_layer.", ".")): value.detach()
        for name, value in model.named_parameters()
        if ".lora_" not in name
    }
    latent = LatentConfig.read(start)
    rows = next(value for name, value in trained.items() if name.endswith("embed_tokens.rows"))
    found["model.embed_tokens.weight"][[latent.start_id, latent.pad_id, latent.end_id]] += rows
    return found


def test_adapters_are_trained_served_resumed_and_exported_merged(
    latent_server: RunningServer, data: Path, workers: WorkerGroup, tmp_path: Path
):
    """Two steps, and one more after a resume, with one module gathered at a time, as on GPUs."""
    algorithm = {"kl_weight": 0.01}
    options: dict[str, Any] = {"lora": LORA, "optim": FASTER, "zero": {"gather": "module"}}
    run(settings(latent_server, data, tmp_path, algorithm=algorithm | {"steps": 2}, **options), workers)
    longer = settings(latent_server, data, tmp_path, algorithm=algorithm | {"steps": 3}, **options)
    result = train(longer, plan(longer), progress=Progress(quiet=True), resume=True, workers=workers)
    folder = Path(result["run"])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all("loss" in line for line in lines), "no group had spread: the reward pays for nothing that varies"
    assert max(line["latent/logprob_gap"] for line in lines) <= GAP
    # The reference is the model without its adapters, which the policy is at first only, a resumed one too.
    assert lines[0]["kl"] <= 1e-9 < 1e-6 < lines[2]["kl"]
    start = load_file(latent_server.checkpoint / "model.safetensors")
    parameters = load_run(folder / "checkpoints" / "step_3", latent_server.checkpoint)
    assert any(".lora_B." in name and value.abs().max() > 1e-3 for name, value in parameters.items())
    stored = TensorFile(folder / "checkpoints" / "step_3" / "rank_0.safetensors").entries
    weights = [name for name in stored if name.startswith("weight/")]
    assert weights and all(".lora_" in name or name.endswith(".rows") for name in weights), "frozen weights are stored"
    after = load_file(folder / "hf" / "model.safetensors")
    expected = merged_by_peft(latent_server.checkpoint, parameters)
    language = {name for name in after if "visual." not in name}
    assert set(after) == set(start) and language <= set(expected)
    for name in language:
        torch.testing.assert_close(after[name], expected[name], rtol=1e-6, atol=1e-7)
    assert any(not torch.equal(after[name], start[name]) for name in language)
    _, _, exported = export_checkpoint(folder, tmp_path / "exported")
    again = load_file(exported / "model.safetensors")
    assert all(torch.equal(again[name], after[name]) for name in after)
