"""From token losses to the loss of a batch. Counts are of the global batch, so the number of ranks does not matter."""

from typing import Literal

from torch import Tensor

Aggregation = Literal["token_mean", "sequence_mean", "constant"]


def aggregate(
    loss: Tensor, mask: Tensor, how: Aggregation, *, tokens: float, sequences: float, max_tokens: float = 1.0
) -> Tensor:
    """This rank's share of the batch's loss; the sum over ranks is the loss.

    Args:
        loss: [B, T], per token.
        mask: [B, T], 1 where a token counts.
        how: `token_mean` weighs all tokens alike (DAPO, arXiv 2503.14476 eq. 8); `sequence_mean` weighs all completions
            alike (GRPO, arXiv 2402.03300 eq. 3); `constant` divides by completions × max_tokens,
            independent of their lengths (Dr.GRPO, arXiv 2503.20783).
        tokens: counted tokens of the global batch.
        sequences: completions of the global batch.
        max_tokens: the longest completion that is sampled.
    """
    if how == "token_mean":
        return (loss * mask).sum() / max(tokens, 1.0)
    if how == "constant":
        return (loss * mask).sum() / max(sequences * max_tokens, 1.0)
    per_sequence = (loss * mask).sum(1) / mask.sum(1).clamp(min=1)
    return per_sequence.sum() / max(sequences, 1.0)
