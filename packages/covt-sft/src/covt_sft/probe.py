"""Accuracy while training: held-out rows answered greedily by the model itself, latents and all."""

from collections.abc import Sequence

import torch

from covt_data.schema import Row
from covt_data.tasks.vsp_maps import simulate
from covt_model.encoding.encode import EncodedPrompt, Encoder
from covt_model.encoding.vision_features import VisionFeatures
from covt_model.generation.latent_generation import generate
from covt_model.latents.policy import LatentPolicy
from covt_runtime.engine.zero_engine import ZeroEngine

BATCH = 64
BOXED = "\\boxed{"


def is_correct(row: Row, text: str) -> bool:
    """Whether the last boxed answer is the row's: the same text, or for `vsp` any plan that reaches the goal."""
    answer = text.rpartition(BOXED)[2].partition("}")[0].strip() if BOXED in text else ""
    if row.grader == "vsp":
        return bool(answer) and simulate(row.meta["rows"], answer)
    return answer == row.answer.strip()


class Probe:
    """Judges the same rows each time; every rank answers its share."""

    def __init__(self, rows: Sequence[Row], encoder: Encoder, features: VisionFeatures, max_tokens: int) -> None:
        self.rows = rows
        self.encoder = encoder
        self.features = features
        self.max_tokens = max_tokens
        self._prompts: dict[int, EncodedPrompt] = {}

    @torch.no_grad()
    def accuracy(self, engine: ZeroEngine, policy: LatentPolicy) -> float:
        """Share of rows answered right (collective: all ranks run equally many forwards)."""
        ranks, right = engine.world_size, 0.0
        turns = -(-len(self.rows) // (ranks * BATCH))
        with engine.forwards():
            for turn in range(turns):
                start = turn * ranks * BATCH
                mine = range(start + engine.rank, min(start + ranks * BATCH, len(self.rows)), ranks)
                # A rank without rows left answers one all the same, uncounted.
                counted = self._answer(mine or [0], engine, policy)
                right += counted if mine else 0.0
        return float(engine.global_sum(right)) / len(self.rows)

    def _answer(self, indices: Sequence[int], engine: ZeroEngine, policy: LatentPolicy) -> float:
        prompts = [self._prompt(index) for index in indices]
        answers = generate(
            policy.model,
            prompts,
            self.features([picture for prompt in prompts for picture in prompt.pictures]),
            policy.latent,
            max_new_tokens=self.max_tokens,
            all_done=lambda done: float(engine.global_sum(float(done))) == engine.world_size,
        )
        texts = [self.encoder.tokenizer.decode(one.token_ids, skip_special_tokens=True) for one in answers]
        return float(sum(is_correct(self.rows[index], text) for index, text in zip(indices, texts, strict=True)))

    def _prompt(self, index: int) -> EncodedPrompt:
        if index not in self._prompts:
            self._prompts[index] = self.encoder.encode_prompt(self.rows[index])
        return self._prompts[index]
