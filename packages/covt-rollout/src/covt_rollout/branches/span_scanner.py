"""Finds the latent spans of a completion while it grows, reading each token once."""

from __future__ import annotations

from collections.abc import Sequence

from covt_rewards.latents import LatentVocabulary


class SpanScanner:
    """Counts the whole spans at the beginning of a growing list of tokens, as `find_whole_spans` does.

    Attributes:
        closed: number of whole spans so far.
    """

    def __init__(self, latent: LatentVocabulary) -> None:
        self.closed = 0
        self._latent = latent
        self._read = self._pads = 0
        self._opened = False

    def scan(self, token_ids: Sequence[int]) -> bool:
        """Read the tokens that were added since the last call.

        Args:
            token_ids: all tokens so far; the ones read before are unchanged.

        Returns:
            Whether a span has closed among the new tokens.
        """
        latent, before = self._latent, self.closed
        for position in range(self._read, len(token_ids)):
            token = token_ids[position]
            if token == latent.pad_id:
                self._pads += 1
                continue
            self.closed += token == latent.end_id and self._opened and self._pads == latent.size
            self._opened, self._pads = token == latent.start_id, 0
        self._read = len(token_ids)
        return self.closed > before
