"""Recipe sections that supervised and reinforcement training share.

A recipe is a TOML file of named sections (`[run]`, `[model]`, …). Each stage package composes its configuration from
these and its own. Unknown keys are refused: a misspelt key must not silently keep its default.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

CELL_PIXELS = 28 * 28
"""Of one visual token: no picture can have fewer."""


class Section(BaseModel):
    """Base of every recipe section: frozen, and unknown keys fail."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RunSection(Section):
    """`[run]`: where the run lives and what makes it repeatable."""

    name: str = ""
    """Folder name under `out`; empty means `<job>-<date>-<time>`."""
    out: Path = Path("runs")
    seed: int = 0
    ranks: int | None = Field(default=None, ge=1)
    """Training processes on this machine; None means one per GPU, or 2 on a CPU."""


class TinySection(Section):
    """`[model.tiny]`: shape of a Qwen2.5-VL made from scratch when `model.path = "tiny"`."""

    hidden: int = 64
    layers: int = 2
    heads: int = 2
    intermediate: int = 192
    vision_depth: int = 1
    vision_hidden: int = 64
    init_std: float = 0.08
    vocab_size: int = 512


class ModelSection(Section):
    """`[model]`: the checkpoint to start from."""

    path: str = ""
    """A checkpoint folder or hub id; `tiny` builds one from scratch; empty takes the newest fitting run."""
    gradient_checkpointing: bool = False
    attention: Literal["sdpa", "flash_attention_2"] = "sdpa"
    """The language model's attention while training; flash-attention needs a GPU and `zero.dtype = "bf16"`."""
    tiny: TinySection = TinySection()


class LatentSection(Section):
    """`[latent]`: latent tokens, the feedback rule, and how stage 1 picks its targets."""

    size: int = Field(default=8, ge=1)
    """K: pads in a latent segment."""
    normalize: Literal["none", "rms"] = "none"
    head: Literal["identity", "linear", "mlp"] = "identity"
    """What a fed-back hidden state goes through before it is an input; the last two have weights that are trained."""
    required: bool = True
    """Refuse rows without a latent step; false trains them as text, beside those that have one."""
    selection: Literal["ilvr", "focus"] = "ilvr"
    """`ilvr` selects helper-image features by the text's query; `focus` crops helper images to the data's boxes."""
    top_p: float = Field(default=0.9, gt=0, le=1)
    temperature: float = Field(default=1.0, gt=0)
    """Softmax temperature of the selection scores."""
    teacher: Literal["ema", "frozen"] = "ema"
    """What `ilvr` selects with: a moving average of the student, or the model as it was before the training, whose
    targets are computed once and kept on disk."""
    teacher_decay: float = Field(default=0.999, ge=0, lt=1)
    """Of the moving average, after every optimizer step."""
    target_cache: str = ""
    """Folder of a frozen teacher's targets; empty means `.targets` beside the runs."""


class MixSection(Section):
    """One of `[[data.mix]]`: a further prepared set."""

    path: str
    split: str = "train"
    weight: float = Field(default=1.0, gt=0)
    """How often a row is drawn from this set, where `data.path` has 1."""


class DataSection(Section):
    """`[data]`: a prepared set (see `covt data prepare`)."""

    path: str = ""
    """Folder of a prepared set; empty takes the newest under `data/`."""
    split: str = "train"
    limit: int | None = Field(default=None, ge=1)
    mix: tuple[MixSection, ...] = ()
    """Further sets: each row of the training is drawn from one of the sets, and each set is passed over by itself."""
    min_pixels: int | None = Field(default=None, ge=CELL_PIXELS)
    """Pictures with fewer pixels are enlarged when a row is read; None leaves them to the checkpoint's own limits."""
    max_pixels: int | None = Field(default=None, ge=CELL_PIXELS)
    """Pictures with more pixels are made smaller when a row is read, for the trainer and the rollout server alike;
    None leaves them to the checkpoint's own limits."""
    max_length: int = Field(default=4096, ge=1)
    """Longest sample in tokens; longer ones are refused by id."""
    batch_size: int = Field(default=64, ge=1)
    """Rows an optimizer step, over all ranks."""
    micro_batch: int = Field(default=32, ge=1)
    """Rows a forward on one rank; what is over is accumulated."""

    @model_validator(mode="after")
    def _limits_in_order(self) -> Self:
        if self.min_pixels is not None and self.max_pixels is not None and self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels = {self.min_pixels} is more than max_pixels = {self.max_pixels}")
        return self


class LoraSection(Section):
    """`[lora]`: low-rank adapters (arXiv 2106.09685) on the language model instead of full fine-tuning."""

    rank: int = Field(default=0, ge=0)
    """0 trains all weights of the language model."""
    alpha: float = Field(default=32.0, gt=0)
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

    @property
    def scale(self) -> float:
        """Of the adapters' product, where there are adapters."""
        return self.alpha / self.rank


class PromptSection(Section):
    """`[prompt]`: how a row becomes a prompt, and what the `format` reward expects of the answer."""

    system: str = ""
    template: str = "{{ question }}"
    format: Literal["boxed", "answer"] = "boxed"


class LogSection(Section):
    """`[log]`: what is written while training."""

    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """`auto` is online when WANDB_API_KEY is set and offline otherwise."""
    project: str = "covt"
    every: int = Field(default=10, ge=1)
    """Steps between metric lines."""
    save_every: int = Field(default=0, ge=0)
    """Steps between checkpoints; 0 saves at the end of each stage only."""
    keep: int = Field(default=2, ge=1)
    """Checkpoints kept besides the best one."""
