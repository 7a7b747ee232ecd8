"""Evaluation through the server, greedy or sampled, with latents kept or ablated.

All modes of a row share what the model writes before its first latents. Modes that replace latents change what every
pad is fed, from the first span on. Modes that drop them cut the `keep` answer at its first span, take the pads (or the
whole span) out, let the model continue, and do the same with each span that it then writes. Every mode has the budget
of `keep`, and sample i of a row has the same seed in all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from covt_data.schema import Row
from covt_eval.eval_errors import EvalError
from covt_eval.evaluation.eval_rows import EvalRow
from covt_eval.evaluation.grade_completions import decode_with_latents, grade_completion
from covt_eval.evaluation.latent_ablations import choose_donors, drop_latents, latent_input
from covt_eval.evaluation.mode_names import check_mode_names
from covt_eval.evaluation.prompt_requests import OnProgress, PromptEncoder, TimedRequests, build_request
from covt_model.latents.latent_modes import LatentMode
from covt_rewards.accuracy import AccuracyReward
from covt_rollout.client.completions import Completion
from covt_rollout.client.rollout_client import RolloutClient
from covt_rollout.client.rollout_requests import Sampling
from covt_rollout.vllm_plugin.protocol import Latents


async def evaluate(
    client: RolloutClient,
    encoder: PromptEncoder,
    rows: Sequence[Row],
    modes: Sequence[LatentMode | str] = (LatentMode.KEEP,),
    *,
    max_tokens: int,
    samples: int = 1,
    temperature: float = 0.0,
    concurrency: int = 64,
    grader: AccuracyReward | None = None,
    seed: int = 0,
    force_start: bool = False,
    on_progress: OnProgress | None = None,
) -> dict[LatentMode, list[EvalRow]]:
    """Answer every row in every mode and grade the answers.

    Args:
        client: client of the server.
        encoder: renders the rows' prompts.
        rows: rows to answer.
        modes: latent modes.
        max_tokens: longest answer in tokens, latent tokens included.
        samples: answers per row; several need a temperature above 0.
        temperature: 0 is greedy.
        concurrency: requests in flight, which the measured seconds depend on.
        grader: the accuracy reward.
        seed: of sampling, of noise, and of which row receives whose latents.
        force_start: every answer begins with the start marker, whether or not the model would open a span.
        on_progress: called with the mode, the answers so far and all answers.

    Returns:
        Graded answers by mode. Rows keep their order, and the samples of a row follow each other.

    Raises:
        EvalError: for no rows, an unknown mode, or a mode that needs latents where the checkpoint has none.
    """
    chosen = _check_modes(client, rows, modes)
    if samples > 1 and temperature == 0:
        raise EvalError(f"{samples} greedy samples are all the same", "use one sample, or a temperature above 0")
    encoded = [build_request(encoder.encode_prompt(row), row) for row in rows]
    prompts = [prompt for prompt in encoded for _ in range(samples)]
    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, seed=seed if temperature > 0 else None)
    if force_start and max_tokens <= client.latent.size + 2:
        raise EvalError(
            f"{max_tokens} tokens leave no room for an answer behind a span of {client.latent.size} latents",
            f"set --max-tokens to {client.latent.size + 3} or more",
        )
    requests = TimedRequests(
        client, prompts, sampling, concurrency, on_progress or (lambda _mode, _done, _all: None), force_start
    )
    grader = grader or AccuracyReward()
    kept, kept_seconds, own = await _answer_with_latents(requests, chosen)
    results: dict[LatentMode, list[EvalRow]] = {}
    for mode in chosen:
        seconds: Sequence[float | None]
        if mode is LatentMode.KEEP:
            answers, seconds = kept, kept_seconds
        elif mode.edits_ids:
            answers = await drop_latents(client, prompts, kept, mode, sampling)
            seconds = [None] * len(answers)
        else:
            donors = choose_donors(mode, own, len(prompts), seed, samples)
            inputs = [latent_input(mode, donor, seed + index) for index, donor in enumerate(donors)]
            answers, seconds = await requests.send(mode, inputs)
        requests.on_progress(mode, len(prompts), len(prompts))
        graded = [
            grade_completion(rows[index // samples], answer, grader, decode_with_latents(answer.token_ids, client))
            for index, answer in enumerate(answers)
        ]
        results[mode] = [
            replace(row, sample=index % samples, seconds=seconds[index]) for index, row in enumerate(graded)
        ]
    return results


async def _answer_with_latents(
    requests: TimedRequests, modes: Sequence[LatentMode]
) -> tuple[list[Completion], list[float], list[Latents | None]]:
    """Answer in mode `keep` where a mode builds on it.

    Returns:
        The answers, the seconds of each, and the latents `[pads, H]` of each where a mode needs foreign latents.
    """
    swaps = any(mode.needs_foreign_latents for mode in modes)
    if not swaps and not any(mode is LatentMode.KEEP or mode.edits_ids for mode in modes):
        return [], [], []
    kept, seconds = await requests.send(LatentMode.KEEP, None, hold_latents=swaps)
    own: list[Latents | None] = list(await requests.client.take_latents(kept)) if swaps else []
    return kept, seconds, own


def _check_modes(client: RolloutClient, rows: Sequence[Row], modes: Sequence[str]) -> list[LatentMode]:
    """Return the modes; refuse an evaluation without rows and modes that the checkpoint can't be evaluated in."""
    if not rows:
        raise EvalError("there are no rows to evaluate", "choose a split that has rows")
    check_mode_names(modes)
    for mode in modes:
        if LatentMode(mode).replaces_latents and client.latent.head == "none":
            raise EvalError(
                f"mode {str(mode)!r} replaces latents, and this checkpoint has none (head 'none')",
                "evaluate it with keep, drop_latents or drop_span",
            )
    return [LatentMode(mode) for mode in modes]
