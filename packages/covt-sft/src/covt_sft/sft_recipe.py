"""The recipe of a supervised training. The docstring below a field is its description in `model_fields`."""

from typing import Literal

from pydantic import Field, model_validator

from covt_model.latent_config import HEADS
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
"""`latent` is ILVR. The controls keep everything else equal: `pause` has the same pads with a learned constant input
instead of the feedback, `plain` has text only."""


class StageSection(Section):
    """Length and learning rate of one stage; the other optimizer settings are in `[optim]`."""

    steps: int | None = Field(default=None, ge=0)
    """Optimizer steps; 0 skips the stage. Exclusive with `epochs`."""
    epochs: float | None = Field(default=None, ge=0)
    """Passes over the data. Exclusive with `steps`."""
    seconds: float | None = Field(default=None, gt=0)
    """Wall time after which the stage ends even if steps are left; unset sets no limit."""
    lr: float = Field(default=1e-5, gt=0)
    """Peak learning rate of the stage; the published setting of ILVR."""
    schedule: Literal["constant", "linear", "cosine", "wsd"] = "linear"
    """Learning rate after warm-up; see `optim.schedule`."""
    warmup_steps: int = Field(default=10, ge=0)
    """Optimizer steps in which the learning rate rises linearly."""

    @model_validator(mode="after")
    def _one_length(self) -> "StageSection":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        return self

    def length(self, rows: int, batch_size: int) -> int:
        """Optimizer steps for a set with this many rows."""
        if self.steps is not None:
            return self.steps
        return round((self.epochs or 0) * rows / batch_size)


class Stage1Section(StageSection):
    """`[stage1]`: helper-image features are the latents, and hidden states are aligned to them."""

    ce_weight: float = Field(default=1.0, ge=0)
    """Weight of the cross-entropy on text."""
    align_weight: float = Field(default=1.0, ge=0)
    """Weight of the alignment loss, 1 − cosine of hidden state and target."""
    noise_target: float = Field(default=0.01, ge=0)
    """Standard deviation of the Gaussian noise on targets in the alignment loss; the inputs stay clean. 0.01 is the
    setting of ILVR's public code."""
    noise_input: float = Field(default=0.0, ge=0)
    """Standard deviation of the Gaussian noise on targets where they are inputs. It helps small models, because stage
    2, whose inputs are imperfect, is then nothing new; ILVR has none."""


class Stage2Section(StageSection):
    """`[stage2]`: latents come from the feedback rule, and the loss from text."""

    align_weight: float = Field(default=0.0, ge=0)
    """Weight of the alignment loss, 1 − cosine of the latents that the model makes itself and stage 1's targets. 0, as
    published, leaves the loss to text alone, which lets latents drift from what they stand for."""


class SftDataSection(DataSection):
    """`[data]` of a supervised training."""

    batching: Literal["order", "length", "packed"] = "order"
    """How the rows of a step are divided into forwards. `order`: as they come, padded to the longest; `length`: rows of
    similar length together; `packed`: end to end without padding, none attending to another. The rows of the step, and
    so its gradient, are the same."""
    micro_tokens: int = Field(default=0, ge=0)
    """Most tokens per forward on one rank, where `batching` is not `order`; 0 leaves `micro_batch` as the only
    limit."""
    oversize: Literal["resize", "refuse"] = "resize"
    """What happens to an image with more than `max_pixels`: it is resized, or its row is a bad row."""
    feature_cache_gib: float = Field(default=4.0, gt=0)
    """GiB on the training device for features of images already seen. The vision tower is frozen, so features that fit
    are computed only once; others once per step. Where no row comes twice, features are kept for their step alone."""
    sample_cache_gib: float = Field(default=1.0, ge=0)
    """GiB of host memory on each rank for encoded rows with their image files, so that they are encoded only once."""
    workers: int = Field(default=2, ge=0)
    """Threads per rank that read and encode the rows of the next step and decode its images while a step is computed;
    0 prepares a step's rows when it begins. `perf/data_wait` tells how long a step still waits."""
    vision_patches: int = Field(default=16_384, ge=0)
    """Most image patches per forward of the vision tower; a larger image has a forward of its own. 0 takes one image
    per forward: slower, but then features don't depend even in the last bit on what is computed together, and with
    cached features a resumed training equals one that never stopped to the last bit."""
    on_bad: Literal["refuse", "skip"] = "refuse"
    """What happens to a row that can't be trained on, and to a step whose loss or gradient is not finite. `refuse` ends
    the training with the row's id; `skip` leaves it out, names it and counts it (`skipped/rows`, `skipped/steps`)."""


class EvalSection(Section):
    """`[eval]`: accuracy by generation, and loss, on held-out rows while training."""

    every: int = Field(default=0, ge=0)
    """Steps between evaluations; 0 evaluates at the end of each stage only."""
    split: str = "test"
    """Split that the held-out rows come from."""
    rows: int = Field(default=128, ge=0)
    """Rows to answer and grade; 0 grades none. 128 rows give a standard error of at most 4.4 points."""
    max_tokens: int = Field(default=64, ge=1)
    """Most tokens per answer, latent tokens included."""
    loss_rows: int = Field(default=0, ge=0)
    """Rows whose loss is computed as the stage computes its own; 0 computes none."""
    best: Literal["none", "accuracy", "loss"] = "none"
    """Keep the checkpoint of the final stage that has the best value of this metric, besides the newest ones."""


class SftConfig(Section):
    """One supervised training: stage 1, then stage 2, either of which may have no steps."""

    run: RunSection = RunSection()
    """Where the run is stored and what makes it repeatable."""
    method: Method = "latent"
    """`latent` (ILVR), or a control: `pause` (the same pads, no feedback) or `plain` (text only)."""
    model: ModelSection = ModelSection()
    """The checkpoint to start from."""
    latent: LatentSection = LatentSection()
    """Latent tokens, the feedback rule, and how stage 1 chooses its targets."""
    data: SftDataSection = SftDataSection()
    """The prepared set, and how its rows become batches."""
    lora: LoraSection = LoraSection()
    """Low-rank adapters instead of full fine-tuning."""
    prompt: PromptSection = PromptSection()
    """How a row becomes a prompt."""
    optim: OptimConfig = OptimConfig()
    """AdamW; each stage sets its own learning rate and schedule."""
    zero: ZeroConfig = ZeroConfig()
    """ZeRO-3: dtype, sharding and offloading."""
    stage1: Stage1Section = Stage1Section(epochs=15)
    """Alignment to helper images; 15 epochs are the published setting of ILVR."""
    stage2: Stage2Section = Stage2Section(epochs=15)
    """Self-generated latents; 15 epochs are the published setting of ILVR."""
    eval: EvalSection = EvalSection()
    """Accuracy and loss on held-out rows."""
    log: LogSection = LogSection()
    """What is written while training."""

    @model_validator(mode="after")
    def _head_is_known(self) -> "SftConfig":
        heads = [name for name in HEADS if name != "none"]  # which is how `method = "pause"` is written
        if self.latent.head not in heads:
            raise ValueError(f"latent.head = {self.latent.head!r} should be one of {', '.join(heads)}")
        return self

    @model_validator(mode="after")
    def _best_is_measured(self) -> "SftConfig":
        rows = {"none": 1, "accuracy": self.eval.rows, "loss": self.eval.loss_rows}[self.eval.best]
        if not rows:
            raise ValueError(f"eval.best = {self.eval.best!r} needs rows to judge: set eval.rows or eval.loss_rows")
        return self
