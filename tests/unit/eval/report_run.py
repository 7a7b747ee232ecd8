"""Writes folders that look like what `covt quickstart` leaves: real rows, simulated answers and curves."""

import json
import math
import random
from pathlib import Path
from typing import Any

from covt_data.schema import Row
from covt_data.tasks.trace_maps import draw_trace
from covt_data.tasks.trace_maps import make_row as trace_row
from covt_data.tasks.vsp_maps import VspConditions, generate_test
from covt_data.tasks.vsp_rows import make_row as vsp_row

SPAN = "<|latent_start|>" + "<|latent_pad|>" * 8 + "<|latent_end|>"
MODES = {"keep": 0.985, "zeros": 0.07, "noise": 0.08, "shuffle": 0.06, "drop_latents": 0.09}
MODELS = {"plain": 0.667, "pause": 0.648, "stage1": 0.953, "stage2": 0.962, "sft_more": 0.965}
VSP_MODELS = {"plain": 0.71, "pause": 0.69, "stage1": 0.31, "stage2": 0.66, "sft_more": 0.68}


def make_quickstart(folder: Path, task: str = "trace", seed: int = 0, n_test: int = 600, n_samples: int = 12) -> Path:
    """A complete quickstart folder under `folder`."""
    rng = random.Random(seed)
    rows = make_rows(task, seed, n_test)
    models = {**(MODELS if task == "trace" else VSP_MODELS), "rl": 0.985 if task == "trace" else 0.74}
    modes = (
        MODES if task == "trace" else {"keep": 0.74, "zeros": 0.69, "noise": 0.7, "shuffle": 0.68, "drop_latents": 0.66}
    )
    accuracy: dict[str, float] = {}
    for label, share in models.items():
        latent = label not in ("plain", "pause")
        accuracy[label] = write_eval(folder, rng, rows, label, "keep", share, task, latent)
    ablation = {"keep": accuracy["rl"]}
    for mode in list(modes)[1:]:
        ablation[mode] = write_eval(folder, rng, rows, "rl", mode, modes[mode], task, True)
    write_metrics(folder, rng)
    write_json(folder / "rl" / "config.json", {"algorithm": {"kl": 0.01, "clip": 0.2}, "optim": {"lr": 2e-4}})
    write_samples(folder, rows[:n_samples])
    write_json(folder / "summary.json", summary(task, seed, n_test, accuracy, ablation))
    return folder


def make_plain_run(folder: Path, kind: str = "sft") -> Path:
    """A folder of one training run: config.json and metrics.jsonl, nothing else."""
    rng = random.Random(3)
    write_json(folder / "config.json", {"seed": 0, "optim": {"lr": 2.5e-3, "betas": [0.9, 0.98]}, "zero": {"stage": 3}})
    if kind == "rl":
        write_lines(folder / "metrics.jsonl", rl_lines(rng))
    else:
        write_lines(folder / "metrics.jsonl", sft_lines(rng, "latent"))
    return folder


