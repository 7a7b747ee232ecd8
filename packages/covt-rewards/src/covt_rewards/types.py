"""The records that rewards take and return: rollout, group, result. Frozen plain data that converts to and from JSON.

A `Rollout` has the fields of a completion as `covt rl` records it, so a completion's JSON is read unchanged. Most
rewards need only `text`; everything else has a default for users of other trainers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Protocol, cast, runtime_checkable

from covt_rewards import json_fields as read
from covt_rewards.reward_errors import RewardError


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled completion of a prompt.

    Attributes:
        text: the completion, decoded; an ablated continuation may include the shared beginning or only its own part.
        token_ids: the completion's ids; empty when the trainer does not provide them.
        latent_spans: half-open ranges into `token_ids`; they cover the latent pads without the markers.
        finish_reason: `stop`, `length` or another value of the server's.
        ablated: continuations sampled from the end of the latent span with the latents ablated.
        control: continuations sampled the same way with the latents kept.
        logprobs: of the sampled tokens, as long as `token_ids`, or empty.
        mode: latent mode of its sampling (`keep`, `zeros`, `noise`, `shuffle`, `drop_latents`, `drop_span`).
        parent: the sample that an `ablated` or `control` rollout continues.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    latent_spans: tuple[tuple[int, int], ...] = ()
    finish_reason: str = ""
    ablated: tuple[Rollout, ...] = ()
    control: tuple[Rollout, ...] = ()
    group_id: str = ""
    sample_index: int = 0
    prompt_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    latent_key: str | None = None
    seed: int | None = None
    mode: str = "keep"
    parent: str | int | None = None
    weight_version: int = 0

    @classmethod
    def from_json(cls, value: object, where: str = "completion") -> Rollout:
        """Read a completion: a string is its text, an object has the fields above. Unknown fields are ignored.

        Args:
            value: parsed JSON.
            where: what errors call the value.

        Raises:
            RewardError: for a field of the wrong type.
        """
        if isinstance(value, str):
            return cls(text=value)
        record = read.mapping(value, where)
        text = record.get("text")
        if not isinstance(text, str):
            raise RewardError(f"{where}.text is {read.kind(text)}, not a string", "give the completion's decoded text")
        return cls(
            text=text,
            token_ids=read.integers(record.get("token_ids"), f"{where}.token_ids"),
            latent_spans=_spans(record.get("latent_spans"), f"{where}.latent_spans"),
            finish_reason=read.string(record.get("finish_reason"), f"{where}.finish_reason"),
            ablated=_rollouts(record.get("ablated"), f"{where}.ablated"),
            control=_rollouts(record.get("control"), f"{where}.control"),
            group_id=read.string(record.get("group_id"), f"{where}.group_id"),
            sample_index=read.integer(record.get("sample_index"), f"{where}.sample_index") or 0,
            prompt_ids=read.integers(record.get("prompt_ids"), f"{where}.prompt_ids"),
            logprobs=read.floats(record.get("logprobs"), f"{where}.logprobs"),
            latent_key=read.string(record.get("latent_key"), f"{where}.latent_key") or None,
            seed=read.integer(record.get("seed"), f"{where}.seed"),
            mode=read.string(record.get("mode"), f"{where}.mode") or "keep",
            parent=read.parent(record.get("parent"), f"{where}.parent"),
            weight_version=read.integer(record.get("weight_version"), f"{where}.weight_version") or 0,
        )

    def to_json(self) -> dict[str, object]:
        """Convert to plain lists and numbers; `Rollout.from_json(rollout.to_json()) == rollout`."""
        record: dict[str, object] = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("token_ids", "prompt_ids", "logprobs"):
            record[name] = list(cast("tuple[object, ...]", record[name]))
        record["latent_spans"] = [list(span) for span in self.latent_spans]
        record["ablated"] = [rollout.to_json() for rollout in self.ablated]
        record["control"] = [rollout.to_json() for rollout in self.control]
        return record


def _no_metadata() -> Mapping[str, object]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Group:
    """All rollouts of one prompt.

    Attributes:
        answer: the gold answer.
        rollouts: the sampled completions, usually 8.
        grader: `math`, `choice`, `text`, `vsp`, `boxes`, or empty to choose by options, metadata and gold answer.
        options: texts of a multiple-choice question; empty otherwise.
        metadata: whatever the row carries; for `vsp` the map, `{"rows": ["SFH", …]}`.
    """

    answer: str
    rollouts: tuple[Rollout, ...]
    prompt: str = ""
    id: str = ""
    grader: str = ""
    options: tuple[str, ...] = ()
    metadata: Mapping[str, object] = field(default_factory=_no_metadata)

    @classmethod
    def from_json(cls, value: object, where: str = "row") -> Group:
        """Read `{"id", "answer", "completions": [...], "prompt"?, "grader"?, "options"?, "metadata"?}`.

        `completions` may also be called `rollouts`. A gold answer may be a number, a list of letters or JSON of boxes;
        options may be numbers, or an object with their letters.

        Args:
            value: parsed JSON.
            where: what errors call the value.

        Raises:
            RewardError: for a field that is missing or of the wrong type.
        """
        record = read.mapping(value, where)
        name = "rollouts" if "rollouts" in record else "completions"
        rollouts = _rollouts(record.get(name), f"{where}.{name}")
        if not rollouts:
            raise RewardError(f"{where}.{name} is missing or empty", "give a list of texts or completion objects")
        identifier = record.get("id")
        return cls(
            answer=read.gold_answer(record.get("answer"), f"{where}.answer"),
            rollouts=rollouts,
            prompt=read.string(record.get("prompt"), f"{where}.prompt"),
            id=str(identifier) if isinstance(identifier, int) else read.string(identifier, f"{where}.id"),
            grader=read.string(record.get("grader"), f"{where}.grader"),
            options=read.options(record.get("options"), f"{where}.options"),
            metadata=read.metadata(record.get("metadata"), f"{where}.metadata"),
        )

    def to_json(self) -> dict[str, object]:
        """Convert to the row that `from_json` reads."""
        return {
            "id": self.id,
            "prompt": self.prompt,
            "answer": self.answer,
            "grader": self.grader,
            "options": list(self.options),
            "metadata": dict(self.metadata),
            "completions": [rollout.to_json() for rollout in self.rollouts],
        }


def _no_parts() -> Mapping[str, float]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class RewardResult:
    """One reward of one rollout.

    Attributes:
        value: the reward, before its weight.
        parts: named numbers for logging. Names are stable; a part that does not apply is absent.
        reason: the cause of the value in a few words; never empty when something is wrong.
    """

    value: float
    parts: Mapping[str, float] = field(default_factory=_no_parts)
    reason: str = ""

    @classmethod
    def from_json(cls, value: object, where: str = "result") -> RewardResult:
        """Read what `to_json` writes; raises `RewardError` for a field of the wrong type."""
        record = read.mapping(value, where)
        number = read.floats([record.get("value")], f"{where}.value")[0]
        parts = read.mapping(record.get("parts", {}), f"{where}.parts")
        values = read.floats(list(parts.values()), f"{where}.parts")
        return cls(number, dict(zip(parts, values, strict=True)), read.string(record.get("reason"), f"{where}.reason"))

    def to_json(self) -> dict[str, object]:
        return {"value": self.value, "parts": dict(self.parts), "reason": self.reason}


@runtime_checkable
class Reward(Protocol):
    """Any callable that maps a group to one result per rollout, in the rollouts' order."""

    def __call__(self, group: Group, /) -> Sequence[RewardResult]: ...


def _spans(value: object, where: str) -> tuple[tuple[int, int], ...]:
    spans: list[tuple[int, int]] = []
    for i, item in enumerate(read.items(value, where)):
        pair = read.integers(item, f"{where}[{i}]")
        if len(pair) != 2 or not 0 <= pair[0] <= pair[1]:
            raise RewardError(f"{where}[{i}] is {list(pair)}", "give half-open ranges [start, end]")
        spans.append((pair[0], pair[1]))
    return tuple(spans)


def _rollouts(value: object, where: str) -> tuple[Rollout, ...]:
    return tuple(Rollout.from_json(item, f"{where}[{i}]") for i, item in enumerate(read.items(value, where)))
