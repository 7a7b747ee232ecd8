"""The rollouts of each step on rank 0: read from the journal, sampled ahead, or sampled now."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from statistics import fmean

from covt_data.images.pixel_limits import TOKEN_SIDE, limits_of
from covt_data.schema import Row
from covt_data.stream.row_stream import RowStream, mixture
from covt_rewards import ConfiguredReward, Scores
from covt_rewards.latents import span_usage
from covt_rl.rl_recipe import RlConfig
from covt_rl.rollouts.collect import Collector
from covt_rl.rollouts.journal import Journal, StepRollouts
from covt_rl.scoring.collected import Collected
from covt_rl.scoring.score_groups import ScoredGroup, metrics, score

Note = Callable[[str], None]


class RolloutStream:
    """The scored rollouts of each step. Every prompt of an epoch is used once, also by a run that was resumed.

    Args:
        collector: samples.
        rewards: score what was sampled.
        stream: the prompts.
        config: the recipe.
        journal: keeps the rollouts of each step on disk.
        steps: length of the run.
        skip: indexes of rows that are left out.
        note: called with a sentence when groups were dropped.
    """

    def __init__(
        self,
        collector: Collector,
        rewards: Sequence[ConfiguredReward],
        stream: RowStream,
        config: RlConfig,
        journal: Journal,
        *,
        steps: int,
        note: Note,
        skip: frozenset[int] = frozenset(),
    ) -> None:
        self.collector, self.rewards, self.stream, self.config = collector, rewards, stream, config
        self.journal, self.steps, self.note, self.skip = journal, steps, note, skip
        self.cursor = 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="rollouts")
        self._ahead: tuple[int, Future[StepRollouts | None]] | None = None

    def has(self, step: int) -> bool:
        """Whether the step's rollouts are there already."""
        return self.journal.path(step).is_file()

    def take(self, step: int, weights: int) -> StepRollouts | None:
        """The rollouts of a step, sampled now with the weights of `weights` where they are not there already.

        None when the epoch has no prompts left.
        """
        if self._ahead is not None and self._ahead[0] == step:
            future, self._ahead = self._ahead[1], None
            rollouts = future.result()
        else:
            rollouts = self.journal.read(step) or self._sample(step, weights)
        if rollouts is not None:
            self.cursor = rollouts.cursor
        return rollouts

    def begin(self, step: int, weights: int) -> None:
        """Sample a later step's rollouts in the background, with the weights that are served now."""
        if step < self.steps and not self.has(step):
            self._ahead = (step, self._pool.submit(self._sample, step, weights))

    def settle(self) -> None:
        """Wait until nothing is being sampled: the server may be given new weights."""
        if self._ahead is not None:
            self._ahead[1].result()

    def close(self) -> None:
        """End the rewards' processes. Sampling in the background ends when the client is closed."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for reward in self.rewards:
            close = getattr(reward.reward, "close", None)
            if close is not None:
                close()

    def _sample(self, step: int, weights: int) -> StepRollouts | None:
        """Collect, score, replace groups without spread, and write all to the journal."""
        cursor, wanted = self.cursor, self.config.rollout.prompts
        kept: list[ScoredGroup] = []
        flat: list[ScoredGroup] = []
        parts: list[Collected] = []
        scores: list[Scores] = []
        seconds = [0.0, 0.0]
        for turn in range(self.config.rollout.dynamic + 1):
            rows, cursor = self._next(cursor, wanted - len(kept))
            if not rows:
                break
            began = time.perf_counter()
            parts.append(self.collector.collect(rows, step, turn))
            sampled = time.perf_counter()
            groups, scored = score(rows, parts[-1], self.rewards)
            seconds = [seconds[0] + sampled - began, seconds[1] + time.perf_counter() - sampled]
            scores.append(scored)
            kept += [group for group in groups if group.has_spread]
            flat += [group for group in groups if not group.has_spread]
            if len(kept) == wanted:
                break
        if not parts:
            return None
        logged = metrics(Scores(tuple(group for one in scores for group in one.groups)))
        logged |= completion_metrics(parts) | {"time/collect": seconds[0], "time/score": seconds[1]}
        if self.config.rollout.dynamic:
            logged |= self._dynamic(step, len(kept), len(flat), len(parts))
            groups = kept or flat[:wanted]
        else:
            groups = _in_order(kept + flat, parts)
        prompts = {name: prompt for part in parts for name, prompt in part.prompts.items()}
        rollouts = StepRollouts(groups, logged, cursor, weights, prompts)
        self.journal.write(step, rollouts)
        return rollouts

    def _next(self, cursor: int, count: int) -> tuple[list[Row], int]:
        """The next prompts of the stream and the position after them; a run of one epoch ends with the rows.

        Rows that are left out are passed, also those behind the last prompt: an epoch is over with its last good one.
        """
        end = len(self.stream.rows) if self.config.algorithm.steps is None else None
        rows: list[Row] = []
        while cursor != end:
            index = self.stream.index(cursor)
            if index not in self.skip:
                if len(rows) == count:
                    break
                rows.append(self.stream.rows[index])
            cursor += 1
        return rows, cursor

    def _dynamic(self, step: int, kept: int, dropped: int, rounds: int) -> dict[str, float]:
        wanted = self.config.rollout.prompts
        if kept < wanted:
            self.note(
                f"step {step + 1}: {kept} of {wanted} groups have rewards that differ, after {rounds} rounds; "
                f"{dropped} groups were dropped"
            )
        counts = {"dropped_groups": dropped, "rounds": rounds, "groups": kept}
        return {f"dynamic/{name}": float(count) for name, count in counts.items()}


def training_stream(data: Path | str, config: RlConfig, token_side: int = TOKEN_SIDE) -> RowStream:
    """The prompts of a run in their order; the same on every rank. token_side: pixels per side of a visual token."""
    others = [(other.path, other.split, other.weight) for other in config.data.mix]
    limits = limits_of(config.data.min_pixels, config.data.max_pixels, token_side)
    return RowStream(mixture(data, config.data.split, config.data.limit, others), seed=config.run.seed, limits=limits)


def _in_order(groups: Sequence[ScoredGroup], parts: Sequence[Collected]) -> list[ScoredGroup]:
    """The groups as their prompts came."""
    place = {part[0].group_id: number for number, part in enumerate(parts[0].completions)}
    return sorted(groups, key=lambda group: place[group.row_id])


def completion_metrics(parts: Sequence[Collected]) -> dict[str, float]:
    """Lengths, latent spans and the price of the continuations, in TRL's names where it has them."""
    flat = [one for part in parts for group in part.completions for one in group]
    lengths = [len(one.token_ids) for one in flat]
    ended = [len(one.token_ids) for one in flat if one.finish_reason != "length"]
    extra = sum(part.extra_tokens for part in parts)
    usage = span_usage(flat)
    return {
        "completions/mean_length": fmean(lengths),
        "completions/min_length": float(min(lengths)),
        "completions/max_length": float(max(lengths)),
        "completions/mean_terminated_length": fmean(ended) if ended else 0.0,
        "completions/min_terminated_length": float(min(ended, default=0)),
        "completions/max_terminated_length": float(max(ended, default=0)),
        "completions/clipped_ratio": 1 - len(ended) / len(flat),
        "latent/spans": usage.spans,
        "latent/used": usage.used,
        "necessity/extra_tokens_per_token": extra / max(sum(lengths), 1),
        "num_tokens": float(sum(lengths) + extra),
        "sampling/resent": float(sum(part.resent for part in parts)),
    }
