"""Recipe of a reinforcement training."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from covt_model.latents.latent_modes import ABLATION_MODES, LatentMode
from covt_rl.algorithms.advantage_registry import check_advantage_name
from covt_rl.algorithms.aggregation import Aggregation
from covt_rl.algorithms.importance import Correction, Level
from covt_rl.algorithms.kl import Estimator
from covt_rl.algorithms.losses import LOSSES, check_loss_name
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


class RolloutSection(Section):
    """`[rollout]`: sampling, and the server that does it."""

    prompts: int = Field(default=16, ge=1)
    """Prompts per step."""
    samples: int = Field(default=8, ge=2)
    """Rollouts per prompt: the size of a group."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature. At 1.0 the server samples the policy itself, which the loss assumes by default."""
    max_tokens: int = Field(default=64, ge=1)
    """Greatest length of a completion in tokens, latents included. The default fits the generated tasks."""
    base_url: str = ""
    """A running `covt serve`, replicas with commas between; empty starts one."""
    api_key_env: str = "COVT_API_KEY"
    """Environment variable that holds the server's key, where it wants one."""
    concurrency: int = Field(default=64, ge=1)
    """Requests in flight at the same time."""
    timeout: float = Field(default=120.0, gt=0)
    """Seconds a request may take."""
    ahead: int = Field(default=0, ge=0, le=1)
    """1 samples the next step's rollouts while this one trains: one update old, see `algorithm.importance`."""
    transfer: Literal["auto", "files", "nccl"] = "auto"
    """How new weights reach the server: files in shared memory, or NCCL, which `auto` takes where the trainer and the
    server have GPUs each. A server of your own must have been started by `covt serve`, on GPUs, for NCCL."""
    dynamic: int = Field(default=0, ge=0)
    """Rounds in which groups without spread are replaced by further prompts (DAPO); 0 trains on what came."""


class RewardsSection(Section):
    """`[rewards]`: what is paid for."""

    use: str = "format,accuracy,necessity"
    """Names with optional weights: `format=0.2,accuracy,necessity=0.5`."""
    ablation: AblationMode = LatentMode.DROP_LATENTS
    """What happens to the latents in the counterfactual continuations of the necessity reward."""
    continuations: int = Field(default=1, ge=1)
    """M: counterfactual continuations a rollout."""
    share: float = Field(default=1.0, ge=0, le=1)
    """Share of rollouts that get counterfactual continuations."""
    span: Literal["first", "last"] = "last"
    """The latent span after which continuations begin; all latents up to it are ablated."""
    early: bool = True
    """Begin them as soon as that span has closed, while the rollout goes on; where they begin at the last span that is
    a guess, and what was begun too early is given up."""
    control: int = Field(default=0, ge=0)
    """Continuations a rollout with the latents kept: they make ν unbiased and cost as much as the others."""
    settings: dict[str, dict[str, bool | int | float | str]] = Field(default_factory=dict)
    """Settings by reward, such as `necessity = {w_harm = 0.25}`."""
    time_limit: float = Field(default=120.0, gt=0)
    """Seconds in which a reward of your own must score one group."""


class AlgorithmSection(Section):
    """`[algorithm]`: advantages and loss."""

    steps: int | None = Field(default=None, ge=1)
    """GRPO steps; None is one pass over the prompts."""
    advantage: AdvantageName = "grpo"
    """How rewards become advantages: a name of the table, or `./file.py:function`. `grpo` subtracts the group's mean
    and divides by its standard deviation."""
    normalize: Literal["total", "per_reward"] = "total"
    """`total` normalizes the weighted sum of rewards in its group; `per_reward` each reward, then sums."""
    loss: LossName = "dapo"
    """`grpo`, `dapo`, `dr_grpo`: the clipped surrogate, averaged in three ways; `gspo`, `cispo`: other surrogates."""
    aggregation: Aggregation | None = None
    """How tokens are averaged; None is the loss's own way."""
    clip_low: float = Field(default=0.2, gt=0, lt=1)
    """The probability ratio is clipped below at 1 - clip_low; 0.2 is PPO's setting."""
    clip_high: float = Field(default=0.2, gt=0)
    """The probability ratio is clipped above at 1 + clip_high; 0.2 is PPO's setting, DAPO uses 0.28."""
    dual_clip: float | None = Field(default=None, gt=1)
    """Bound of the ratio where the advantage is negative (dual-clip PPO); unset sets no bound."""
    epochs: int = Field(default=1, ge=1)
    """Passes over each batch of rollouts."""
    mini_batches: int = Field(default=1, ge=1)
    """Optimizer steps a pass: the prompts are cut into so many parts."""
    micro_tokens: int | None = Field(default=None, ge=1)
    """Tokens of a forward on one rank, padding included; None: `data.micro_batch` rows, whatever their length."""
    latents: Literal["recompute", "replay"] = "recompute"
    """`recompute` feeds latents back under the current weights, with gradients; `replay` takes the server's."""
    importance: Correction = "none"
    """Correction for the server's policy: none takes it as the old policy of the ratio."""
    importance_level: Level = "token"
    """Whether importance weights are computed per token or per sequence."""
    importance_cap: float = Field(default=2.0, gt=1)
    """Greatest importance weight; larger ones are truncated or masked, as `importance` says."""
    kl_weight: float = Field(default=0.0, ge=0)
    """Of the KL to the initial policy; at 0 there is no reference model."""
    kl_estimator: Estimator = "k3"
    """Per-token estimator of the KL divergence (Schulman 2020); `k3` is unbiased and never negative."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Whether the KL penalty is added to the loss or subtracted from the reward."""
    entropy_weight: float = Field(default=0.0, ge=0)
    """Of the entropy bonus."""
    mask_truncated: bool = False
    """Leave completions that were cut off at `rollout.max_tokens` out of the loss."""
    gap_limit: float = Field(default=0.05, gt=0)
    """Mean |trainer − server| log-probability past which the run stops: the two no longer compute the same model."""

    @model_validator(mode="after")
    def _ordered(self) -> "AlgorithmSection":
        if self.dual_clip is not None and self.dual_clip <= 1 + self.clip_high:
            raise ValueError("dual_clip must be greater than 1 + clip_high")
        if self.normalize == "per_reward" and self.kl_weight and self.kl_in == "reward":
            raise ValueError("kl_in = 'reward' needs normalize = 'total': the penalty is part of the sum of rewards")
        return self

    @property
    def averaging(self) -> Aggregation:
        """How tokens are averaged."""
        return self.aggregation or LOSSES[self.loss].aggregation


