"""What comes back from the rollout server: a frozen record that goes to JSON and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from covt_rollout.rollout_errors import RolloutError

Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One sampled completion of a prompt, or the continuation of a completion.

    Attributes:
        group_id: the prompt's name.
        sample_index: 0 … n−1 within the group.
        prompt_ids: the prompt as the model saw it, with expanded image pads.
        token_ids: the completion. A continuation's begin with the (edited) tokens that it was given.
        logprobs: natural logarithms, one for each token; 0 for tokens that were forced or given.
        text: `token_ids` decoded without special tokens.
        finish_reason: `stop` or `length`.
        latent_spans: half-open ranges into `token_ids` that hold latent pads, without the markers.
        latent_key: names the completion's latents on the server; None when they were not kept there.
        seed: the request's seed; sample i of a seeded request draws from seed + i.
        mode: the latent mode it was sampled in (`covt_model.latents.latent_modes.LatentMode`).
        parent: `sample_index` of the completion that this one continues.
        weight_version: optimizer step of the weights that sampled it.
    """

    group_id: str
    sample_index: int
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish_reason: str
    latent_spans: Spans
    latent_key: str | None = None
    seed: int | None = None
    mode: str = "keep"
    parent: int | None = None
    weight_version: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers; `Completion.from_json(c.to_json()) == c`."""
        record = asdict(self)
        for name in ("prompt_ids", "token_ids", "logprobs"):
            record[name] = list(record[name])
        record["latent_spans"] = [list(span) for span in self.latent_spans]
        return record

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read the record of `to_json`; raises RolloutError that names missing and unknown fields."""
        names = {field.name for field in fields(cls)}
        optional = {"latent_key", "seed", "mode", "parent", "weight_version"}
        unknown, missing = set(value) - names, names - optional - set(value)
        if unknown or missing:
            raise RolloutError(
                f"a completion has unknown fields {sorted(unknown)} and lacks {sorted(missing)}",
                "write it with Completion.to_json of this release",
            )
        record = dict(value)
        for name in ("prompt_ids", "token_ids", "logprobs"):
            record[name] = tuple(record[name])
        record["latent_spans"] = tuple((int(start), int(end)) for start, end in record["latent_spans"])
        return cls(**record)
