"""What the terminal shows of a step, beside its number and the time that is left."""

from collections.abc import Iterable, Mapping

LABELS = {
    "reward": "reward",
    "reward_std": "±",
    "necessity/nu": "ν",
    "completions/mean_length": "length",
    "latent/spans": "spans",
    "latent/logprob_gap": "gap",
    "perf/tokens_per_second": "tokens/s",
}


def live_values(metrics: Mapping[str, float], rewards: Iterable[str]) -> dict[str, float | str]:
    """The values by label; each reward as its mean ± its standard deviation over the step's rollouts.

    A step that trained on nothing has no gap.
    """
    shown: dict[str, float | str] = {label: metrics[name] for name, label in LABELS.items() if name in metrics}
    for name in rewards:
        shown[name] = f"{metrics[f'rewards/{name}/mean']:.3g} ± {metrics[f'rewards/{name}/std']:.2g}"
    return shown
