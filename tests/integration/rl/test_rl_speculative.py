"""Continuations that begin beside their parents, against the same asked for afterwards, on the real server."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from server_tools import RunningServer

from covt_data.store.prepared_set import PreparedSet
from covt_model.encoding.encode import Encoder
from covt_rewards.latents import find_whole_spans
from covt_rl.rl_recipe import RewardsSection
from covt_rl.rollout_sections import RolloutSection
from covt_rl.rollouts.collect import Collector
from covt_rl.scoring.collected import Collected
from covt_rollout.client.blocking_client import BlockingClient
from covt_rollout.client.completions import Completion
from covt_rollout.client.rollout_client import RolloutClient
from covt_rollout.vllm_plugin.protocol import GENERATE

ROLLOUT = RolloutSection(prompts=2, samples=6, max_tokens=80)
# A random model hardly ever begins a span by itself; so it has none, one, or several.
BIAS = 2.5


def collect(server: RunningServer, data: Path, sent: list[tuple[str, list[int]]], **rewards: Any) -> Collected:
    """sent: filled with the prompts of the requests that begin and end, in this order."""
    client = RolloutClient.for_checkpoint(server.url, server.checkpoint)
    post, start = client.transport.post, client.latent.start_id

    async def biased(path: str, body: Any = None, **settings: Any) -> Any:
        if path != GENERATE:
            return await post(path, body, **settings)
        body["sampling_params"]["logit_bias"] = {start: BIAS}
        sent.append(("begins", body["token_ids"]))
        try:
            return await post(path, body, **settings)
        finally:
            sent.append(("ends", body["token_ids"]))

    client.transport.post = biased
    with BlockingClient(client) as blocking:
        encoder = Encoder(server.checkpoint)
        collector = Collector(blocking, encoder, ROLLOUT, RewardsSection.model_validate(rewards), seed=3)
        return collector.collect(list(PreparedSet(data).rows("prompts"))[:2], step=1)


def flat(groups: Any) -> list[Completion]:
    return [groups] if isinstance(groups, Completion) else [one for group in groups for one in flat(group)]


@pytest.mark.parametrize(
    "settings",
    [
        {"span": "first", "share": 0.5, "control": 1},
        {"span": "last", "ablation": "zeros", "continuations": 2},
        {"span": "last"},
    ],
)
def test_the_continuations_are_those_of_one_after_the_other(
    latent_server: RunningServer, data: Path, settings: dict[str, Any]
) -> None:
    sent: list[tuple[str, list[int]]] = []
    early = collect(latent_server, data, sent, **settings)
    after = collect(latent_server, data, [], early=False, **settings)
    for name in ("completions", "ablated", "control"):
        ours, theirs = flat(getattr(early, name)), flat(getattr(after, name))
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert np.allclose(one.logprobs, other.logprobs, atol=1e-4)
            assert replace(one, logprobs=(), latent_key=None) == replace(other, logprobs=(), latent_key=None)
    assert early.extra_tokens >= after.extra_tokens
    latent = Encoder(latent_server.checkpoint).latent
    spans = {len(find_whole_spans(one.token_ids, latent)) for one in flat(early.completions)}
    assert len(spans) > 2, "no completions with several spans: the test shows nothing"
    prompts = sorted({tuple(ids) for _, ids in sent}, key=len)[:2]
    begun = [index for index, (what, ids) in enumerate(sent) if what == "begins" and tuple(ids) not in prompts]
    ended = [index for index, (what, ids) in enumerate(sent) if what == "ends" and tuple(ids) in prompts]
    assert begun[0] < ended[0], "nothing began before its parents had ended"
