"""The values of a step in the terminal's progress line, beside its number and the remaining time."""

from collections.abc import Iterable, Mapping

from covt_runtime.metrics.metric_table import live_labels


def live_values(metrics: Mapping[str, float], rewards: Iterable[str]) -> dict[str, float | str]:
    """Label the values that the progress line shows, in the order of the metric table.

    Args:
        metrics: the step's metrics. A step that trained on nothing has no gap.
        rewards: names of rewards, each shown as its mean ± its standard deviation over the step's rollouts.
    """
    shown: dict[str, float | str] = {label: metrics[name] for name, label in live_labels().items() if name in metrics}
    for name in rewards:
        shown[name] = f"{metrics[f'rewards/{name}/mean']:.3g} ± {metrics[f'rewards/{name}/std']:.2g}"
    return shown
