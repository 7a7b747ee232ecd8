"""One decoding step's token choice: masks of latent mode, temperature, log-probabilities."""

from __future__ import annotations

import torch

from covt_model.latent_config import LatentConfig


class LatentState:
    """Where each of B rows stands between text and latent mode.

    After `<|latent_start|>` a row takes exactly K pads and then `<|latent_end|>`, all forced; outside latent mode pads
    and the end marker can't be sampled. `pads_left` is −1 in text, K…1 while pads are due, 0 when the end marker is.
    """

    def __init__(self, rows: int, latent: LatentConfig, device: torch.device) -> None:
        self.latent = latent
        self.pads_left = torch.full((rows,), -1, dtype=torch.long, device=device)
        self._banned = torch.tensor([latent.pad_id, latent.end_id], device=device)

    def choose(
        self, logits: torch.Tensor, temperature: float, generator: torch.Generator | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Next token ids [B] and their log-probabilities [B] (0 for forced ones) from logits [B, V]; moves the state.

        Log-probabilities are of logits / temperature under the mask; temperature 0 is greedy, scored at 1.
        """
        scaled = logits.float() / (temperature if temperature > 0 else 1.0)
        scaled = scaled.index_fill(1, self._banned, float("-inf"))
        logprobs = torch.log_softmax(scaled, dim=-1)
        if temperature > 0:
            ids = torch.multinomial(logprobs.exp(), 1, generator=generator).squeeze(1)
        else:
            ids = logprobs.argmax(-1)
        chosen = logprobs.gather(1, ids[:, None]).squeeze(1)
        forced = self.pads_left >= 0
        ids = torch.where(self.pads_left > 0, self.latent.pad_id, torch.where(forced, self.latent.end_id, ids))
        chosen = torch.where(forced, torch.zeros_like(chosen), chosen)
        self.pads_left = torch.where(forced, self.pads_left - 1, self.pads_left)
        self.pads_left = torch.where(ids == self.latent.start_id, self.latent.size, self.pads_left)
        return ids, chosen
