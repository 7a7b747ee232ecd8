"""The table of sampled completions: prompt, picture, text, what each reward gave."""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from covt_data.schema import Row
from covt_rl.scoring.score_groups import ScoredGroup
from covt_rl.scoring.train_groups import TrainGroup
from covt_runtime.files import write_text


def table_rows(
    step: int,
    groups: Sequence[ScoredGroup],
    trained: Sequence[TrainGroup],
    row_of: Mapping[str, Row],
    count: int,
) -> list[dict[str, Any]]:
    """The first `count` completions, taking one of each group in turn; pictures are PNG or JPEG bytes.

    Args:
        step: number of the step.
        groups: its rollouts.
        trained: the same groups as they were trained on, with advantages.
        row_of: rows by their ids.
        count: number of completions.
    """
    most = max(len(group.completions) for group in groups)
    places = [(number, *pair) for number in range(most) for pair in zip(groups, trained, strict=True)]
    return [_row(step, group, own, number, row_of[group.row_id]) for number, group, own in places[:count]]


def _row(step: int, group: ScoredGroup, trained: TrainGroup, number: int, row: Row) -> dict[str, Any]:
    one = group.completions[number]
    record: dict[str, Any] = {
        "step": step,
        "id": row.id,
        "prompt": row.question,
        "image": row.images[0].bytes if row.images else None,
        "answer": row.answer,
        "completion": one.text,
        "latent_spans": len(one.latent_spans),
        "finish_reason": one.finish_reason,
    }
    record |= {f"rewards/{name}": values[number] for name, values in group.values.items()}
    ablated = group.ablated[number]
    return record | {
        "reward": trained.totals[number],
        "advantage": trained.advantages[number],
        "without_latents": ablated[0].text if ablated else None,
    }


def write_table(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write one JSON object per line, pictures as base64; the file is complete or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = [{key: _plain(value) for key, value in row.items()} for row in rows]
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in plain))


def _plain(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value
