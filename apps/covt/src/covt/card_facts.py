"""What a model card says about a run, read from the files the run left."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from covt_runtime.run_folder import RunFolder

Interval = tuple[float, float, float]
# Settings that say what was trained; paths and machine settings don't belong on a card.
SECTIONS = ("stage1", "stage2", "algorithm", "rewards", "rollout", "latent", "lora", "optim")
SKIPPED = {"base_url", "api_key_env", "concurrency", "timeout"}
METRICS = (
    "loss", "ce", "align", "reward", "rewards/accuracy/mean", "necessity/nu", "kl", "entropy",
    "eval/loss", "eval/accuracy", "eval/accuracy_drop_latents",
)  # fmt: skip


def base_facts(run: RunFolder, model: Path) -> tuple[str, str]:
    """(name of the published base model, its licence); follows runs of ours back to what they started from."""
    from covt_model.checkpoints.model_card import UNKNOWN_LICENCE, read_licence
    from covt_runtime.run_folder import RunFolder as Folder

    seen: set[Path] = set()
    name = ""
    while model not in seen:
        seen.add(model)
        licence, base = read_licence(model)
        name = base or name
        if licence and licence != UNKNOWN_LICENCE:
            return name or model.name, licence
        above = Folder(model.parent)
        if not (above.path / "config.json").is_file() or above.path == run.path:
            break
        found = above.config.get("resolved", {}).get("model")
        if not found or not Path(found).is_dir():
            break
        model = Path(found)
    return name or model.name, UNKNOWN_LICENCE


def data_facts(config: Mapping[str, Any]) -> dict[str, str]:
    """Source, version, command, rows and licence of the set that the run was trained on."""
    path = Path(str(config.get("resolved", {}).get("data", "")))
    manifest = path / "manifest.json"
    if not manifest.is_file():
        return {"set": path.name} if path.name else {}
    values = json.loads(manifest.read_text())
    counts = ", ".join(f"{split} {count['rows']}" for split, count in values.get("counts", {}).items())
    found = {
        "source": f"{values.get('source', '')} version {values.get('version', '')}",
        "command": f"`{values['command']}`" if values.get("command") else "",
        "rows": counts,
        "licence": str(values.get("licence") or values.get("license") or ""),
    }
    return {key: value for key, value in found.items() if value}


def recipe_facts(config: Mapping[str, Any], checkpoint: Path) -> dict[str, str]:
    """The settings that say how the model was trained, as `section.key` → value."""
    found = {"optimizer step": checkpoint.name.removeprefix("step_")}
    if config.get("method"):
        found["method"] = str(config["method"])
    for section in SECTIONS:
        values = config.get(section)
        if isinstance(values, Mapping):
            found |= {
                f"{section}.{key}": f"`{value}`"
                for key, value in values.items()
                if key not in SKIPPED and not isinstance(value, Mapping) and value not in (None, "", [])
            }
    return found


def last_metrics(path: Path) -> dict[str, str]:
    """The last recorded value of each metric that a reader asks for."""
    found: dict[str, str] = {}
    if path.is_file():
        for line in path.read_text().splitlines():
            record = json.loads(line)
            found |= {name: f"{record[name]:.4g}" for name in METRICS if isinstance(record.get(name), int | float)}
    return {name: found[name] for name in METRICS if name in found}


def evaluations(run: Path) -> tuple[dict[str, Interval], dict[str, Interval]]:
    """(accuracy, accuracy by ablation) of the run's own models from `eval/summary.json`, which `covt eval` writes.

    Models of other runs that stand in the same table are left out.
    """
    path = run / "eval" / "summary.json"
    if not path.is_file():
        return {}, {}
    summary = json.loads(path.read_text())
    folders = {name: Path(folder) for name, folder in summary["settings"]["models"].items()}
    own = {name for name, folder in folders.items() if folder.is_relative_to(run.resolve())}
    accuracy: dict[str, Interval] = {}
    ablation: dict[str, Interval] = {}
    for entry in summary["results"]:
        if entry["model"] not in own:
            continue
        value = entry["accuracy"]
        interval = (value["value"], value["low"], value["high"])
        if entry["mode"] == "keep":
            accuracy[entry["data"]] = interval
        ablation[f"{entry['data']}, {entry['mode']}"] = interval
    return accuracy, ablation if len(ablation) > len(accuracy) else {}
