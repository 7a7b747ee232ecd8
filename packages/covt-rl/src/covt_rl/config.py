"""Recipe of a reinforcement training."""

from typing import Literal

from pydantic import Field, model_validator

from covt_runtime.config import OptimConfig, ZeroConfig
from covt_runtime.sections import DataSection, LogSection, ModelSection, PromptSection, RunSection, Section

AblationMode = Literal["drop_latents", "drop_span", "zeros", "noise", "shuffle"]


class RolloutSection(Section):
    """`[rollout]`: sampling, and the server that does it."""

    prompts: int = Field(default=16, ge=1)
    """Prompts a step."""
    samples: int = Field(default=8, ge=2)
    """Rollouts a prompt: the size of a group."""
    temperature: float = Field(default=1.0, gt=0)
    max_tokens: int = Field(default=64, ge=1)
    base_url: str = ""
    """A running `covt serve`; empty starts one."""
    api_key_env: str = "COVT_API_KEY"
    """Environment variable that holds the server's key, where it wants one."""
    concurrency: int = Field(default=64, ge=1)
    """Requests under way at once."""
    timeout: float = Field(default=120.0, gt=0)
    """Seconds a request may take."""


class RewardsSection(Section):
    """`[rewards]`: what is paid for."""

    use: str = "format,accuracy,necessity"
    """Names with optional weights: `format=0.2,accuracy,necessity=0.5`."""
    ablation: AblationMode = "drop_latents"
    """What happens to the latents in the counterfactual continuations of the necessity reward."""
    continuations: int = Field(default=1, ge=1)
    """M: counterfactual continuations a rollout."""
    share: float = Field(default=1.0, ge=0, le=1)
    """Share of rollouts that get counterfactual continuations."""


class AlgorithmSection(Section):
    """`[algorithm]`: advantages and loss."""

    steps: int | None = Field(default=None, ge=1)
    """GRPO steps; None is one pass over the prompts."""
    advantage: Literal["grpo", "dr_grpo", "rloo"] = "grpo"
    normalize: Literal["total", "per_reward"] = "total"
    """`total` normalizes the weighted sum of rewards in its group; `per_reward` each reward, then sums."""
    aggregation: Literal["token_mean", "sequence_mean"] = "token_mean"
    clip_low: float = Field(default=0.2, gt=0, lt=1)
    clip_high: float = Field(default=0.2, gt=0)
    dual_clip: float | None = Field(default=None, gt=1)
    epochs: int = Field(default=1, ge=1)
    """Optimizer steps on each batch of rollouts."""
    gap_limit: float = Field(default=0.05, gt=0)
    """Mean |trainer − server| log-probability past which the run stops: the two no longer compute the same model."""

    @model_validator(mode="after")
    def _ordered(self) -> "AlgorithmSection":
        if self.dual_clip is not None and self.dual_clip <= 1 + self.clip_high:
            raise ValueError("dual_clip must be greater than 1 + clip_high")
        return self


class RlConfig(Section):
    """One GRPO training."""

    run: RunSection = RunSection()
    model: ModelSection = ModelSection()
    data: DataSection = DataSection(split="prompts")
    prompt: PromptSection = PromptSection()
    optim: OptimConfig = OptimConfig(lr=1e-6, schedule="constant")
    zero: ZeroConfig = ZeroConfig()
    rollout: RolloutSection = RolloutSection()
    rewards: RewardsSection = RewardsSection()
    algorithm: AlgorithmSection = AlgorithmSection()
    log: LogSection = LogSection()
