"""Recipe of a reinforcement training."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from covt_model.latents.latent_modes import ABLATION_MODES, LatentMode
from covt_rl.algorithms.advantage_registry import check_advantage_name
from covt_rl.algorithms.aggregation import Aggregation
from covt_rl.algorithms.importance import Correction, Level
from covt_rl.algorithms.kl import Estimator
from covt_rl.algorithms.losses import LOSSES, check_loss_name
from covt_rl.rollout_sections import RolloutSection, ServerSection
from covt_runtime.engine.optimizer_settings import OptimConfig, ZeroConfig
from covt_runtime.recipe_schema import (
    DataSection,
    LogSection,
    LoraSection,
    ModelSection,
    PromptSection,
    RunSection,
    Section,
)

AdvantageName = Annotated[str, AfterValidator(check_advantage_name)]
LossName = Annotated[str, AfterValidator(check_loss_name)]


def ablation_mode(name: object) -> LatentMode:
    """The latent mode called `name`; raises ValueError when it ablates nothing."""
    if name not in ABLATION_MODES:
        raise ValueError(f"Input should be one of {', '.join(ABLATION_MODES)}")
    return LatentMode(str(name))


AblationMode = Annotated[LatentMode, BeforeValidator(ablation_mode)]


class RewardsSection(Section):
    """`[rewards]`: what completions are rewarded for."""

    use: str = "format,accuracy,necessity"
    """Names of rewards with optional weights, as in `format=0.2,accuracy,necessity=0.5`."""
    ablation: AblationMode = LatentMode.DROP_LATENTS
    """How the counterfactual continuations of the necessity reward change the latents."""
    continuations: int = Field(default=1, ge=1)
    """M: counterfactual continuations per rollout."""
    share: float = Field(default=1.0, ge=0, le=1)
    """Fraction of the rollouts that get counterfactual continuations."""
    span: Literal["first", "last"] = "last"
    """The latent span after which continuations begin; the latents of all spans up to it are ablated."""
    early: bool = True
    """Request continuations as soon as their span has closed, while the rest of the rollout is still being sampled.
    Which span is the last is then a guess, and continuations of a wrong guess are aborted. The results are the same as
    those of false, which waits for whole rollouts."""
    control: int = Field(default=0, ge=0)
    """Continuations per rollout with the latents kept. They make ν unbiased and cost as much as the ablated ones."""
    settings: dict[str, dict[str, bool | int | float | str]] = Field(default_factory=dict)
    """Settings of single rewards, as in `necessity = {preset = "silent"}`."""
    time_limit: float = Field(default=120.0, gt=0)
    """Seconds in which a reward of your own must score one group; a group that takes longer scores 0."""


class AlgorithmSection(Section):
    """`[algorithm]`: advantages and loss."""

    steps: int | None = Field(default=None, ge=1)
    """GRPO steps; unset means one pass over the prompts."""
    advantage: AdvantageName = "grpo"
    """How rewards become advantages: a name, or `./file.py:function` for a function of your own. `grpo` subtracts the
    group's mean and divides by its standard deviation."""
    normalize: Literal["total", "per_reward"] = "total"
    """`total` normalizes the weighted sum of rewards in its group; `per_reward` each reward, then sums."""
    loss: LossName = "dapo"
    """Policy loss. `grpo`, `dapo` and `dr_grpo` average the clipped surrogate in three ways; `gspo` and `cispo` are
    other surrogates."""
    aggregation: Aggregation | None = None
    """How token losses are averaged; unset means as the paper of `loss` does."""
    clip_low: float = Field(default=0.2, gt=0, lt=1)
    """The probability ratio is clipped below at 1 - clip_low; 0.2 is PPO's setting."""
    clip_high: float = Field(default=0.2, gt=0)
    """The probability ratio is clipped above at 1 + clip_high; 0.2 is PPO's setting, DAPO uses 0.28."""
    dual_clip: float | None = Field(default=None, gt=1)
    """Bound of the ratio where the advantage is negative (dual-clip PPO); unset sets no bound."""
    epochs: int = Field(default=1, ge=1)
    """Passes over each batch of rollouts."""
    mini_batches: int = Field(default=1, ge=1)
    """Optimizer steps per pass: the prompts of a step are divided into this many parts."""
    micro_tokens: int | None = Field(default=None, ge=1)
    """Most tokens per forward on one rank, padding included; unset means `data.micro_batch` rows of any length."""
    latents: Literal["recompute", "replay"] = "recompute"
    """Latents in the trainer's forward: `recompute` feeds them back under the current weights, with gradients;
    `replay` takes the server's as constants."""
    importance: Correction = "none"
    """Correction for the difference between the server's policy and the trainer's. `none` takes the server's as the old
    policy of the ratio; `truncate` and `mask` weight tokens by their ratio up to `importance_cap`."""
    importance_level: Level = "token"
    """Whether importance weights are computed per token or per sequence."""
    importance_cap: float = Field(default=2.0, gt=1)
    """Greatest importance weight; larger ones are truncated or masked, as `importance` says."""
    kl_weight: float = Field(default=0.0, ge=0)
    """Weight of the KL divergence from the initial policy; at 0 no reference model is kept."""
    kl_estimator: Estimator = "k3"
    """Per-token estimator of the KL divergence (Schulman 2020); `k3` is unbiased and never negative."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Whether the KL penalty is added to the loss or subtracted from the reward."""
    entropy_weight: float = Field(default=0.0, ge=0)
    """Weight of the entropy bonus."""
    mask_truncated: bool = False
    """Leave completions that reached `rollout.max_tokens` out of the loss."""
    gap_limit: float = Field(default=0.05, gt=0)
    """Largest mean |trainer − server| log-probability of a step. Past it the two no longer compute the same model: the
    step's update is skipped, and the third one in a row ends the run. Single completions with ten times as much are
    left out of the loss."""

    @model_validator(mode="after")
    def _ordered(self) -> "AlgorithmSection":
        if self.dual_clip is not None and self.dual_clip <= 1 + self.clip_high:
            raise ValueError("dual_clip must be greater than 1 + clip_high")
        if self.normalize == "per_reward" and self.kl_weight and self.kl_in == "reward":
            raise ValueError("kl_in = 'reward' needs normalize = 'total': the penalty is part of the sum of rewards")
        return self

    @property
    def averaging(self) -> Aggregation:
        """How token losses are averaged."""
        return self.aggregation or LOSSES[self.loss].aggregation