class EvalSection(Section):
    """`[eval]`: greedy validation through the server."""

    every: int = Field(default=0, ge=0)
    """Steps between validations; 0: none. With it, the first is before training."""
    split: str = "test"
    """Split of the prepared set that validation reads."""
    rows: int = Field(default=100, ge=1)
    """Rows per validation, the first of the split."""
    drop_latents: bool = True
    """Also without the latents, which says whether they are still used."""


class ServerSection(Section):
    """`[server]`: the rollout server that `covt rl` starts, where `rollout.base_url` names none."""

    gpus: int = Field(default=0, ge=0)
    """GPUs for the server alone, the first of the machine; 0 shares the first with the trainer."""
    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs per replica of the server; must divide `server.gpus`."""
    dtype: Literal["auto", "float32", "bfloat16"] | None = None
    """None: float32 on a CPU, the checkpoint's on GPUs."""
    max_model_len: int | None = Field(default=None, ge=1)
    """Greatest length of prompt and completion in tokens; unset takes the checkpoint's."""
    max_num_seqs: int = Field(default=256, ge=1)
    """Greatest number of sequences that the server decodes together; vLLM's default."""
    memory_share: float = Field(default=0.9, gt=0, le=1)
    """Of each server GPU's memory."""
    sleep: bool = False
    """The server, on the trainer's GPUs, gives its memory back while the trainer updates, and the trainer its own while
    the server samples."""
    extra: tuple[str, ...] = ()
    """Further flags of `vllm serve`."""


class RlLogSection(LogSection):
    """`[log]`, and the table of completions."""

    completions_every: int = Field(default=0, ge=0)
    """Steps between tables of sampled completions; 0: none."""
    completions: int = Field(default=8, ge=1)
    """Completions a table."""


class RlConfig(Section):
    """One GRPO training."""

    run: RunSection = RunSection()
    model: ModelSection = ModelSection()
    data: DataSection = DataSection(split="prompts")
    lora: LoraSection = LoraSection()
    prompt: PromptSection = PromptSection()
    optim: OptimConfig = OptimConfig(lr=1e-6, schedule="constant")
    zero: ZeroConfig = ZeroConfig()
    rollout: RolloutSection = RolloutSection()
    rewards: RewardsSection = RewardsSection()
    algorithm: AlgorithmSection = AlgorithmSection()
    eval: EvalSection = EvalSection()
    server: ServerSection = ServerSection()
    log: RlLogSection = RlLogSection()

    @model_validator(mode="after")
    def _whole_replicas(self) -> "RlConfig":
        if self.server.gpus % self.server.tensor_parallel:
            raise ValueError(
                f"server.gpus = {self.server.gpus} is not a multiple of server.tensor_parallel = "
                f"{self.server.tensor_parallel}"
            )
        return self

    @model_validator(mode="after")
    def _takes_turns(self) -> "RlConfig":
        if self.server.sleep:
            for other, why in (
                (self.server.gpus, f"server.gpus = {self.server.gpus}: a server with GPUs of its own need not sleep"),
                (self.rollout.ahead, "rollout.ahead = 1: the server can't sample while it sleeps"),
                (self.rollout.transfer == "nccl", "rollout.transfer = 'nccl', which can't join two processes on a GPU"),
            ):
                if other:
                    raise ValueError(f"server.sleep = true doesn't go with {why}; drop one of them")
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
