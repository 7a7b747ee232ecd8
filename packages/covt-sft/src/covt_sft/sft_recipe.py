"""Recipe of a supervised training."""

from typing import Literal

from pydantic import Field, model_validator

from covt_runtime.engine.optimizer_settings import OptimConfig, ZeroConfig
from covt_runtime.recipe_schema import (
    DataSection,
    LatentSection,
    LogSection,
    LoraSection,
    ModelSection,
    PromptSection,
    RunSection,
    Section,
)

Method = Literal["latent", "pause", "plain"]
"""`latent` is ILVR; the controls keep everything equal but the feedback (`pause`: the same pads with a learned
constant input) or the pads (`plain`: text only)."""


class StageSection(Section):
    """Length and learning rate of one stage; everything else of the optimizer stands in `[optim]`."""

    steps: int | None = Field(default=None, ge=0)
    """Optimizer steps; 0 skips the stage."""
    epochs: float | None = Field(default=None, ge=0)
    """Passes over the data, where `steps` is not given."""
    seconds: float | None = Field(default=None, gt=0)
    """Wall time after which the stage ends, if it still runs."""
    lr: float = Field(default=1e-5, gt=0)
    schedule: Literal["constant", "linear", "cosine", "wsd"] = "linear"
    warmup_steps: int = Field(default=10, ge=0)

    @model_validator(mode="after")
    def _one_length(self) -> "StageSection":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        return self

    def length(self, rows: int, batch_size: int) -> int:
        """Optimizer steps for a set of `rows`."""
        if self.steps is not None:
            return self.steps
        return round((self.epochs or 0) * rows / batch_size)


class Stage1Section(StageSection):
    """`[stage1]`: helper-image features stand in as latents and are what the hidden states align to."""

    ce_weight: float = Field(default=1.0, ge=0)
    align_weight: float = Field(default=1.0, ge=0)
    noise: float = Field(default=0.01, ge=0)
    """Standard deviation of the Gaussian noise on the targets where they are inputs."""


class Stage2Section(StageSection):
    """`[stage2]`: latents come from the feedback rule, the loss from text alone."""


class SftDataSection(DataSection):
    """`[data]` of a supervised training."""

    batching: Literal["order", "length", "packed"] = "order"
    """How the rows of a step share its forwards. `order`: as they come, padded to the longest; `length`: rows of
    similar length together; `packed`: laid end to end without padding, none seeing another. The step's rows, and so
    its gradient, are the same."""
    micro_tokens: int = Field(default=0, ge=0)
    """Most tokens of a forward on one rank, where `batching` is not `order`; 0 leaves `micro_batch` as the only
    limit."""
    oversize: Literal["resize", "refuse"] = "resize"
    """What becomes of a picture with more than `max_pixels`: it is resized, or its row is a bad one."""
    feature_cache_gib: float = Field(default=4.0, gt=0)
    """Memory for the visual features of pictures seen, on the training device. They are computed once a step, and once
    in all while they fit."""
    sample_cache_gib: float = Field(default=1.0, ge=0)
    """Memory of each rank for encoded rows, with their pictures' files, so that they need not be encoded again."""
    on_bad: Literal["refuse", "skip"] = "refuse"
    """What happens to a row that can't be trained on, and to a step whose loss is not finite: the training ends with
    its id, or it is left out, named and counted (`skipped/rows`, `skipped/steps`)."""


class EvalSection(Section):
    """`[eval]`: accuracy by generation and loss on held-out rows, while training."""

    every: int = Field(default=0, ge=0)
    """Steps between evaluations; 0 evaluates at the end of each stage only."""
    split: str = "test"
    rows: int = Field(default=128, ge=0)
    """Rows judged; 0 evaluates nothing."""
    max_tokens: int = Field(default=64, ge=1)
    loss_rows: int = Field(default=0, ge=0)
    """Held-out rows whose loss is computed as the stage computes its own; 0 computes none."""
    best: Literal["none", "accuracy", "loss"] = "none"
    """Of the last stage's evaluations, the checkpoint with the best value stays besides the newest ones."""


class SftConfig(Section):
    """One supervised training: stage 1, then stage 2, either of which may have no steps."""

    run: RunSection = RunSection()
    method: Method = "latent"
    model: ModelSection = ModelSection()
    latent: LatentSection = LatentSection()
    data: SftDataSection = SftDataSection()
    lora: LoraSection = LoraSection()
    prompt: PromptSection = PromptSection()
    optim: OptimConfig = OptimConfig()
    zero: ZeroConfig = ZeroConfig()
    stage1: Stage1Section = Stage1Section(epochs=15)
    stage2: Stage2Section = Stage2Section(epochs=15)
    eval: EvalSection = EvalSection()
    log: LogSection = LogSection()

    @model_validator(mode="after")
    def _best_is_measured(self) -> "SftConfig":
        rows = {"none": 1, "accuracy": self.eval.rows, "loss": self.eval.loss_rows}[self.eval.best]
        if not rows:
            raise ValueError(f"eval.best = {self.eval.best!r} needs rows to judge: set eval.rows or eval.loss_rows")
        return self