def summary(task: str, seed: int, n: int, accuracy: dict[str, float], ablation: dict[str, float]) -> dict[str, Any]:
    def interval(share: float) -> list[float]:
        half = 1.96 * math.sqrt(max(share * (1 - share), 1e-4) / n)
        return [max(0.0, share - half), min(1.0, share + half)]

    def gap(ours: str, base: str) -> dict[str, float]:
        value = accuracy[ours] - accuracy[base]
        half = 0.03 if base == "pause" else 0.014
        return {"value": value, "lo": value - half, "hi": value + half}

    return {
        "schema_version": 1,
        "task": task,
        "seed": seed,
        "n_test": n,
        "accuracy": accuracy,
        "ablation": ablation,
        "ci": {
            "accuracy": {key: interval(share) for key, share in accuracy.items()},
            "ablation": {key: interval(share) for key, share in ablation.items()},
            "differences": {
                "stage2-pause": gap("stage2", "pause"),
                "rl-stage2": gap("rl", "stage2"),
                "rl-sft_more": gap("rl", "sft_more"),
                "keep-zeros": {"value": 0.72, "lo": 0.68, "hi": 0.76},
                "keep-noise": {"value": 0.7, "lo": 0.66, "hi": 0.74},
            },
        },
        "baseline": {"chance": 0.0625} if task == "trace" else {"chance": 0.01, "manhattan": 0.63},
        "seconds": {
            "data": 8.2,
            "tiny model": 1.1,
            "sft plain": 92.0,
            "sft pause": 121.4,
            "sft latent": 187.3,
            "server": 31.0,
            "rl": 84.5,
            "sft_more": 84.9,
            "export": 2.4,
            "evaluation": 47.6,
            "total": 661.0,
        },
        "settings": {
            "run": {"seed": seed, "task": task},
            "data": {"rows": 20000, "size": 4, "cell": 28, "hops": [1, 8]},
            "model": {
                "hidden": 64,
                "layers": 2,
                "heads": 2,
                "intermediate": 192,
                "vision": {"depth": 1, "width": 64, "frozen": True},
            },
            "latent": {"size": 8, "head": "identity", "normalize": "rms", "selection": "focus"},
            "stage1": {"steps": 650, "lr": 0.0025, "schedule": "constant", "warmup": 100, "input_noise": 0.2},
            "stage2": {"steps": 80, "lr": 0.0005, "schedule": "cosine", "warmup": 30},
            "zero": {"stage": 3, "ranks": 2, "backend": "gloo"},
            "rollout": {"samples": 8, "temperature": 1.0, "max_tokens": 24, "base_url": None},
            "rewards": {
                "names": ["format", "accuracy", "necessity"],
                "necessity": {"mode": "drop_latents", "rerolls": 4},
            },
        },
    }


def make_rows(task: str, seed: int, count: int) -> list[Row]:
    """Test rows of a task as covt-data makes them."""
    if task == "vsp":
        conditions = VspConditions(sizes=(4,), hole_density=0.25, min_path=2, detour_share=0.5)
        return [
            vsp_row(rows, i, "test", True) for i, rows in enumerate(generate_test(str(seed), count, conditions, set()))
        ]
    rng = random.Random(seed)
    return [trace_row(draw_trace(rng, 4, rng.randint(1, 8)), i, "test", True) for i in range(count)]


def write_eval(
    folder: Path,
    rng: random.Random,
    rows: list[Row],
    label: str,
    mode: str,
    share: float,
    task: str,
    latent: bool,
) -> float:
    """Rows of one evaluation, harder with more hops, about `share` right; returns the share that came out."""
    records = []
    for row in rows:
        length = len(row.meta["path"]) - 1
        right = rng.random() < min(1.0, max(0.03, share + (4.5 - length) * (1 - share) * 0.22))
        answer = row.answer if right else wrong_answer(rng, row, task)
        span = SPAN if latent or label == "pause" else ""
        span = "<|latent_start|><|latent_end|>" if mode == "drop_latents" else span
        said = answer if task == "trace" else f"\\boxed{{{answer}}}"
        text = f"I follow the arrows. {span} The answer is {said}<|im_end|>"
        records.append(
            {
                "id": row.id,
                "gold": row.answer,
                "answer": answer,
                "correct": int(right),
                "text": text,
                "token_ids": [5, 6, 7],
                "latent_spans": [[4, 12]] if span else [],
                "finish_reason": "stop",
                "meta": row.meta,
            }
        )
    write_lines(folder / "eval" / f"{label}.{mode}.jsonl", records)
    return sum(record["correct"] for record in records) / len(records)


def wrong_answer(rng: random.Random, row: Row, task: str) -> str | None:
    if task == "vsp":
        return ",".join(rng.choice("LRUD") for _ in range(rng.randint(2, 6)))
    other = rng.choice([f"{letter}{number}" for letter in "ABCD" for number in range(1, 5)] + ["Z9", None])
    return other if other != row.answer else "A1" if row.answer != "A1" else "B1"


