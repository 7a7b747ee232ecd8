"""Batched generation with latents in plain Transformers: the reference for the server plugin, and training's probe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from covt_model.decoder.deepstack import Deepstack
from covt_model.encoding.encode import EncodedPrompt, Span, find_spans
from covt_model.families import find_family
from covt_model.generation.decoding_cache import CachedDecoder
from covt_model.generation.sampling import LatentState
from covt_model.latent_config import LatentConfig
from covt_model.latents.heads import feedback_rule
from covt_model.latents.latent_modes import LatentMode
from covt_model.latents.latent_replacement import replacement_latent

if TYPE_CHECKING:
    from covt_model.decoder.model_types import VisionLanguageModel


@dataclass(frozen=True)
class Generated:
    """One row's completion.

    token_ids end with the end-of-turn token unless `finish_reason` is "length". logprobs: one a token, 0 for forced
    ones. latent_spans: half-open ranges of pads in token_ids. latents: [pads, H], the input embedding of each pad.
    """

    token_ids: list[int]
    logprobs: list[float]
    latent_spans: list[Span]
    latents: torch.Tensor
    finish_reason: Literal["stop", "length"]


@torch.no_grad()
def generate(
    model: VisionLanguageModel,
    prompts: Sequence[EncodedPrompt],
    image_features: Sequence[torch.Tensor],
    latent: LatentConfig,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    mode: LatentMode | str = LatentMode.KEEP,
    latents: Sequence[torch.Tensor] | None = None,
    all_done: Callable[[bool], bool] | None = None,
) -> list[Generated]:
    """Complete B prompts together.

    image_features: one [n, W] per image, in prompt order (`covt_model.encoding.vision_features`).
    mode: what pads are fed: `keep` the
    feedback (or, under head "none", the pad's own embedding), `zeros`, `noise` of the feedback's norm seeded by `seed`,
    or `given`: row b's pad number i gets `latents[b][i mod n]`. The end of turn is the model's generation config's
    `eos_token_id`. all_done: under ZeRO-3, maps this rank's "every row is finished" to that of all ranks, called once
    a step, so that the ranks run equally many forwards.
    """
    mode = LatentMode(mode)
    if (mode is LatentMode.GIVEN) != (latents is not None):
        raise ValueError(f"mode {str(mode)!r} {'takes no' if latents is not None else 'needs'} latents")
    rule = feedback_rule(model, latent)
    decoder, hidden = _prefill(model, prompts, image_features, max_new_tokens)
    device = hidden.device
    generator = torch.Generator(device).manual_seed(seed)
    state = LatentState(len(prompts), latent, device)
    eos = torch.tensor(_eos_ids(model), device=device)
    done = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    tokens: list[torch.Tensor] = []
    logprobs: list[torch.Tensor] = []
    fed: list[list[torch.Tensor]] = [[] for _ in prompts]
    for number in range(max_new_tokens):
        ids, chosen = state.choose(model.lm_head(hidden), temperature, generator)
        tokens.append(torch.where(done, -1, ids))
        logprobs.append(chosen)
        pads = ((ids == latent.pad_id) & ~done).nonzero().squeeze(1).tolist()
        done = done | torch.isin(ids, eos)
        embeds = model.get_input_embeddings()(ids)
        if pads:
            own = embeds if latent.head == "none" else rule(hidden)
            embeds = embeds.clone()
            for row in pads:
                given = None if latents is None else latents[row]
                embeds[row] = replacement_latent(mode, own[row], len(fed[row]), given=given, seed=seed)
                fed[row].append(embeds[row])
        finished = bool(done.all())
        if number == max_new_tokens - 1 or (all_done(finished) if all_done else finished):
            break
        hidden = decoder.step(embeds)
    eos_ids = set(eos.tolist())
    results = []
    for row, (ids, scores) in enumerate(
        zip(torch.stack(tokens, 1).cpu().numpy(), torch.stack(logprobs, 1), strict=True)
    ):
        length = int((ids >= 0).sum())
        results.append(
            Generated(
                token_ids=ids[:length].tolist(),
                logprobs=scores[:length].tolist(),
                latent_spans=find_spans(ids[:length], latent),
                latents=torch.stack(fed[row]) if fed[row] else hidden.new_zeros(0, hidden.shape[-1]),
                finish_reason="stop" if int(ids[length - 1]) in eos_ids else "length",
            )
        )
    return results


def _eos_ids(model: VisionLanguageModel) -> list[int]:
    eos = model.generation_config.eos_token_id if model.generation_config is not None else None
    if eos is None:
        eos = model.model.language_model.config.eos_token_id
    return [eos] if isinstance(eos, int) else list(eos or ())


def _prefill(
    model: VisionLanguageModel,
    prompts: Sequence[EncodedPrompt],
    image_features: Sequence[torch.Tensor],
    max_new_tokens: int,
) -> tuple[CachedDecoder, torch.Tensor]:
    """Run the prompts; returns the decoder and the hidden state at each prompt's last token [B, H]."""
    image_pad_id = model.config.image_token_id
    find_positions = find_family(model.config.model_type).positions
    merge = model.config.vision_config.spatial_merge_size  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
    device = next(model.model.language_model.parameters()).device
    lengths = [len(prompt.expanded) for prompt in prompts]
    ids = np.zeros((len(prompts), max(lengths)), dtype=np.int64)
    positions = np.zeros((3, len(prompts), max(lengths)), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, : lengths[row]] = prompt.expanded
        positions[:, row, : lengths[row]] = find_positions(prompt.expanded, image_pad_id, prompt.grids, merge)
    input_ids = torch.from_numpy(ids).to(device)
    embeds = model.get_input_embeddings()(input_ids)
    width, stacked = embeds.shape[-1], None
    if image_features:
        places = (input_ids == image_pad_id).reshape(-1).nonzero().squeeze(1)
        features = torch.cat([one[:, :width] for one in image_features]).to(embeds.dtype)
        stacked = Deepstack.of(image_features, places, width)
        embeds = embeds.reshape(-1, embeds.shape[-1]).index_copy(0, places, features).view_as(embeds)
    decoder = CachedDecoder(model.model.language_model, max_new_tokens)
    return decoder, decoder.prompt(embeds, torch.from_numpy(positions).to(device), lengths, stacked)
