"""Scored rollouts, written to disk before training uses them, so that a killed run resumes with the same ones."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from covt_model.encoding.encode import EncodedPrompt
from covt_rl.scoring.score_groups import ScoredGroup
from covt_rollout.client.completions import Completion
from covt_rollout.vllm_plugin.protocol import Latents
from covt_runtime.files import disk_errors, write_text


@dataclass(frozen=True)
class StepRollouts:
    """What one step trains on.

    Attributes:
        groups: the scored groups.
        metrics: of all groups that were sampled for the step, including dropped ones.
        cursor: prompts taken from the stream up to the end of this step.
        weights: the step whose weights sampled them; the step itself, or the one before.
        prompts: encoded prompts by row, where they were encoded for sampling; not written down.
    """

    groups: list[ScoredGroup]
    metrics: dict[str, float]
    cursor: int
    weights: int
    prompts: Mapping[str, EncodedPrompt] = field(default_factory=dict[str, EncodedPrompt])


class Journal:
    """`rollouts/step_N.json`: one file per step, complete or absent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, step: int) -> Path:
        return self.folder / f"step_{step}.json"

    def write(self, step: int, rollouts: StepRollouts) -> None:
        record = {
            "groups": [_to_json(group) for group in rollouts.groups],
            "metrics": rollouts.metrics,
            "cursor": rollouts.cursor,
            "weights": rollouts.weights,
        }
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.path(step), json.dumps(record))

    def read(self, step: int) -> StepRollouts | None:
        """The step's rollouts; None where they were never written."""
        path = self.path(step)
        if not path.is_file():
            return None
        record = json.loads(path.read_text(encoding="utf-8"))
        groups = [_from_json(group) for group in record["groups" if "groups" in record else "judged"]]
        return StepRollouts(groups, record["metrics"], record["cursor"], record["weights"])

    def forget_before(self, step: int) -> None:
        """Remove the files of steps that no checkpoint needs any more."""
        for path in self.folder.glob("step_*.json"):
            if int(path.stem.removeprefix("step_")) < step:
                path.unlink()


def _to_json(group: ScoredGroup) -> dict[str, Any]:
    return {
        "row_id": group.row_id,
        "completions": [one.to_json() for one in group.completions],
        "ablated": [[one.to_json() for one in each] for each in group.ablated],
        "control": [[one.to_json() for one in each] for each in group.control],
        "totals": list(group.totals),
        "values": group.values,
        "latents": [_pack(latents) for latents in group.latents],
    }


def _from_json(record: dict[str, Any]) -> ScoredGroup:
    def nested(lists: list[list[dict[str, Any]]]) -> tuple[tuple[Completion, ...], ...]:
        return tuple(tuple(Completion.from_json(one) for one in each) for each in lists)

    return ScoredGroup(
        row_id=record["row_id"],
        completions=tuple(Completion.from_json(one) for one in record["completions"]),
        ablated=nested(record["ablated"]),
        totals=tuple(record["totals"]),
        values=record["values"],
        control=nested(record["control"]),
        latents=tuple(_unpack(latents) for latents in record["latents"]),
    )


def _pack(latents: Latents | None) -> dict[str, Any] | None:
    if latents is None:
        return None
    return {"shape": list(latents.shape), "data": base64.b64encode(latents.astype("<f4").tobytes()).decode()}


def _unpack(record: dict[str, Any] | None) -> Latents | None:
    if record is None:
        return None
    return np.frombuffer(base64.b64decode(record["data"]), "<f4").reshape(record["shape"]).copy()
