"""What a client asks for: the prompt, how to sample, and what latent positions are fed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from covt_model.latents.latent_modes import LatentMode
from covt_rollout.endpoints import generate_body
from covt_rollout.rollout_errors import RolloutError
from covt_rollout.vllm_plugin.protocol import Latents


@dataclass(frozen=True, slots=True)
class PromptRequest:
    """One prompt to complete.

    Attributes:
        ids: token ids with ONE image pad for each image. The server expands it; expanded ids would be expanded again.
        images: encoded images (PNG or JPEG bytes), in the order of the image pads.
        group_id: the prompt's name in the answers.
    """

    ids: tuple[int, ...]
    images: tuple[bytes, ...] = ()
    group_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to sample a prompt.

    Attributes:
        max_tokens: longest completion in tokens.
        n: completions of the prompt.
        temperature: 0 is greedy.
        seed: sample i draws from seed + i; None is not repeatable. Where one `Sampling` serves several prompts, the
            seed belongs to the first prompt, and prompt p uses seed + p·n.
        max_spans: most latent spans of a completion. One that begins another span ends there and has the finish reason
            `length`; None sets no limit.
    """

    max_tokens: int
    n: int = 1
    temperature: float = 1.0
    seed: int | None = None
    max_spans: int | None = None

    def __post_init__(self) -> None:
        if self.n < 1 or self.max_tokens < 1 or not self.temperature >= 0:
            raise RolloutError(f"{self} asks for nothing", "use n and max_tokens ≥ 1 and a temperature ≥ 0")
        if self.n > 1 and self.temperature == 0:
            raise RolloutError(f"{self.n} greedy samples are all the same", "use n = 1 or a temperature above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentInput:
    """What latent pads are fed in one request.

    Attributes:
        mode: a latent mode of the wire (`covt_model.latents.latent_modes.WIRE_MODES`).
        latents: float32 [pads, H], for the pads in the prompt (`keep`, `noise`) or for all pads (`given`).
        seed: of `noise`.
    """

    mode: str = LatentMode.KEEP
    latents: Latents | None = field(default=None, repr=False)
    seed: int = 0


def request_body(prompt: PromptRequest, sampling: Sampling, seed: int | None, fed: LatentInput) -> dict[str, Any]:
    """Build the JSON of one generate request.

    Args:
        prompt: the prompt and its images.
        sampling: how to sample; its own seed is not used.
        seed: the request's seed.
        fed: what latent pads are fed.

    Raises:
        ModelError: the latents are malformed.
    """
    return generate_body(
        prompt.ids,
        prompt.images,
        max_tokens=sampling.max_tokens,
        n=sampling.n,
        temperature=sampling.temperature,
        seed=seed,
        mode=fed.mode,
        latents=fed.latents,
        latent_seed=fed.seed,
        max_spans=sampling.max_spans,
    )
