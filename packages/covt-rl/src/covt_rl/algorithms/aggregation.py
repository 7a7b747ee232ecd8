"""From one loss a token to one a batch. Counts are of the global batch, so any number of ranks gives one result."""

from typing import Literal

from torch import Tensor

Aggregation = Literal["token_mean", "sequence_mean"]


def aggregate(loss: Tensor, mask: Tensor, how: Aggregation, *, tokens: float, sequences: float) -> Tensor:
    """This rank's share of the batch's loss; the sum over ranks is the loss.

    Args:
        loss: [B, T], one a token.
        mask: [B, T], 1 where a token counts.
        how: `token_mean` weighs all tokens alike (DAPO); `sequence_mean` weighs all completions alike (GRPO).
        tokens: counted tokens of the global batch.
        sequences: completions of the global batch.
    """
    if how == "token_mean":
        return (loss * mask).sum() / max(tokens, 1.0)
    per_sequence = (loss * mask).sum(1) / mask.sum(1).clamp(min=1)
    return per_sequence.sum() / max(sequences, 1.0)
