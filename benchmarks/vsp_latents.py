"""What the latents of the `vsp` task are worth: wavefront, path and wave latents beside pause tokens and plain text.

    python benchmarks/vsp_latents.py [--seeds 3] [--variants wavefront,path,wave,pause,plain] [--rates 2e-3,4e-3,8e-3]
        [--maps FOLDER] [--ranks 2] [--out covt-vsp-latents] [--large] [--json] [KEY=VALUE ...]

Each seed and variant is one `covt sft vsp` (`vsp-large` with `--large`) with equal steps and rows. A variant is trained
at every learning rate of `--rates`, and the one that is best on the validation maps is judged: on the published maps of
the folder `--maps`, and on generated maps that nothing was chosen on, by level and length of the plan, with the latents
kept, zeroed, noised and exchanged. Answers come from the reference loop in this process. This is no comparison of
speeds. After an interruption, the same command continues after the last finished training.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import harness
import torch

from covt.recipe_files import apply_overrides, read_recipe, validate
from covt_data.ingest.prepare import prepare
from covt_data.schema import Row
from covt_data.store.prepared_set import PreparedSet
from covt_data.tasks.vsp_maps import manhattan_plan
from covt_eval.interpretation.shown_rows import Answerer, load_answerer
from covt_eval.statistics.intervals import paired_difference
from covt_model.generation.latent_generation import Generated, generate
from covt_rewards.tasks.vsp_plan import walk_plan
from covt_runtime.metrics.progress import Progress
from covt_sft.planning.answer_grading import grade_answer
from covt_sft.sft_recipe import SftConfig
from covt_sft.training.train import plan, train

SET_LATENTS = ("wavefront", "path", "wave")
CONTROLS = ("pause", "plain")
ABLATIONS = ("zeros", "noise", "shuffle")
BATCH = 100
LONG = 5
"""Moves of a plan that counts as long."""
SIZES: dict[str, dict[str, Any]] = {
    "vsp": {"test_sizes": (4,), "n_test": 600},
    "vsp-large": {"sizes": (3, 4, 5, 5, 6, 6), "test_sizes": (5, 6), "n_test": 600, "latent_size": 16},
}


def prepared(options: argparse.Namespace, latents: str, seed: int) -> Path:
    """The prepared set of a seed; controls share the wavefront's."""
    folder = options.out / f"data-{latents}-{seed}"
    values: dict[str, Any] = SIZES[options.recipe] | {"latents": latents, "seed": seed}
    if options.maps is not None:
        values["maps"] = str(options.maps)
    prepare("vsp", folder, options=values)
    return folder


def trained(options: argparse.Namespace, variant: str, seed: int, rate: str, progress: Progress) -> Path:
    """Folder of the run of one variant, seed and learning rate; trained unless it is there."""
    run = options.out / f"{variant}-{seed}-{rate}"
    if (run / "hf" / "model.safetensors").is_file():
        return run
    data = prepared(options, variant if variant in SET_LATENTS else "wavefront", seed)
    tables, origin = read_recipe("sft", options.recipe)
    settings = [
        f"method='{variant if variant in CONTROLS else 'latent'}'",
        f"stage1.lr={rate}",
        f"run.seed={seed}",
        f"run.ranks={options.ranks}",
        f"run.out='{options.out}'",
        f"run.name='{run.name}'",
        f"data.path='{data}'",
        "log.wandb='disabled'",
        *options.settings,
    ]
    config = validate(SftConfig, apply_overrides(tables, settings), origin)
    train(config, plan(config), progress=progress, overwrite=True)
    return run