def write_metrics(folder: Path, rng: random.Random) -> None:
    for label in ("plain", "pause", "latent"):
        write_lines(folder / "sft" / label / "metrics.jsonl", sft_lines(rng, label))
    write_lines(folder / "sft_more" / "metrics.jsonl", sft_lines(rng, "plain")[-60:])
    write_lines(folder / "rl" / "metrics.jsonl", rl_lines(rng))


def sft_lines(rng: random.Random, label: str) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for step in range(1, 731):
        stage1 = label == "latent" and step <= 650
        floor, speed = (0.002, 60) if label == "latent" else (0.55, 110)
        ce = floor + 4.6 * math.exp(-step / speed) * rng.uniform(0.9, 1.1) + rng.uniform(0, floor)
        line: dict[str, Any] = {
            "step": step if label != "latent" or step <= 650 else step - 650,
            "time": 1.7e9 + step * 0.25,
            "phase": "stage2" if label == "latent" and step > 650 else "stage1" if label == "latent" else label,
            "ce": ce,
            "loss": ce,
            "lr": 2.5e-3 * min(1, step / 100),
            "grad_norm": rng.uniform(0.4, 1.6),
        }
        if stage1:
            line["align"] = 0.02 + 0.9 * math.exp(-step / 140) * rng.uniform(0.95, 1.05)
            line["loss"] = ce + line["align"]
        if step % 50 == 0:
            jump = (
                0.08 + 0.89 / (1 + math.exp(-(step - 430) / 22))
                if label == "latent"
                else 0.08 + 0.58 * (1 - math.exp(-step / 200))
            )
            line["eval/accuracy"] = min(1.0, max(0.0, jump + rng.uniform(-0.02, 0.02)))
        lines.append(line)
    return lines


def rl_lines(rng: random.Random) -> list[dict[str, Any]]:
    lines = []
    for step in range(1, 41):
        rise = 1 - math.exp(-step / 14)
        accuracy = 0.82 + 0.14 * rise + rng.uniform(-0.02, 0.02)
        form = 0.97 + 0.03 * rise
        necessity = 0.7 + 0.2 * rise + rng.uniform(-0.03, 0.03)
        lines.append(
            {
                "step": step,
                "time": 1.7e9 + step * 2,
                "phase": "rl",
                "reward": (accuracy + form + necessity) / 3,
                "reward_std": 0.16 - 0.06 * rise,
                "rewards/accuracy/mean": accuracy,
                "rewards/format/mean": form,
                "rewards/necessity/mean": necessity,
                "necessity/nu": necessity - 0.02,
                "frac_reward_zero_std": 0.3 + 0.3 * rise,
                "completions/mean_length": 21 + rng.uniform(-0.5, 0.5),
                "entropy": 0.35 - 0.2 * rise,
                "kl": 0.002 + 0.02 * rise,
                "latent/logprob_gap": rng.uniform(1e-5, 4e-5),
                "perf/tokens_per_second": 900 + rng.uniform(-50, 50),
                "time/collect": 1.1 + rng.uniform(-0.1, 0.1),
            }
        )
    return lines


def write_samples(folder: Path, rows: list[Row]) -> None:
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    samples = []
    for row in rows:
        image = f"samples/{row.id}.png"
        (folder / image).write_bytes(row.images[0].bytes)
        helpers = []
        drawn = [image for step in row.steps for image in step.images or ()]
        for number, helper in enumerate(drawn, start=1):
            helpers.append(f"samples/{row.id}.h{number}.png")
            (folder / helpers[-1]).write_bytes(helper.bytes)
        focus = [box for boxes in row.meta.get("focus", []) for box in boxes]
        samples.append(
            {
                "id": row.id,
                "question": row.question,
                "image": image,
                "helpers": helpers,
                "focus": focus,
                "meta": row.meta,
            }
        )
    write_json(folder / "samples" / "samples.json", samples)


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