class EvalSection(Section):
    """`[eval]`: validation on held-out rows, answered greedily by the server."""

    every: int = Field(default=0, ge=0)
    """Steps between validations, the first of which is before training; 0 never validates."""
    split: str = "test"
    """Split of the prepared set that validation reads."""
    rows: int = Field(default=100, ge=1)
    """Rows per validation: the first ones of the split."""
    drop_latents: bool = True
    """Validate without the latents too, which shows whether they are still used."""


class RlLogSection(LogSection):
    """`[log]`: what is written while training, with the table of completions."""

    completions_every: int = Field(default=0, ge=0)
    """Steps between tables of sampled completions; 0 writes none."""
    completions: int = Field(default=8, ge=1)
    """Completions per table."""


class RlDataSection(DataSection):
    """`[data]` of a reinforcement training."""

    split: str = "prompts"
    """Split of the set whose rows are the prompts."""
    on_bad: Literal["refuse", "skip"] = "refuse"
    """What happens to a prompt that leaves no room for `rollout.max_tokens`, and to a step whose gradient is not
    finite. `refuse` ends the training and names it; `skip` leaves it out, says so and counts it."""


class RlConfig(Section):
    """One GRPO training: the sections of its recipe."""

    run: RunSection = RunSection()
    """Where the run is stored and what makes it repeatable."""
    model: ModelSection = ModelSection()
    """The checkpoint to start from."""
    data: RlDataSection = RlDataSection()
    """The prepared set whose rows are the prompts."""
    lora: LoraSection = LoraSection()
    """Low-rank adapters instead of full fine-tuning."""
    prompt: PromptSection = PromptSection()
    """How a row becomes a prompt."""
    optim: OptimConfig = OptimConfig(lr=1e-6, schedule="constant")
    """AdamW and its schedule. The learning rate is a tenth of a supervised one, and constant."""
    zero: ZeroConfig = ZeroConfig()
    """ZeRO-3: dtype, sharding and offloading."""
    rollout: RolloutSection = RolloutSection()
    """Sampling, and the server that does it."""
    rewards: RewardsSection = RewardsSection()
    """What completions are rewarded for."""
    algorithm: AlgorithmSection = AlgorithmSection()
    """Advantages, loss and regularization."""
    eval: EvalSection = EvalSection()
    """Validation on held-out rows."""
    server: ServerSection = ServerSection()
    """The server that `covt rl` starts when `rollout.base_url` is empty."""
    log: RlLogSection = RlLogSection()
    """What is written while training."""

    @model_validator(mode="after")
    def _whole_replicas(self) -> "RlConfig":
        if self.server.gpus % self.server.tensor_parallel:
            raise ValueError(
                f"server.gpus = {self.server.gpus} is not a multiple of server.tensor_parallel = "
                f"{self.server.tensor_parallel}"
            )
        return self

    @model_validator(mode="after")
    def _sleep_fits(self) -> "RlConfig":
        if self.server.sleep:
            for other, why in (
                (self.server.gpus, f"server.gpus = {self.server.gpus}: a server with GPUs of its own need not sleep"),
                (self.rollout.ahead, "rollout.ahead = 1: the server can't sample while it sleeps"),
                (self.rollout.transfer == "nccl", "rollout.transfer = 'nccl', which can't join two processes on a GPU"),
            ):
                if other:
                    raise ValueError(f"server.sleep = true excludes {why}; drop one of them")
        return self

    @model_validator(mode="after")
    def _divides(self) -> "RlConfig":
        if self.rollout.prompts % self.algorithm.mini_batches:
            raise ValueError(
                f"rollout.prompts = {self.rollout.prompts} can't be cut into algorithm.mini_batches = "
                f"{self.algorithm.mini_batches} equal parts: choose a multiple"
            )
        if self.rollout.ahead and self.rollout.dynamic:
            raise ValueError("rollout.ahead = 1 and rollout.dynamic exclude each other: choose one")
        return self
