"""What ranks are sent of a step's rollouts: everything that is trained on, and nothing else."""

from __future__ import annotations

import pickle

import numpy as np

from covt_model.encoding.encode import EncodedPrompt
from covt_rl.scoring.score_groups import ScoredGroup
from covt_rl.scoring.train_groups import to_train_group
from covt_rollout.client.completions import Completion

SECRET = "what only rank 0 needs to know "
IDS = (7, 100, 101, 101, 102, 8, 100, 101)
PROMPT = EncodedPrompt("r", np.arange(3), np.arange(5), (), ())


def completion(index: int, finish_reason: str = "stop") -> Completion:
    return Completion(
        group_id="r",
        sample_index=index,
        prompt_ids=tuple(range(1000, 2000)),
        token_ids=IDS,
        logprobs=tuple(-0.1 * n for n in range(len(IDS))),
        text=SECRET * 100,
        finish_reason=finish_reason,
        latent_spans=((2, 4), (7, 8)),
    )


def group(samples: int) -> ScoredGroup:
    return ScoredGroup(
        row_id="r",
        completions=tuple(completion(n, "length" if n == 1 else "stop") for n in range(samples)),
        ablated=tuple((completion(n),) for n in range(samples)),
        totals=tuple(float(n) for n in range(samples)),
        values={"accuracy": [float(n) for n in range(samples)]},
        control=tuple((completion(n),) for n in range(samples)),
        latents=tuple(np.full((3, 2), n, np.float32) for n in range(samples)),
    )


def test_tokens_probabilities_rewards_and_latents_are_kept() -> None:
    found = to_train_group(group(2), PROMPT)
    first, second = found.completions
    assert first.token_ids.tolist() == list(IDS)
    np.testing.assert_allclose(first.logprobs, [-0.1 * n for n in range(len(IDS))], rtol=1e-6)
    assert (first.truncated, second.truncated) == (False, True)
    assert (found.totals, found.values, found.prompt) == ((0.0, 1.0), {"accuracy": [0.0, 1.0]}, PROMPT)
    assert [own[0, 0] for own in found.latents if own is not None] == [0.0, 1.0]


def test_pads_and_the_end_that_is_forced_after_them_are_not_sampled() -> None:
    (one,) = to_train_group(group(1), PROMPT).completions
    # 7, the two starts, and 8; the second span is cut off before its end.
    assert one.sampled_tokens == 4


def test_texts_continuations_and_expanded_prompts_are_not_sent() -> None:
    sent = pickle.dumps(to_train_group(group(8), PROMPT))
    assert SECRET.encode() not in sent
    per_token = len(pickle.dumps(to_train_group(group(16), PROMPT))) - len(sent)
    # Eight bytes per token, latents, and what an array takes by itself.
    assert per_token / 8 < 8 * len(IDS) + 500
