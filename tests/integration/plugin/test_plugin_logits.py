"""Which tokens the logits processor leaves open, as a function of the last tokens only."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

from covt_rollout.vllm_plugin.logits import LatentLogitsProcessor

TEXT, START, PAD, END, K, V = 2, 5, 6, 7, 3, 9


@pytest.fixture
def processor() -> LatentLogitsProcessor:
    return make()


def make() -> LatentLogitsProcessor:
    latent = {"start_id": START, "pad_id": PAD, "end_id": END, "size": K}
    model: Any = SimpleNamespace(
        hf_config=SimpleNamespace(covt_latent=latent, image_token_id=8), get_hidden_size=lambda: 4
    )
    config: Any = SimpleNamespace(model_config=model, additional_config=None, use_v2_model_runner=False)
    return LatentLogitsProcessor(config, torch.device("cpu"), False)


def add(processor: LatentLogitsProcessor, *rows: tuple[list[int], list[int]]) -> None:
    added = [(row, SamplingParams(), prompt, output) for row, (prompt, output) in enumerate(rows)]
    processor.update_state(BatchUpdate(len(rows), removed=[], added=added, moved=[]))


def open_tokens(logits: torch.Tensor) -> list[set[int]]:
    return [set(torch.isfinite(row).nonzero().flatten().tolist()) for row in logits]


def opened(processor: LatentLogitsProcessor, rows: int) -> list[set[int]]:
    return open_tokens(processor.apply(torch.randn(rows, V)))


OUTSIDE = set(range(V)) - {PAD, END}


@pytest.mark.parametrize(
    ("prompt", "output", "expected"),
    [
        ([TEXT], [], OUTSIDE),
        ([TEXT, START], [], {PAD}),
        ([TEXT], [START], {PAD}),
        ([TEXT], [START, PAD], {PAD}),
        ([TEXT], [START, PAD, PAD], {PAD}),
        ([TEXT], [START, PAD, PAD, PAD], {END}),
        ([TEXT], [START, PAD, PAD, PAD, END], OUTSIDE),
        ([TEXT, START, PAD], [PAD], {PAD}),
        ([TEXT, START, PAD, PAD], [PAD], {END}),
        ([TEXT, START, PAD, PAD, PAD], [], {END}),
        ([TEXT, START, END], [], OUTSIDE),
        ([TEXT, START, PAD, PAD, PAD, END, START], [], {PAD}),
    ],
)
def test_the_rule(processor: LatentLogitsProcessor, prompt: list[int], output: list[int], expected: set[int]) -> None:
    add(processor, (prompt, output))
    assert opened(processor, 1) == [expected]


def test_a_forced_token_has_log_probability_0(processor: LatentLogitsProcessor) -> None:
    add(processor, ([START], []), ([TEXT], []))
    logits = torch.randn(2, V)
    before = logits.clone()
    after = processor.apply(logits)
    assert float((after[0] / 0.5).log_softmax(-1)[PAD]) == 0.0
    kept = sorted(OUTSIDE)
    assert torch.equal(after[1, kept], before[1, kept])


def test_outputs_are_followed_as_they_grow(processor: LatentLogitsProcessor) -> None:
    output: list[int] = []
    add(processor, ([START], output))
    seen = []
    for _ in range(K + 2):
        (tokens,) = opened(processor, 1)
        seen.append(tokens)
        output.append(min(tokens))
    assert seen == [{PAD}] * K + [{END}, OUTSIDE]


def test_rows_move_swap_and_go(processor: LatentLogitsProcessor) -> None:
    add(processor, ([TEXT], []), ([START], []), ([START, PAD, PAD, PAD], []))
    swap = [(0, 2, MoveDirectionality.SWAP)]
    processor.update_state(BatchUpdate(3, removed=[], added=[], moved=swap))
    assert opened(processor, 3) == [{END}, {PAD}, OUTSIDE]
    move = [(2, 0, MoveDirectionality.UNIDIRECTIONAL)]
    processor.update_state(BatchUpdate(2, removed=[0], added=[], moved=move))
    assert opened(processor, 2) == [OUTSIDE, {PAD}]
    processor.update_state(None)
    assert opened(processor, 2) == [OUTSIDE, {PAD}]


@given(text=st.lists(st.sampled_from([0, TEXT, START]), max_size=4), cut=st.integers(0, 30))
def test_the_split_between_prompt_and_output_changes_nothing(text: list[int], cut: int) -> None:
    """What the rule sees after a preemption or in a continuation is the same sequence, cut elsewhere."""
    sequence = [TEXT]
    for token in text:
        sequence += [START, *[PAD] * K, END] if token == START else [token]
    sequence += [START, PAD]
    for length in range(1, len(sequence) + 1):
        whole, split = make(), make()
        add(whole, (sequence[:length], []))
        at = min(cut, length)
        add(split, (sequence[:at], sequence[at:length]))
        assert opened(whole, 1) == opened(split, 1)


def test_bad_latent_fields_are_value_errors_in_the_front_end() -> None:
    with pytest.raises(ValueError, match=r"latent_mode is 'sum'.*use one of"):
        LatentLogitsProcessor.validate_params(SamplingParams(extra_args={"latent_mode": "sum"}))
    LatentLogitsProcessor.validate_params(SamplingParams(extra_args={"latent_mode": "zeros"}))


STOP = 3


def limited(max_spans: int | None, prompt: list[int], output: list[int]) -> set[int]:
    """Tokens that are open to a request with a limit of spans, whose completions end with STOP."""
    processor = make()
    params = SamplingParams(extra_args=None if max_spans is None else {"latent_max_spans": max_spans})
    params.update_from_generation_config({}, STOP)
    processor.update_state(BatchUpdate(1, removed=[], added=[(0, params, prompt, output)], moved=[]))
    return opened(processor, 1)[0]


SPAN = [START, PAD, PAD, PAD, END]


@pytest.mark.parametrize(
    ("max_spans", "prompt", "output", "expected"),
    [
        (None, [TEXT], [*SPAN * 9, START], {PAD}),
        (2, [TEXT], [*SPAN, START], {PAD}),
        # The start of one span too many is sampled, and ends the completion.
        (2, [TEXT], [*SPAN * 2, TEXT], OUTSIDE),
        (2, [TEXT], [*SPAN * 2, START], {STOP}),
        (2, [TEXT], [*SPAN, START, PAD], {PAD}),
        (0, [TEXT], [], OUTSIDE),
        (0, [TEXT], [START], {STOP}),
        # Spans of the prompt are the business of whoever sent it.
        (1, [*SPAN * 3], [START], {PAD}),
        (0, [TEXT, START], [], {PAD}),
    ],
)
def test_a_span_over_the_limit_ends_the_completion(
    max_spans: int | None, prompt: list[int], output: list[int], expected: set[int]
) -> None:
    assert limited(max_spans, prompt, output) == expected
