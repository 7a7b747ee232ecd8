"""The sentence at the top of the page. It follows from the intervals: an unclear difference is called one."""

import statistics

from covt_eval.report.charts.curves import points_of
from covt_eval.report.content import labels
from covt_eval.report.content.numbers import percent, plain, points
from covt_eval.report.content.run_files import Record, RunFiles, number, object_or_empty
from covt_eval.report.sections.results import read_difference
from covt_eval.report.sections.scores import outcome
from covt_model.latents.latent_modes import EVALUATION_MODES

CARRIED = 0.4  # share of accuracy lost to an ablation from which on the answer is said to come through the latents
BYPASSED = 0.05
MOST_NAMED = 3
MAIN_METRICS = {"reward": "The reward", "eval/accuracy": "Accuracy", "ce": "Cross-entropy", "loss": "The loss"}


def headline(run: RunFiles) -> tuple[str, str]:
    """One sentence with the result, and one that qualifies it; both follow from the intervals, not from hope."""
    accuracy = {key: number(value) for key, value in object_or_empty(run.summary.get("accuracy")).items()}
    best_label = next((key for key in ("rl", "stage2", "stage1") if accuracy.get(key) is not None), None)
    if best_label is None:
        return evaluation_headline(run) if run.names or (run.evals and not run.metrics) else training_headline(run)
    rows = f"{run.summary['n_test']} held-out rows" if run.summary.get("n_test") else "held-out rows"
    gap = read_difference(run.summary, "stage2-pause")
    best = accuracy[best_label] or 0.0
    if gap is None:
        first = f"{labels.model_name(best_label)}: {percent(best)} of {rows}"
    elif gap[1] > 0:
        first = f"Latents beat pause tokens by {gap[0] * 100:.1f} points on {rows}"
    elif gap[2] < 0:
        first = f"Latents fall {-gap[0] * 100:.1f} points short of pause tokens on {rows}"
    else:
        first = f"No measurable difference between latents and pause tokens on {rows}"
    return first, " ".join(
        filter(None, [levels_sentence(accuracy), rl_sentence(run.summary), ablation_sentence(run.summary)])
    )


def levels_sentence(accuracy: dict[str, float | None]) -> str:
    named = {"plain": "plain", "pause": "pause tokens", "stage2": "latents"}
    parts = [f"{name} {percent(share)}" for key, name in named.items() if (share := accuracy.get(key)) is not None]
    return f"Same model, same rows, same steps: {', '.join(parts)}." if len(parts) > 1 else ""


def rl_sentence(summary: Record) -> str:
    gain = read_difference(summary, "rl-stage2")
    if gain is None:
        return ""
    span = f"{points(gain[0])} points (95\N{NO-BREAK SPACE}% interval {points(gain[1])} to {points(gain[2])})"
    if gain[1] > 0:
        return f"Reinforcement learning improves on stage 2: {span}."
    if gain[2] < 0:
        return f"Reinforcement learning falls behind stage 2: {span}."
    return f"Reinforcement learning changes nothing that could be measured: {span}."


def ablation_sentence(summary: Record) -> str:
    shares = {
        key: share
        for key, raw in object_or_empty(summary.get("ablation")).items()
        if (share := number(raw)) is not None
    }
    keep = shares.pop("keep", None)
    if keep is None or not shares:
        return ""
    mode, best = max(shares.items(), key=lambda item: item[1])
    name = {str(one): one.participle for one in EVALUATION_MODES}
    if keep - best >= CARRIED:
        verdict = "the answer comes through the latents"
    elif keep - best < BYPASSED:
        verdict = "the answer hardly depends on them"
    else:
        verdict = "part of the answer comes through them"
    change = f"accuracy is {percent(best)} instead of {percent(keep)}"
    return f"With the latents {name.get(mode, mode)}, {change}: {verdict}."


def evaluation_headline(run: RunFiles) -> tuple[str, str]:
    """For evaluations without a quickstart's summary, or several runs: which model answers most rows right."""
    shares = {
        label: statistics.fmean(scores)
        for (label, mode), rows in run.evals.items()
        if mode == "keep" and (scores := [score for row in rows.values() if (score := outcome(row)) is not None])
    }
    if not shares:
        return f"{len(run.names)} runs side by side", ""
    best, share = max(shares.items(), key=lambda item: item[1])
    count = len(next(rows for (label, mode), rows in run.evals.items() if (label, mode) == (best, "keep")))
    name = labels.model_name(best)
    if len(shares) == 1:
        return f"{name} answers {percent(share)} of {count} rows right", ""
    others = sorted(((s, label) for label, s in shares.items() if label != best), reverse=True)
    rest = ", ".join(f"{labels.model_name(label)} {percent(value)}" for value, label in others[:MOST_NAMED])
    more = f" and {len(others) - MOST_NAMED} below" if len(others) > MOST_NAMED else ""
    return f"{name} answers most rows right: {percent(share)} of {count}", f"Then {rest}{more}."


def training_headline(run: RunFiles) -> tuple[str, str]:
    """For a folder that holds one training run and no comparison: how far its main metric came."""
    for metric, words in MAIN_METRICS.items():
        for lines in run.metrics.values():
            values = points_of(lines, metric)
            if len(values) < 2:
                continue
            last = [value for _, value in values[-max(1, len(values) // 20) :]]
            first, end = values[0][1], sum(last) / len(last)
            show = percent if metric == "eval/accuracy" else plain
            return f"{words} went from {show(first)} to {show(end)} in {values[-1][0]:.0f} steps", ""
    return "Nothing to compare yet", "This folder holds no accuracies and no training curve."