def validation_accuracy(run: Path) -> float:
    """The last accuracy that the training measured on the validation maps."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line["eval/accuracy"] for line in lines if "eval/accuracy" in line][-1]


def answer(answerer: Answerer, rows: Sequence[Row], **how: Any) -> list[Generated]:
    """Greedy answers; `how` goes to `generate`, with the latents of `given` cut to the batch."""
    given, found = how.pop("latents", None), []
    for start in range(0, len(rows), BATCH):
        prompts = [answerer.encoder.encode_prompt(row) for row in rows[start : start + BATCH]]
        images = answerer.features([image for prompt in prompts for image in prompt.pictures])
        if given is not None:
            how["latents"] = given[start : start + BATCH]
        found += generate(answerer.model, prompts, images, answerer.latent, max_new_tokens=64, **how)
    return found


def outcomes(answerer: Answerer, rows: Sequence[Row]) -> dict[str, list[float]]:
    """Score of each row by mode; a model without latents of its own has `keep` alone."""

    def graded(answers: Sequence[Generated]) -> list[float]:
        texts = [answerer.encoder.tokenizer.decode(one.token_ids, skip_special_tokens=True) for one in answers]
        return [grade_answer(row, text) for row, text in zip(rows, texts, strict=True)]

    kept = answer(answerer, rows)
    found = {"keep": graded(kept)}
    if answerer.latent.head == "none" or not any(len(one.latents) for one in kept):
        return found
    own = [one.latents if len(one.latents) else torch.zeros(1, one.latents.shape[-1]) for one in kept]
    ablated = {
        "zeros": answer(answerer, rows, mode="zeros"),
        "noise": answer(answerer, rows, mode="noise", seed=1),
        "shuffle": answer(answerer, rows, mode="given", latents=[*own[1:], own[0]]),
    }
    return found | {mode: graded(answers) for mode, answers in ablated.items()}


def by_group(rows: Sequence[Row], scores: Sequence[float]) -> dict[str, list[float]]:
    """Scores by level, by number of moves, and of long plans together."""
    groups: dict[str, list[float]] = defaultdict(list)
    for row, score in zip(rows, scores, strict=True):
        moves = len(row.meta["plan"])
        for name in ("all", row.category or "", f"{moves} moves", f"{LONG} moves and more" if moves >= LONG else ""):
            groups[name].append(score)
    groups.pop("", None)
    return dict(groups)


def judged(run: Path, data: Path) -> dict[str, dict[str, list[float]]]:
    """Scores by split and mode, kept in `RUN/outcomes.json`."""
    path = run / "outcomes.json"
    if not path.is_file():
        answerer, folder = load_answerer(run / "hf"), PreparedSet(data)
        splits = [split for split in ("test", "generated") if split in folder.splits]
        found = {split: outcomes(answerer, list(folder.rows(split))) for split in splits}
        path.write_text(json.dumps(found), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def run_seed(options: argparse.Namespace, seed: int, progress: Progress) -> dict[str, Any]:
    """All variants of one seed: accuracy by split, group and mode, and paired differences to pause."""
    data = prepared(options, "wavefront", seed)
    rows = {
        split: list(PreparedSet(data).rows(split))
        for split in ("test", "generated")
        if split in PreparedSet(data).splits
    }
    scores: dict[str, dict[str, dict[str, list[float]]]] = {}
    chosen: dict[str, str] = {}
    for variant in options.variants:
        runs = {rate: trained(options, variant, seed, rate, progress) for rate in options.rates}
        chosen[variant] = max(runs, key=lambda rate: validation_accuracy(runs[rate]))
        scores[variant] = judged(runs[chosen[variant]], data)
    result: dict[str, Any] = {"seed": seed, "rates": chosen, "splits": {}}
    for split, some in rows.items():
        straight = [float(walk_plan(row.meta["rows"], manhattan_plan(row.meta["rows"])).success) for row in some]
        groups = {variant: by_group(some, scores[variant][split]["keep"]) for variant in scores}
        groups["walking straight"] = by_group(some, straight)
        result["splits"][split] = {
            "rows": {name: len(values) for name, values in groups["walking straight"].items()},
            "accuracy": {
                variant: {name: statistics.fmean(values) for name, values in found.items()}
                for variant, found in groups.items()
            },
            "ablation": {
                variant: {mode: statistics.fmean(values) for mode, values in scores[variant][split].items()}
                for variant in scores
            },
            "minus_pause": {
                variant: {
                    name: asdict(paired_difference(values, groups["pause"][name])) for name, values in found.items()
                }
                for variant, found in groups.items()
                if "pause" in groups and variant != "pause"
            },
        }
    return result


def table(summaries: Sequence[dict[str, Any]]) -> str:
    """A line per seed, split and variant."""
    lines: list[str] = []
    for summary in summaries:
        for split, found in summary["splits"].items():
            for variant, groups in found["accuracy"].items():
                shown = "  ".join(
                    f"{name} {value:.1%}" for name, value in sorted(groups.items()) if "moves" not in name
                )
                long = groups.get(f"{LONG} moves and more")
                ablated = found["ablation"].get(variant, {})
                rest = "  ".join(f"{mode} {ablated[mode]:.1%}" for mode in ABLATIONS if mode in ablated)
                lines.append(
                    f"seed {summary['seed']}  {split:<10}{variant:<18}{shown}"
                    + ("" if long is None else f"  {LONG}+ moves {long:.1%}")
                    + (f"  | {rest}" if rest else "")
                )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="What the latents of the vsp task are worth.")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings of the recipe for every training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", default="wavefront,path,wave,pause,plain")
    parser.add_argument(
        "--rates", default="4e-3", help="peak learning rates of stage 1, one chosen per variant and seed"
    )
    parser.add_argument("--maps", type=Path, help="folder of the published maps")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("covt-vsp-latents"))
    parser.add_argument("--large", action="store_true", help="levels 3 to 6, recipe vsp-large")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.variants, options.rates = options.variants.split(","), options.rates.split(",")
    unknown = set(options.variants) - {*SET_LATENTS, *CONTROLS}
    if unknown:
        parser.error(
            f"unknown variant {', '.join(sorted(unknown))}: choose among {', '.join((*SET_LATENTS, *CONTROLS))}"
        )
    options.recipe = "vsp-large" if options.large else "vsp"
    with Progress() as progress:
        summaries = [run_seed(options, seed, progress) for seed in range(options.seeds)]
    result = {"device": harness.device(), "versions": harness.versions(), "seeds": summaries}
    print(json.dumps(result, indent=2) if options.json else table(summaries))


if __name__ == "__main__":
    main()
