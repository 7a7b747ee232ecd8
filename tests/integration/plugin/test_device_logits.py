"""The V2 runner's rule of spans forces the tokens that the V1 runner's does, from tokens that lie on the device."""

from __future__ import annotations

from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from covt_model.latent_config import KEY, LatentConfig

START, PAD, END, STOP, K = 5, 6, 7, 0, 3
VOCABULARY, LENGTH, SPANS = 8, 24, 6
pytest.importorskip("vllm")


def config() -> Any:
    """What the rules read of an engine's configuration."""
    latent = LatentConfig(start_id=START, pad_id=PAD, end_id=END, size=K)
    hf = SimpleNamespace(**{KEY: asdict(latent)}, image_token_id=1)
    model = SimpleNamespace(hf_config=hf, get_hidden_size=lambda: 4, model="m")
    return SimpleNamespace(model_config=model, additional_config={"covt_latent_spans": SPANS}, use_v2_model_runner=True)


@st.composite
def requests(draw: st.DrawFn) -> tuple[list[int], list[int], int | None]:
    """Prompt, output so far and limit of a request whose spans are well formed, the last one perhaps open."""
    words = st.sampled_from([2, 3, 4])
    prompt = draw(st.lists(words, min_size=1, max_size=4))
    if draw(st.booleans()):
        prompt += [START] + [PAD] * draw(st.integers(0, K))
    output: list[int] = []
    if prompt[-1] in (START, PAD):
        pads = prompt.count(PAD)
        output += ([PAD] * (K - pads) + [END])[: draw(st.integers(0, K - pads + 1))]
    if not output or output[-1] == END or prompt[-1] not in (START, PAD):
        for _ in range(draw(st.integers(0, 2))):
            output += [draw(words), START, *[PAD] * K, END]
        output += [draw(words)] * draw(st.integers(0, 1))
        output += ([START, *[PAD] * K])[: draw(st.integers(0, K + 1))]
    return prompt, output, draw(st.sampled_from([None, 0, 1, 2]))


@given(st.lists(requests(), min_size=1, max_size=4), st.integers(0, 3))
def test_it_forces_the_same_tokens(batch: list[tuple[list[int], list[int], int | None]], recomputed: int) -> None:
    """recomputed: how many output tokens came after the request's last prefill, as of one that was preempted."""
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor import BatchUpdate
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext

    from covt_rollout.vllm_plugin.logits import LatentLogitsProcessor
    from covt_rollout.vllm_plugin.v2.device_logits import DeviceLatentLogits

    def params(limit: int | None) -> SamplingParams:
        made = SamplingParams(extra_args=None if limit is None else {"latent_max_spans": limit}, stop_token_ids=[STOP])
        made.update_from_generation_config({}, eos_token_id=STOP)
        return made

    logits = torch.randn(len(batch), VOCABULARY, generator=torch.Generator().manual_seed(len(batch)))
    plain = LatentLogitsProcessor(config(), torch.device("cpu"), False)
    added = [(row, params(limit), prompt, output) for row, (prompt, output, limit) in enumerate(batch)]
    plain.update_state(BatchUpdate(len(batch), removed=[], added=added, moved=[]))  # pyright: ignore[reportArgumentType]
    expected = plain.apply(logits.clone())

    tokens = torch.full((len(batch) + 1, LENGTH), START, dtype=torch.int32)
    lengths = [len(prompt) + len(output) for prompt, output, _ in batch]
    # The newest request has the lowest slot, and slot 0 belongs to none.
    slots = list(range(len(batch), 0, -1))
    prefilled = torch.zeros(len(batch) + 1, dtype=torch.int32)
    prompts = torch.zeros(len(batch) + 1, dtype=torch.int32)
    for slot, (prompt, output, _) in zip(slots, batch, strict=True):
        tokens[slot, : len(prompt) + len(output)] = torch.tensor(prompt + output)
        prompts[slot], prefilled[slot] = len(prompt), len(prompt) + max(len(output) - recomputed, 0)
    states: Any = SimpleNamespace(
        device=torch.device("cpu"),
        max_num_reqs=len(batch) + 1,
        all_token_ids=SimpleNamespace(gpu=tokens),
        prompt_len=SimpleNamespace(gpu=prompts),
        prefill_len=SimpleNamespace(gpu=prefilled),
    )
    rule = DeviceLatentLogits(config(), states)
    for slot, (_, _, limit) in zip(slots, batch, strict=True):
        rule.add_request(slot, params(limit))
    rule.apply_staged_writes()
    index = torch.tensor(slots)
    found = logits
    # Every step since the prefill, as the runner takes them: the rule counts the spans that begin.
    for back in range(min(recomputed, max(len(output) for _, output, _ in batch)), -1, -1):
        rows = [i for i, (prompt, output, _) in enumerate(batch) if len(output) >= back]
        places = torch.tensor([lengths[i] - 1 - back for i in rows])
        chosen = index[rows]
        context = LogitsContext(
            chosen, chosen, chosen.numpy(), torch.zeros_like(chosen), tokens[chosen, places], places, places.numpy()
        )
        found = rule.apply(logits[rows].clone(), context)
    assert torch.equal(found, expected)


def test_a_completion_ends_where_the_device_has_no_room_for_another_span() -> None:
    from vllm import SamplingParams
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext

    from covt_rollout.vllm_plugin.v2.device_logits import DeviceLatentLogits

    prompt = [2, START, *[PAD] * K, END]
    output = [START, *[PAD] * K, END] * 5
    tokens = torch.tensor([prompt + output[: -K - 1]], dtype=torch.int32)
    length = tokens.shape[1]
    states: Any = SimpleNamespace(
        device=torch.device("cpu"),
        max_num_reqs=1,
        all_token_ids=SimpleNamespace(gpu=tokens),
        prompt_len=SimpleNamespace(gpu=torch.tensor([len(prompt)])),
        prefill_len=SimpleNamespace(gpu=torch.tensor([length])),
    )
    rule = DeviceLatentLogits(config(), states)
    params = SamplingParams(stop_token_ids=[STOP])
    params.update_from_generation_config({}, eos_token_id=STOP)
    rule.add_request(0, params)
    rule.apply_staged_writes()
    slot, place = torch.tensor([0]), torch.tensor([length - 1])
    context = LogitsContext(slot, slot, np.array([0]), slot, tokens[0, -1:], place, np.array([length]))
    assert rule.apply(torch.zeros(1, VOCABULARY), context).argmax() == STOP
