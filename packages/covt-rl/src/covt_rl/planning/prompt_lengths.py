"""Prompts that leave no room for an answer: found before the start, each row read and encoded by one rank only."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from covt_data.schema import Row
from covt_data.stream.row_stream import RowStream
from covt_model.encoding.encode import Encoder
from covt_rl.rl_errors import RlError
from covt_rl.rl_recipe import RlConfig

NAMED = 5
"""How many prompts a message names."""


@dataclass(frozen=True)
class LongPrompt:
    """A prompt that leaves no room for `rollout.max_tokens`.

    Attributes:
        index: of its row.
        row_id: of its row.
        length: in tokens, visual tokens included.
    """

    index: int
    row_id: str
    length: int


def reachable_rows(stream: RowStream, config: RlConfig, steps: int) -> list[int]:
    """Indexes of the rows that a run can sample, in the order in which they are stored.

    Where rows are left out, others take their place, so every row may be sampled.
    """
    most = steps * config.rollout.prompts * (config.rollout.dynamic + 1)
    every = config.algorithm.steps is None or config.data.on_bad == "skip"
    if every or (most >= len(stream.rows) and len(stream.parts) == 1):
        return list(range(len(stream.rows)))
    return sorted({stream.index(position) for position in range(most)})


def share_of_rank(indexes: Sequence[int], rank: int, ranks: int) -> Sequence[int]:
    """The indexes of one rank: a contiguous run of stored rows, so that each rank reads its own part of the files."""
    return indexes[len(indexes) * rank // ranks : len(indexes) * (rank + 1) // ranks]


def find_long_prompts(rows: Sequence[Row], mine: Iterable[int], encoder: Encoder, config: RlConfig) -> list[LongPrompt]:
    """The prompts among `mine` that leave no room for `rollout.max_tokens` in what trainer and server take."""
    _, limit = length_limit(config)
    found: list[LongPrompt] = []
    for index in mine:
        row = rows[index]
        length = len(encoder.encode_prompt(row).expanded)
        if length + config.rollout.max_tokens > limit:
            found.append(LongPrompt(index, row.id, length))
    return found


def length_limit(config: RlConfig) -> tuple[str, int]:
    """The recipe key that limits the length of prompt and completion most, and its value."""
    limits = {"data.max_length": config.data.max_length}
    if config.server.max_model_len is not None:
        limits["server.max_model_len"] = config.server.max_model_len
    return min(limits.items(), key=lambda item: item[1])


def describe_long_prompts(found: Sequence[LongPrompt], total: int, config: RlConfig) -> str:
    """One sentence that counts the prompts and names the longest ones.

    Args:
        found: prompts without room, at least one.
        total: how many prompts were looked at.
        config: the recipe.
    """
    name, limit = length_limit(config)
    longest = sorted(found, key=lambda one: -one.length)[:NAMED]
    named = ", ".join(f"{one.row_id} ({one.length} tokens)" for one in longest)
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return (
        f"{len(found)} of {total} prompts are too long: {named}{more}; with rollout.max_tokens = "
        f"{config.rollout.max_tokens} they exceed {name} = {limit}"
    )


def refuse_long_prompts(found: Sequence[LongPrompt], total: int, config: RlConfig) -> None:
    """Raise RlError for prompts without room if `data.on_bad` is `refuse`, or if no other prompts remain."""
    if not found or (config.data.on_bad == "skip" and len(found) < total):
        return
    name, _ = length_limit(config)
    skip = "" if config.data.on_bad == "skip" else ", or leave these rows out with data.on_bad=skip"
    raise RlError(
        describe_long_prompts(found, total, config),
        f"raise {name}, lower rollout.max_tokens or data.max_pixels{skip}",
    )
