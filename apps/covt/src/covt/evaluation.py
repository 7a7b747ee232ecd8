"""Evaluating one checkpoint through a server: what `covt eval` and the quickstart share."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from covt_runtime.progress import Progress


def evaluate_checkpoint(
    model: Path,
    data: Path,
    modes: Sequence[str],
    *,
    progress: Progress,
    split: str = "test",
    limit: int | None = None,
    max_tokens: int = 64,
    seed: int = 0,
    base_url: str = "",
    out: Path | None = None,
) -> dict[str, dict[str, float]]:
    """Accuracy by latent mode: `{"keep": {"value", "low", "high"}}`; starts a server unless `base_url` is given.

    With `out`, also writes `<mode>.jsonl` files there, one line a row.
    """
    from covt_data.store import PreparedSet
    from covt_model.encode import Encoder
    from covt_rl.blocking import BlockingClient
    from covt_rl.client import RolloutClient
    from covt_rl.evaluate import evaluate, write_rows
    from covt_rl.serving.process import LatentServer
    from covt_rl.stats import accuracy

    encoder = Encoder(model)
    rows = list(PreparedSet(data).rows(split, limit))
    with ExitStack() as stack:
        if not base_url:
            with progress.phase("start vLLM", unit="s") as phase:
                server = LatentServer.start(
                    model, on_progress=lambda stage, seconds: phase.update(round(seconds), stage=stage)
                )
            base_url = stack.enter_context(server).url
        client = RolloutClient.for_checkpoint(base_url, model, api_key=os.environ.get("COVT_API_KEY"))
        blocking = stack.enter_context(BlockingClient(client))
        with progress.phase(f"evaluate {model}", total=len(rows) * len(modes), unit="row") as phase:
            done = dict.fromkeys(modes, 0)

            def show(mode: str, answered: int, _all: int) -> None:
                done[mode] = answered
                phase.update(sum(done.values()))

            judged: dict[Any, Any] = blocking.run(
                evaluate(client, encoder, rows, modes, max_tokens=max_tokens, seed=seed, on_progress=show)  # type: ignore[arg-type]
            )
    if out is not None:
        for mode, answers in judged.items():
            write_rows(answers, out / f"{mode}.jsonl")
    return {mode: asdict(accuracy([one.correct for one in answers])) for mode, answers in judged.items()}
