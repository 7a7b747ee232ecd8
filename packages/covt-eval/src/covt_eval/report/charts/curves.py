"""Training curves from metrics.jsonl: a fixed set with names and units, and every other recorded metric after them."""

from collections.abc import Callable

from covt_eval.report.charts.lines import LineChart, Series, line_chart
from covt_eval.report.content import labels
from covt_eval.report.content.run_files import Record, RunFiles, number
from covt_runtime.metrics.metric_table import title_of, unit_of

SKIP = {"step", "time", "phase"}
RL_DETAILS = (
    "reward_std",
    "frac_reward_zero_std",
    "entropy",
    "kl",
    "completions/mean_length",
    "latent/logprob_gap",
)
STEP = "optimizer step"


def positions(lines: list[Record]) -> list[float]:
    """The x of each record: its step, moved on by the steps before it where a new phase counts from 1 again."""
    xs: list[float] = []
    offset = last = 0.0
    phase: object = None
    for line in lines:
        step = number(line.get("step"))
        step = last - offset + 1 if step is None else step
        if line.get("phase") != phase and step + offset <= last and phase is not None:
            offset = last
        phase = line.get("phase")
        last = step + offset
        xs.append(last)
    return xs


def points_of(lines: list[Record], metric: str) -> list[tuple[float, float]]:
    """(x, value) of the records that hold `metric` as a finite number, by x; of a step logged twice the last counts."""
    found = zip(positions(lines), (number(line.get(metric)) for line in lines), strict=True)
    return sorted({x: value for x, value in found if value is not None}.items())


def phase_marks(lines: list[Record]) -> list[tuple[float, str]]:
    """Where a new phase begins: (x, its name), the first phase left out."""
    marks: list[tuple[float, str]] = []
    phase: object = None
    for x, line in zip(positions(lines), lines, strict=True):
        current = line.get("phase")
        if isinstance(current, str) and current not in (phase, "eval"):
            if phase is not None:
                marks.append(
                    (x, f"{current.replace('_', ' ').replace('stage1', 'stage 1').replace('stage2', 'stage 2')} →")
                )
            phase = current
    return marks if len(marks) <= 3 else []


def sft_series(run: RunFiles, pick: Callable[[list[Record]], str | None]) -> list[Series]:
    """Build one series per supervised run, from the metric that `pick` chooses among its records."""
    series: list[Series] = []
    for label in ("plain", "pause", "latent", ""):
        lines = run.metrics.get(label, [])
        metric = pick(lines)
        points = points_of(lines, metric) if metric else []
        if points:
            series.append(Series(labels.short_name(label) or "this run", labels.color(label), points))
    return series


def has(lines: list[Record], metric: str) -> bool:
    return any(number(line.get(metric)) is not None for line in lines)


def supervised(run: RunFiles) -> list[LineChart]:
    """Loss, alignment and the accuracy with self-generated latents of the supervised runs."""
    marks = phase_marks(run.metrics.get("latent") or run.metrics.get("") or [])
    lines = {label: records for label, records in run.metrics.items() if label in ("plain", "pause", "latent", "")}
    is_rl = has(lines.get("", []), "reward")
    charts: list[LineChart] = []
    if not is_rl:
        loss = sft_series(run, lambda found: next((name for name in ("ce", "loss") if has(found, name)), None))
        if loss:
            charts.append(line_chart("Cross-entropy", "nats per token", STEP, loss, marks=marks))
        align = sft_series(run, lambda found: "align" if has(found, "align") else None)
        if align:
            charts.append(
                line_chart("Alignment to the helper images", "1 − cosine", STEP, align, marks=marks, from_zero=True)
            )
    own = sft_series(run, lambda found: "eval/accuracy" if has(found, "eval/accuracy") else None)
    if own:
        dotted = [Series(item.name, item.color, item.points, dots=len(item.points) <= 40) for item in own]
        title = "Accuracy with self-generated latents" if "latent" in run.metrics else "Accuracy"
        charts.append(line_chart(title, "held-out rows", STEP, dotted, share=True, marks=marks))
    more = run.metrics.get("sft_more", [])
    longer = points_of(more, "ce") or points_of(more, "loss")
    if longer:
        charts.append(
            line_chart(
                "Stage 2 continued for RL's time", "nats per token", STEP, [Series("longer", "sft_more", longer)]
            )
        )
    return charts


def unseen(run: RunFiles) -> str:
    """What a comparison should have recorded while training and didn't, as a sentence."""
    lines = run.metrics.get("latent")
    if not lines or has(lines, "eval/accuracy"):
        return ""
    return "sft/latent/metrics.jsonl records no eval/accuracy, so accuracy during training isn't drawn."


def reinforcement(run: RunFiles) -> list[LineChart]:
    """Reward, rewards by name and necessity first, then the quantities that show whether training is healthy."""
    lines = run.metrics.get("rl") or run.metrics.get("", [])
    if not has(lines, "reward"):
        return []
    charts: list[LineChart] = []
    spread = dict(points_of(lines, "reward_std"))
    reward = points_of(lines, "reward")
    band = [(x, y - spread[x], y + spread[x]) for x, y in reward if x in spread] if len(reward) <= 160 else []
    title_unit = "mean" + (" ± standard deviation" if band else "")
    charts.append(line_chart("Reward", title_unit, STEP, [Series("reward", "rl", reward, band)]))
    named = sorted({key for line in lines for key in line if key.startswith("rewards/") and key.endswith("/mean")})
    parts = [
        Series(key.split("/")[1].replace("_", " "), labels.SPARE[index % len(labels.SPARE)], points)
        for index, key in enumerate(named)
        if (points := points_of(lines, key))
    ]
    if parts:
        charts.append(line_chart("Rewards by name", "mean per completion", STEP, parts))
    nu = points_of(lines, "necessity/nu")
    if nu:
        charts.append(
            line_chart(
                "Necessity ν", "accuracy kept − accuracy ablated", STEP, [Series("ν", "stage2", nu)], levels=[(0.0, "")]
            )
        )
    return charts


def health(run: RunFiles) -> list[LineChart]:
    """What shows whether reinforcement learning is sound: spread, entropy, lengths, server against trainer."""
    lines = run.metrics.get("rl") or run.metrics.get("", [])
    if not has(lines, "reward"):
        return []
    charts: list[LineChart] = []
    for metric in RL_DETAILS:
        points = points_of(lines, metric)
        if points:
            charts.append(line_chart(title_of(metric), unit_of(metric), STEP, [Series("value", "a6", points)]))
    return charts


def everything_else(run: RunFiles) -> list[LineChart]:
    """Every other recorded metric, one chart each, so that nothing is hidden."""
    shown = {"loss", "ce", "align", "eval/accuracy", "reward", "necessity/nu", *RL_DETAILS}
    names = {key for lines in run.metrics.values() for line in lines for key in line} - shown - SKIP
    names = {name for name in names if not (name.startswith("rewards/") and name.endswith("/mean"))}
    charts: list[LineChart] = []
    for name in sorted(names):
        series = [
            Series(labels.short_name(label) or "this run", labels.color(label, 1), points)
            for label, lines in run.metrics.items()
            if (points := points_of(lines, name))
        ]
        if series:
            charts.append(line_chart(name, unit_of(name), STEP, series))
    return charts
