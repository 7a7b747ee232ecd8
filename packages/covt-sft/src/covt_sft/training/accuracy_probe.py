"""Accuracy and trigger rate while training: the model answers held-out rows greedily, and covt-rewards grades them."""

from collections.abc import Sequence

import torch

from covt_data.schema import Row
from covt_model.encoding.encode import EncodedPrompt, Encoder
from covt_model.encoding.vision_features import VisionFeatures
from covt_model.generation.latent_generation import generate
from covt_model.latents.policy import LatentPolicy
from covt_rewards.latents import count_closed_spans
from covt_runtime.engine.zero_engine import ZeroEngine
from covt_sft.planning.answer_grading import grade_answer

BATCH = 64
"""Prompts per forward on one rank."""


class AccuracyProbe:
    """Grades the same rows each time. The ranks divide the rows among themselves."""

    def __init__(self, rows: Sequence[Row], encoder: Encoder, features: VisionFeatures, max_tokens: int) -> None:
        self.rows = rows
        self.encoder = encoder
        self.features = features
        self.max_tokens = max_tokens
        self._prompts: dict[int, EncodedPrompt] = {}

    @torch.no_grad()
    def measure(self, engine: ZeroEngine, policy: LatentPolicy) -> dict[str, float]:
        """Mean score of the rows, share with a well-formed latent span, and spans per row, by metric name.

        Collective: all ranks run equally many forwards.
        """
        ranks, total = engine.world_size, torch.zeros(3, dtype=torch.float64)
        rounds = -(-len(self.rows) // (ranks * BATCH))
        with engine.forwards():
            for number in range(rounds):
                start = number * ranks * BATCH
                mine = range(start + engine.rank, min(start + ranks * BATCH, len(self.rows)), ranks)
                # A rank without rows left answers the first row again, which adds nothing to the total.
                sums = self._answer(mine or [0], engine, policy)
                total += sums if mine else 0.0
        score, used, spans = (engine.global_sum(total) / len(self.rows)).tolist()
        return {"eval/accuracy": score, "eval/latent_used": used, "eval/latent_spans": spans}

    def _answer(self, indices: Sequence[int], engine: ZeroEngine, policy: LatentPolicy) -> torch.Tensor:
        """Sums over these rows, [3]: scores, rows with a well-formed span, and spans."""
        prompts = [self._prompt(index) for index in indices]
        answers = generate(
            policy.model,
            prompts,
            self.features([image for prompt in prompts for image in prompt.pictures]),
            policy.latent,
            max_new_tokens=self.max_tokens,
            all_done=lambda done: float(engine.global_sum(float(done))) == engine.world_size,
        )
        texts = [self.encoder.tokenizer.decode(one.token_ids, skip_special_tokens=True) for one in answers]
        score = sum(grade_answer(self.rows[index], text) for index, text in zip(indices, texts, strict=True))
        spans = [count_closed_spans(one) for one in answers]
        return torch.tensor([score, sum(count > 0 for count in spans), sum(spans)], dtype=torch.float64)

    def _prompt(self, index: int) -> EncodedPrompt:
        if index not in self._prompts:
            self._prompts[index] = self.encoder.encode_prompt(self.rows[index])
        return self._prompts[index]
