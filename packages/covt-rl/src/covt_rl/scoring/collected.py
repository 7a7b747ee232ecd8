"""The rollouts of one step with their continuations, as scoring reads them."""

from __future__ import annotations

from dataclasses import dataclass, field

from covt_model.encoding.encode import EncodedPrompt
from covt_rollout.client.completions import Completion
from covt_rollout.vllm_plugin.protocol import Latents

Group = list[Completion]


@dataclass(frozen=True)
class Collected:
    """Rollouts of the prompts of one step, in the prompts' order.

    Attributes:
        completions: by prompt.
        ablated, control: continuations of each completion, empty lists where there are none.
        latents: of each completion, where they were asked for.
        extra_tokens: tokens sampled for the continuations, including those that began too early.
        resent: requests that had to be sent again.
        prompts: encoded prompts by row.
    """

    completions: list[Group]
    ablated: list[list[Group]]
    control: list[list[Group]] = field(default_factory=list)
    latents: list[list[Latents | None]] = field(default_factory=list)
    extra_tokens: int = 0
    resent: int = 0
    prompts: dict[str, EncodedPrompt] = field(default_factory=dict[str, EncodedPrompt])
