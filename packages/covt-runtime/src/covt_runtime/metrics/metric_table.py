"""The table of metrics: name, unit, meaning and presentation of everything that a run logs.

The report, the live view, the alarms and the documentation read this table. To add a metric, log it and add a `Metric`
here; a test refuses logged names that the table doesn't have. A name with `*` is a family: `*` stands for any text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

Better = Literal["higher", "lower", ""]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric, or a family of metrics.

    Attributes:
        name: as in metrics.jsonl; `*` stands for any text.
        unit: what a value is measured in; empty for plain counts.
        description: one sentence that says what the value is.
        title: heading of its chart; empty where the name itself is the heading.
        better: which direction is an improvement; empty where neither is.
        live: label in the terminal's progress line; empty where it isn't shown there.
        share: whether charts show it on an axis from 0 to 100 %.
        collapse: what to do when it falls to a tenth of its first value; empty where that is no alarm.
    """

    name: str
    unit: str
    description: str
    title: str = ""
    better: Better = ""
    live: str = ""
    share: bool = False
    collapse: str = ""

    def matches(self, name: str) -> bool:
        """Whether `name` is this metric or belongs to this family."""
        return _pattern(self.name).fullmatch(name) is not None


METRICS: tuple[Metric, ...] = (
    Metric("loss", "nats per token", "The loss that the step minimized.", "Loss", "lower"),
    Metric("ce", "nats per token", "Cross-entropy of the supervised tokens.", "Cross-entropy", "lower"),
    Metric(
        "align",
        "1 − cosine",
        "Distance of the latents from the features of the helper images.",
        "Alignment to the helper images",
        "lower",
    ),
    Metric("tokens", "tokens", "Supervised tokens in the step, over all ranks."),
    Metric("lr", "per step", "Learning rate of the step."),
    Metric("learning_rate", "per step", "Learning rate of the step."),
    Metric("grad_norm", "L2 norm", "Norm of the gradient before clipping."),
    Metric("skipped/rows", "rows", "Rows left out so far because they can't be trained on.", better="lower"),
    Metric(
        "skipped/steps",
        "steps",
        "Steps left out so far because their loss or gradient was not finite.",
        better="lower",
    ),
    Metric("epoch", "passes over the data", "How far the run has read its data."),
    Metric(
        "eval/accuracy",
        "share of held-out rows",
        "Held-out rows answered correctly, with self-generated latents.",
        "Accuracy",
        "higher",
        share=True,
    ),
    Metric("eval/accuracy_*", "share of held-out rows", "The same accuracy in a latent mode.", better="higher"),
    Metric("eval/*correct", "share of held-out rows", "Held-out rows answered correctly.", better="higher"),
    Metric(
        "eval/latent_used",
        "share of held-out rows",
        "Trigger rate: held-out rows answered with at least one well-formed latent span.",
        "Trigger rate",
        share=True,
    ),
    Metric("eval/latent_spans", "spans per answer", "Mean number of well-formed latent spans in held-out answers."),
    Metric("eval/loss", "nats per token", "The training loss on held-out rows.", better="lower"),
    Metric("eval/ce", "nats per token", "Cross-entropy of held-out rows.", better="lower"),
    Metric("eval/align", "1 − cosine", "Alignment on held-out rows.", better="lower"),
    Metric("reward", "mean of completions", "Weighted sum of the rewards.", "Reward", "higher", "reward"),
    Metric(
        "reward_std",
        "standard deviation",
        "Spread of the total reward within a group, averaged over groups.",
        "Reward spread in a group",
        live="±",
    ),
    Metric("rewards/*/mean", "mean of completions", "One reward before its weight.", "Rewards by name", "higher"),
    Metric("rewards/*/std", "standard deviation", "Spread of one reward over the step's completions."),
    Metric("rewards/*/failures", "completions", "Completions that the reward could not score.", better="lower"),
    Metric(
        "frac_reward_zero_std",
        "share of groups",
        "Groups whose completions all have the same reward, so they teach nothing.",
        "Groups without a signal",
        "lower",
    ),
    Metric("frac_trained", "share of completions", "Completions that the update used."),
    Metric(
        "necessity/nu",
        "accuracy kept − ablated",
        "How much accuracy the latents carry.",
        "Necessity ν",
        "higher",
        "ν",
    ),
    Metric("necessity/used", "share of completions", "Completions with at least one latent span."),
    Metric("necessity/accuracy_*", "share of continuations", "Continuations without latents that are correct."),
    Metric(
        "necessity/extra_tokens_per_token",
        "tokens per sampled token",
        "Cost of the ablated continuations.",
        better="lower",
    ),
    Metric(
        "completions/mean_length",
        "tokens",
        "Mean length of the completions.",
        "Length of completions",
        live="length",
    ),
    Metric("completions/min_length", "tokens", "Length of the shortest completion."),
    Metric("completions/max_length", "tokens", "Length of the longest completion."),
    Metric("completions/*_terminated_length", "tokens", "The same over completions that ended by themselves."),
    Metric(
        "completions/clipped_ratio",
        "share of completions",
        "Completions cut off at the length limit.",
        better="lower",
    ),
    Metric("num_tokens", "tokens", "Tokens sampled in the step, continuations included."),
    Metric("latent/spans", "spans per completion", "Mean number of well-formed latent spans.", live="spans"),
    Metric(
        "latent/used",
        "share of completions",
        "Trigger rate: completions with at least one well-formed latent span.",
        "Trigger rate",
        share=True,
        collapse="raise the weight of necessity or usage; w_redundant suppresses latents",
    ),
    Metric(
        "latent/logprob_gap",
        "nats, server − trainer",
        "Mean absolute difference of a token's log-probability between server and trainer, before the update.",
        "Server against trainer",
        "lower",
        "gap",
    ),
    Metric(
        "entropy",
        "nats per token",
        "Entropy of the policy.",
        "Entropy",
        collapse="lower optim.lr, or set algorithm.entropy_weight or kl_weight",
    ),
    Metric(
        "kl", "nats per token", "KL divergence from the reference, or from the server without one.", "KL divergence"
    ),
    Metric("clip_ratio*", "share of tokens", "Tokens whose ratio was clipped."),
    Metric("sampling/kl", "nats per token", "KL divergence of the trainer from the server.", better="lower"),
    Metric("sampling/importance_sampling_ratio/*", "trainer / server", "Importance weight of the sampled tokens."),
    Metric(
        "sampling/resent",
        "requests",
        "Requests sent again because a server failed or was given new weights.",
        better="lower",
    ),
    Metric(
        "sampling/masked",
        "share of completions",
        "Completions left out of the loss because trainer and server disagree about them.",
        better="lower",
        share=True,
    ),
    Metric("sampling/staleness", "updates", "Updates since the weights that sampled the step's completions."),
    Metric("dynamic/groups", "groups", "Groups with a spread of rewards that dynamic sampling kept."),
    Metric("dynamic/dropped_groups", "groups", "Groups without a spread that dynamic sampling dropped."),
    Metric("dynamic/rounds", "rounds", "Rounds of sampling that the step took."),
    Metric("perf/tokens_per_second", "tokens per second", "Throughput of all ranks.", better="higher", live="tokens/s"),
    Metric("perf/memory_gib", "GiB", "Peak memory of the fullest device.", better="lower"),
    Metric("perf/data_wait", "share of the step", "Time in which the step waited for its rows.", better="lower"),
    Metric("perf/mfu", "share of the peak FLOPs", "Model FLOPs utilization.", better="higher"),
    Metric("perf/padding", "share of positions", "Computed positions that hold padding.", better="lower"),
    Metric("perf/*_idle", "share of the step", "Time in which the server or the trainer waited.", better="lower"),
    Metric("time/*", "seconds", "Duration of one phase of the step.", better="lower"),
    Metric("step_time", "seconds", "Duration of the step, in TRL's name.", better="lower"),
    Metric("seconds", "seconds", "Duration since the start.", better="lower"),
)
"""Exact names and families; the first entry that matches a name counts."""


@cache
def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, name.split("*"))))


def find_metric(name: str) -> Metric | None:
    """The entry of a metric; None for a name that the table doesn't have."""
    return next((metric for metric in METRICS if metric.matches(name)), None)


def unit_of(name: str) -> str:
    """The unit of a metric; empty for a name that the table doesn't have."""
    found = find_metric(name)
    return found.unit if found else ""


def title_of(name: str) -> str:
    """The heading of a metric's chart: its title, or its name where it has none."""
    found = find_metric(name)
    return found.title if found and found.title else name


def live_labels() -> dict[str, str]:
    """Labels of the metrics in the terminal's progress line, by name, in the order of the table."""
    return {metric.name: metric.live for metric in METRICS if metric.live}


def render_markdown() -> str:
    """The table as Markdown, for the documentation."""
    lines = ["| metric | unit | better | what it is |", "|---|---|---|---|"]
    lines += [f"| `{one.name}` | {one.unit} | {one.better} | {one.description} |" for one in METRICS]
    return "\n".join(lines) + "\n"
