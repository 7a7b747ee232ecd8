"""Full-prefix latent decoding with stock Transformers: slow, without a cache, and independent of our own forward."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from covt_model.latent_config import LatentConfig


@dataclass
class Decoded:
    """prompt_ids: expanded. logprobs: of the distribution that is sampled from. latents: [pads in the output, H]."""

    prompt_ids: list[int]
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    latents: list[torch.Tensor] = field(default_factory=list)


class Oracle:
    """A checkpoint in float32 on the CPU."""

    def __init__(self, checkpoint: Path) -> None:
        from transformers import AutoImageProcessor, AutoModelForImageTextToText

        self.model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32).eval()
        self.width: int = self.model.config.text_config.hidden_size
        self.pictures = AutoImageProcessor.from_pretrained(checkpoint)
        self.latent = LatentConfig.read(checkpoint)
        self.image_id: int = self.model.config.image_token_id
        path = checkpoint / "covt_latent" / "head.safetensors"
        self.head = load_file(path) if path.exists() else {}

    def expand(self, token_ids: Sequence[int], images: Sequence[bytes]) -> tuple[list[int], torch.Tensor, torch.Tensor]:
        """One image pad a picture → as many as it has visual tokens; with the pictures' features [n, W] and grids.

        The features of DeepStack's levels, where the model has any, follow those of the merger.
        """
        if not images:
            return list(token_ids), torch.zeros(0, 0), torch.zeros(0, 3, dtype=torch.long)
        loaded = [Image.open(io.BytesIO(data)).convert("RGB") for data in images]
        inputs = self.pictures(images=loaded, return_tensors="pt")
        output = self.model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
        levels = [output.pooler_output, *(getattr(output, "deepstack_features", None) or [])]
        remaining = iter([len(one) for one in levels[0]])
        ids = [i for token in token_ids for i in ([token] * next(remaining) if token == self.image_id else [token])]
        return ids, torch.cat([torch.cat(list(level)) for level in levels], dim=1), inputs["image_grid_thw"]

    @torch.no_grad()
    def decode(
        self,
        prompt: Sequence[int],
        images: Sequence[bytes] = (),
        *,
        steps: int = 0,
        forced: Sequence[int] | None = None,
        temperature: float = 1.0,
        bias: dict[int, float] | None = None,
        replace: Callable[[int, torch.Tensor], torch.Tensor | None] = lambda ordinal, own: own,
        prompt_latents: Sequence[torch.Tensor | None] = (),
    ) -> Decoded:
        """Decode `steps` tokens greedily, or score the `forced` ones.

        replace(ordinal, own): what the ordinal-th pad of the sequence gets in place of its feedback [H], None for its
        token embedding. prompt_latents: the same for the pads of the prompt. The stop token is ignored.
        """
        latent = self.latent
        ids, features, grids = self.expand(prompt, images)
        done = Decoded(list(ids))
        fed: dict[int, torch.Tensor | None] = {}
        pads = [t for t, token in enumerate(ids) if token == latent.pad_id]
        for position, value in zip(pads, prompt_latents, strict=False):
            fed[position] = value
        for step in range(len(forced) if forced is not None else steps):
            hidden = self.hidden(ids, len(done.prompt_ids), features, grids, fed)[-1]
            logits = self.model.lm_head(hidden)
            for token, value in (bias or {}).items():
                logits[token] += value
            logprobs = self.mask(ids, logits).div(temperature).log_softmax(-1)
            chosen = int(logprobs.argmax()) if forced is None else forced[step]
            if chosen == latent.pad_id:
                own = self.feedback(hidden)
                ordinal = sum(token == latent.pad_id for token in ids)
                value = replace(ordinal, own)
                fed[len(ids)] = value
                if value is not None:
                    done.latents.append(value)
            ids.append(chosen)
            done.token_ids.append(chosen)
            done.logprobs.append(float(logprobs[chosen]))
        return done

    @torch.no_grad()
    def check(
        self, prompt_ids: Sequence[int], token_ids: Sequence[int], latents: torch.Tensor, bias: dict[int, float]
    ) -> Decoded:
        """One forward over a finished completion without pictures, temperature 1, with `latents` [n, H] fed.

        The result's latents are what the feedback rule makes of that forward: if they equal `latents`, then by
        induction over the pads so do those of step-by-step decoding.
        """
        ids = [*prompt_ids, *token_ids]
        pads = [t for t, token in enumerate(ids) if token == self.latent.pad_id]
        fed = dict(zip(pads, latents, strict=True))
        hidden = self.hidden(ids, len(prompt_ids), torch.zeros(0, 0), torch.zeros(0, 3, dtype=torch.long), fed)
        done = Decoded(list(prompt_ids), list(token_ids), latents=[self.feedback(hidden[t - 1]) for t in pads])
        for t in range(len(prompt_ids), len(ids)):
            logits = self.model.lm_head(hidden[t - 1])
            for token, value in bias.items():
                logits[token] += value
            done.logprobs.append(float(self.mask(ids[:t], logits).log_softmax(-1)[ids[t]]))
        return done

    def hidden(
        self,
        ids: Sequence[int],
        prompt_length: int,
        features: torch.Tensor,
        grids: torch.Tensor,
        fed: Mapping[int, torch.Tensor | None],
    ) -> torch.Tensor:
        """Final-norm hidden states [T, H] of the whole sequence. A sampled image pad is not a picture."""
        tokens = torch.tensor([ids])
        shown = tokens == self.image_id
        shown[:, prompt_length:] = False
        embeds = self.model.get_input_embeddings()(tokens)
        if len(features):
            embeds[shown] = features[:, : self.width]
        for position, value in fed.items():
            if value is not None:
                embeds[0, position] = value
        positions, _ = self.model.model.get_rope_index(
            tokens, mm_token_type_ids=shown.int(), image_grid_thw=grids if len(grids) else None
        )
        visual = {}
        if len(features) and features.shape[1] > self.width:
            levels = features[:, self.width :].split(self.width, dim=1)
            visual = {"visual_pos_masks": shown, "deepstack_visual_embeds": list(levels)}
        language = self.model.model.language_model
        return language(inputs_embeds=embeds, position_ids=positions, use_cache=False, **visual).last_hidden_state[0]

    def feedback(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.latent.normalize == "rms":
            hidden = hidden / (hidden.square().mean() + 1e-6).sqrt()
        head = self.head
        if self.latent.head == "linear":
            return head["weight"] @ hidden + head["bias"]
        if self.latent.head == "mlp":
            inner = head["up.weight"] @ hidden + head["up.bias"]
            return hidden + head["down.weight"] @ (inner / (1 + (-inner).exp())) + head["down.bias"]
        return hidden

    def mask(self, ids: list[int], logits: torch.Tensor) -> torch.Tensor:
        """logits [V] with everything closed that may not follow `ids`."""
        latent = self.latent
        run = 0
        while run < len(ids) and ids[-1 - run] == latent.pad_id:
            run += 1
        if run or ids[-1] == latent.start_id:
            only = latent.end_id if run >= latent.size else latent.pad_id
            closed = torch.full_like(logits, float("-inf"))
            closed[only] = 0.0
            return closed
        logits = logits.clone()
        logits[[latent.pad_id, latent.end_id]] = float("-inf")
        return logits


def png(height: int, width: int, seed: int) -> bytes:
    """A picture of random 14 px squares."""
    squares = np.random.default_rng(seed).integers(0, 256, (-(-height // 14), -(-width // 14), 3), dtype=np.uint8)
    pixels = squares.repeat(14, 0).repeat(14, 1)[:height, :width]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def data_url(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode()
