"""Evaluating several sets of weights, one after another, on one running server."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from covt_runtime.metrics.progress import Progress


def judge(
    url: str,
    checkpoint: Path,
    weights: Path,
    rows: Sequence[Any],
    modes: Sequence[str],
    *,
    label: str,
    out: Path,
    max_tokens: int,
    seed: int,
    progress: Progress,
) -> dict[str, float]:
    """Push `weights` (a model folder) to the server of `checkpoint`, answer `rows` in each mode, write the answers.

    Returns accuracy by mode; `out/<label>.<mode>.jsonl` holds the rows.
    """
    from covt_eval.evaluation.eval_rows import write_rows
    from covt_eval.evaluation.evaluate import evaluate
    from covt_model.encoding.encode import Encoder
    from covt_model.latent_config import LatentConfig
    from covt_rollout.client.blocking_client import BlockingClient
    from covt_rollout.client.rollout_client import RolloutClient
    from covt_rollout.weights.weight_sync import push_weights

    encoder = Encoder(weights)
    client = RolloutClient.for_checkpoint(url, checkpoint)
    paused = LatentConfig.read(weights).head == "none"
    client.latent = replace(client.latent, head="none" if paused else client.latent.head)
    figures: dict[str, float] = {}
    with (
        BlockingClient(client) as blocking,
        progress.phase(f"evaluate {label}", total=len(rows) * len(modes), unit="row") as phase,
    ):
        version = blocking.run(client.weight_version()) + 1
        blocking.run(push_weights(client, weights, version))
        done = dict.fromkeys(modes, 0)

        def show(mode: str, answered: int, _all: int) -> None:
            done["keep" if mode == "none" else mode] = answered
            phase.update(sum(done.values()))

        # On the latent model's server, a pause model's pads are told to keep their own embedding.
        wire: list[Any] = ["none" if paused and mode == "keep" else mode for mode in modes]
        answers = blocking.run(
            evaluate(client, encoder, rows, wire, max_tokens=max_tokens, seed=seed, on_progress=show)
        )
    for mode, name in zip(modes, wire, strict=True):
        write_rows(answers[name], out / f"{label}.{mode}.jsonl")
        figures[mode] = sum(one.correct for one in answers[name]) / len(rows)
    return figures
