"""Validation while training: held-out rows answered greedily by the served weights, with and without latents."""

from collections.abc import Sequence

from covt_data.schema import Row
from covt_eval.evaluation.evaluate import evaluate
from covt_model.encoding.encode import Encoder
from covt_model.latents.latent_modes import LatentMode
from covt_rewards.latents import span_usage
from covt_rl.rl_recipe import EvalSection
from covt_rollout.client.blocking_client import BlockingClient


class Validator:
    """Judges the same rows each time; lives on rank 0."""

    def __init__(
        self, client: BlockingClient, encoder: Encoder, rows: Sequence[Row], section: EvalSection, max_tokens: int
    ) -> None:
        self.client, self.encoder, self.rows, self.max_tokens = client, encoder, rows, max_tokens
        ablated = [LatentMode.DROP_LATENTS] if section.drop_latents else []
        self.modes = [LatentMode.KEEP, *ablated]

    def run(self) -> dict[str, float]:
        """`eval/accuracy`, `eval/latent_used`, `eval/latent_spans`, and `eval/accuracy_drop_latents`."""
        answers = self.client.run(
            evaluate(self.client.client, self.encoder, self.rows, self.modes, max_tokens=self.max_tokens)
        )
        names = {"keep": "eval/accuracy", "drop_latents": "eval/accuracy_drop_latents"}
        usage = span_usage(answers[LatentMode.KEEP])
        accuracy = {names[mode]: sum(one.correct for one in rows) / len(rows) for mode, rows in answers.items()}
        return accuracy | {"eval/latent_used": usage.used, "eval/latent_spans": usage.spans}
