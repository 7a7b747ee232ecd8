"""Tokens and latents as the JSON of an inspection describes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

from covt_eval.inspection.latent_numbers import nearest_places, neighbor_cosines, norms, patch_boxes
from covt_eval.inspection.offered_rows import picture_size
from covt_model.encoding.encode import Encoder
from covt_model.families.image_settings import Grid
from covt_model.latent_config import LatentConfig
from covt_rollout.reading_endpoints import LatentReadings
from covt_rollout.vllm_plugin.protocol import Latents

Record = dict[str, Any]


class ScoredTokens(Protocol):
    """Sampled tokens and their log-probabilities."""

    @property
    def token_ids(self) -> Sequence[int]: ...
    @property
    def logprobs(self) -> Sequence[float]: ...


class LatentViews:
    """Describes tokens and latents of one checkpoint."""

    def __init__(self, encoder: Encoder, latent: LatentConfig) -> None:
        self.encoder, self.latent = encoder, latent
        self.tokenizer = cast(Any, encoder).tokenizer
        self.kinds = {latent.start_id: "start", latent.pad_id: "pad", latent.end_id: "end"}

    def token(self, tokens: ScoredTokens, position: int) -> Record:
        """One token of an answer; its kind is `text`, `start`, `pad` or `end`."""
        token = tokens.token_ids[position]
        kind, logprob = self.kinds.get(token, "text"), round(tokens.logprobs[position], 5)
        return {"id": token, "text": self.word(token), "kind": kind, "logprob": logprob}

    def word(self, token: int) -> str:
        """The text of one token, special ones by their names."""
        return str(self.tokenizer.decode([token], skip_special_tokens=False))

    def cells(self, grid: Grid) -> tuple[int, int]:
        """Rows and columns of visual tokens in a patch grid."""
        merge = self.encoder.settings.merge
        return grid[1] // merge, grid[2] // merge

    def places(self, what: str, number: int, data: bytes) -> list[Record]:
        """The box of each visual token of an encoded picture, which is number `number` of its kind."""
        width, height = picture_size(data)
        rows, columns = self.cells(self.encoder.family.grid_of(height, width, self.encoder.settings))
        return [{what: number, "box": box} for box in patch_boxes((width, height), rows, columns)]

    def latents(
        self,
        latents: Latents,
        sizes: Sequence[int],
        readings: LatentReadings,
        pictures: Sequence[bytes],
        helpers: Sequence[bytes],
        count: int,
    ) -> list[Record]:
        """Describe each latent.

        Args:
            latents: [P, H], the first P of the answer.
            sizes: latents of each span of the answer, P or more together.
            readings: of these latents, with the cosines of `pictures` before those of `helpers`.
            pictures: the question's pictures.
            helpers: helper pictures.
            count: patches to name.
        """
        own = [self.places("picture", number, data) for number, data in enumerate(pictures)]
        helped = [self.places("helper", number, data) for number, data in enumerate(helpers)]
        patches = nearest_places(readings.cosines[: len(own)], own, count)
        likest = nearest_places(readings.cosines[len(own) :], helped, count)
        previous, following = neighbor_cosines(latents, sizes)
        cells = [(span, cell) for span, size in enumerate(sizes) for cell in range(size)]
        return [
            {
                "span": cells[number][0],
                "cell": cells[number][1],
                "norm": round(norm, 4),
                "cosine_previous": rounded(previous[number]),
                "cosine_next": rounded(following[number]),
                "patches": patches[number] if patches else [],
                "helpers": likest[number] if likest else [],
                "words": [
                    {"id": token, "text": self.word(token), "probability": round(probability, 6)}
                    for token, probability in readings.words[number]
                ],
            }
            for number, norm in enumerate(norms(latents))
        ]


def rounded(value: float | None) -> float | None:
    """Four decimals of a cosine."""
    return None if value is None else round(value, 4)
