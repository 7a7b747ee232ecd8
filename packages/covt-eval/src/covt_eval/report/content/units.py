"""What the values of a metric are measured in."""

from __future__ import annotations

import re

# The first pattern that fits the whole name counts.
UNITS: tuple[tuple[str, str], ...] = (
    ("loss|ce|entropy|kl|sampling/kl|eval/loss|eval/ce", "nats per token"),
    ("align|eval/align", "1 − cosine"),
    ("latent/logprob_gap", "nats, server − trainer"),
    ("lr|learning_rate", "per step"),
    ("grad_norm", "L2 norm"),
    (r"eval/accuracy\w*|eval/\w*correct", "share of held-out rows"),
    ("reward|rewards/.*/mean", "mean of completions"),
    ("reward_std|rewards/.*/std", "standard deviation"),
    ("rewards/.*/failures", "completions"),
    ("frac_reward_zero_std", "share of groups"),
    ("frac_trained|completions/clipped_ratio|latent/used|necessity/used", "share of completions"),
    ("necessity/nu", "accuracy kept − ablated"),
    (r"necessity/accuracy_\w+", "share of continuations"),
    ("necessity/extra_tokens_per_token", "tokens per sampled token"),
    (r"completions/\w*length|tokens|num_tokens", "tokens"),
    ("latent/spans", "spans a completion"),
    (r"clip_ratio.*", "share of tokens"),
    ("sampling/importance_sampling_ratio/.*", "trainer / server"),
    ("sampling/staleness", "updates"),
    ("perf/tokens_per_second", "tokens per second"),
    ("perf/memory_gib", "GiB"),
    ("perf/mfu", "share of the peak FLOPs"),
    ("perf/padding", "share of positions"),
    (r"perf/\w+_idle", "share of the step"),
    (r"time/.*|step_time|seconds", "seconds"),
    ("skipped/rows", "rows"),
    ("skipped/steps", "steps"),
    ("epoch", "passes over the data"),
)


def unit(metric: str) -> str:
    """The unit of a metric by its name; empty for one that isn't ours."""
    return next((found for pattern, found in UNITS if re.fullmatch(pattern, metric)), "")
