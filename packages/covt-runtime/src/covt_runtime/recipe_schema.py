"""Recipe sections that supervised and reinforcement training share.

A recipe is a TOML file of named sections (`[run]`, `[model]`, …). Each training package composes its recipe from these
sections and its own. Unknown keys are refused, because a misspelled key would silently keep its default. The docstring
below a field is its description in `model_fields`.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

CELL_PIXELS = 28 * 28
"""Pixels of one visual token: no image can have fewer."""


class Section(BaseModel):
    """Base of every recipe section: frozen, with unknown keys refused and docstrings as descriptions."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class RunSection(Section):
    """`[run]`: where the run is stored and what makes it repeatable."""

    name: str = ""
    """Name of the run's folder below `out`; empty means `<job>-<date>-<time>`."""
    out: Path = Path("runs")
    """Folder that holds the runs."""
    seed: int = 0
    """Seed of everything random: row order, noise, sampling and new weights."""
    ranks: int | None = Field(default=None, ge=1)
    """Training processes on this machine; unset means one per GPU, or 2 on a CPU."""
    collective_minutes: float = Field(default=30.0, gt=0)
    """Minutes that a rank waits for the others before the run fails. In `covt rl` the other ranks wait while rank 0
    samples, so it must exceed the time of a step's rollouts."""


class TinySection(Section):
    """`[model.tiny]`: shape of the small model that `model.path = "tiny"` makes from scratch.

    The defaults train in minutes on two CPU cores and still learn to trace paths.
    """

    family: str = ""
    """Model family, by the `model_type` of its checkpoints; empty means the default one."""
    hidden: int = 64
    """Width of the language model's hidden states."""
    layers: int = 2
    """Decoder layers."""
    heads: int = 2
    """Attention heads of a decoder layer."""
    intermediate: int = 192
    """Inner width of a decoder layer's MLP: three times `hidden`."""
    rope_theta: float = Field(default=1e4, gt=0)
    """Base of the rotary positions. With 1e4 the slow dimensions turn by thousandths of a radian from one cell of a
    small map to the next, which no short training learns to see; 4 makes them visible."""
    mrope: tuple[int, int, int] = (4, 6, 6)
    """Rotary dimensions, in pairs, for time, height and width: together half of `hidden / heads`."""
    vision_depth: int = 1
    """Blocks of the vision tower."""
    vision_hidden: int = 64
    """Width of the vision tower."""
    init_std: float = 0.08
    """Standard deviation of new weights; above the usual 0.02 because the model is narrow."""
    vocab_size: int = 512
    """Most entries of the tokenizer, which is trained on the data's text."""


class ModelSection(Section):
    """`[model]`: the checkpoint to start from."""

    path: str = ""
    """A checkpoint folder or hub id. `tiny` makes a small model from scratch; empty means `tiny` in `covt sft` and the
    newest model of `covt sft` in `covt rl`."""
    gradient_checkpointing: bool = False
    """Recompute each layer's activations in the backward pass: less memory, about a third more computation."""
    attention: Literal["auto", "sdpa", "varlen", "flash_attention_2"] = "auto"
    """Attention kernel of the language model while training. `auto` takes a kernel without scores in memory: on GPUs
    from Ampere on, with `zero.dtype = "bf16"`, the package flash-attn where it is installed (`flash_attention_2`), or
    PyTorch's build of it (`varlen`). `sdpa` runs anywhere, and is what `auto` takes elsewhere."""
    tiny: TinySection = TinySection()
    """Shape of the model where `path` is `tiny`."""


class LatentSection(Section):
    """`[latent]`: latent tokens, the feedback rule, and how stage 1 chooses its targets."""

    size: int = Field(default=8, ge=1)
    """K: latent tokens per segment. 8 is the published setting of ILVR."""
    normalize: Literal["none", "rms"] = "none"
    """What is applied to a hidden state before it is fed back: nothing, as published, or scaling to unit RMS."""
    head: str = "identity"
    """Map from a normalized hidden state to the next input. `identity` is the published rule; the others, `linear` and
    `mlp`, have weights of their own, which are trained."""
    required: bool = True
    """Refuse rows without a latent step; false trains them as text beside those that have one."""
    selection: Literal["ilvr", "focus"] = "ilvr"
    """How stage 1 chooses targets: `ilvr` selects helper-image features by the text's query, `focus` crops the helper
    images to the data's boxes."""
    top_p: float = Field(default=0.9, gt=0, le=1)
    """Probability mass of the features that `ilvr` selects from."""
    temperature: float = Field(default=1.0, gt=0)
    """Softmax temperature of the selection scores; 1 leaves them as they are."""
    image_context: Literal["merger", "hidden"] = "merger"
    """What stands for the prompt's images in `ilvr`'s query, weighted by the attention of the prompt's text: the vision
    tower's merged features, or as in ILVR's public code the teacher's last hidden states at them."""
    teacher_pads: Literal["embedding", "helpers"] = "embedding"
    """What the teacher sees at latent tokens while `ilvr` selects: the pad's own token embedding, as in ILVR's public
    code, or the means of the helper images' features, which then reach the queries of later segments."""
    unfilled: Literal["repeat", "unaligned"] = "repeat"
    """Latent tokens of a segment for which `ilvr` selects nothing, because fewer features were selected than it has
    tokens: they repeat the best feature, or as in ILVR's public code keep their own embedding and aren't aligned."""
    teacher: Literal["ema", "frozen"] = "ema"
    """The model that `ilvr` selects with: a moving average of the student, or the model as it was before training,
    whose targets are computed once and kept on disk. `frozen` needs no extra memory per step."""
    teacher_decay: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the moving average per optimizer step."""
    target_cache: str = ""
    """Folder for a frozen teacher's targets; empty means `.targets` beside the runs."""


class MixSection(Section):
    """One of `[[data.mix]]`: a further prepared set."""

    path: str
    """Folder of the prepared set."""
    split: str = "train"
    """Split of the set to train on."""
    weight: float = Field(default=1.0, gt=0)
    """How often a row is drawn from this set, relative to `data.path`, whose weight is 1."""


class DataSection(Section):
    """`[data]`: a prepared set, made by `covt data prepare`."""

    path: str = ""
    """Folder of a prepared set; empty takes the newest set below `data/`."""
    split: str = "train"
    """Split of the set to train on."""
    limit: int | None = Field(default=None, ge=1)
    """Use only the first rows, up to this number; unset uses all."""
    mix: tuple[MixSection, ...] = ()
    """Further sets. Each row of the training is drawn from one of the sets by weight; each set has its own epochs."""
    min_pixels: int | None = Field(default=None, ge=CELL_PIXELS)
    """Images with fewer pixels are enlarged when a row is read; unset leaves them to the checkpoint's own limits."""
    max_pixels: int | None = Field(default=None, ge=CELL_PIXELS)
    """Images with more pixels are shrunk when a row is read, for the trainer and the rollout server alike; unset leaves
    them to the checkpoint's own limits."""
    max_length: int = Field(default=4096, ge=1)
    """Longest sample in tokens, visual tokens included; a longer row is a bad row and is named by its id."""
    batch_size: int = Field(default=64, ge=1)
    """Rows per optimizer step over all ranks."""
    micro_batch: int = Field(default=32, ge=1)
    """Most rows per forward on one rank; gradients of several forwards are accumulated. Lower it to save memory."""

    @model_validator(mode="after")
    def _limits_in_order(self) -> Self:
        if self.min_pixels is not None and self.max_pixels is not None and self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels = {self.min_pixels} is more than max_pixels = {self.max_pixels}")
        return self


class LoraSection(Section):
    """`[lora]`: low-rank adapters (arXiv 2106.09685) on the language model instead of full fine-tuning."""

    rank: int = Field(default=0, ge=0)
    """Rank of the adapters; 0 trains all weights of the language model instead."""
    alpha: float = Field(default=32.0, gt=0)
    """The adapters' product is scaled by `alpha / rank`; 32 is twice the usual rank of 16."""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Names of the linear layers that get adapters: all of a decoder layer by default."""

    @property
    def scale(self) -> float:
        """Factor of the adapters' product; only for a rank above 0."""
        return self.alpha / self.rank


class PromptSection(Section):
    """`[prompt]`: how a row becomes a prompt, and what the `format` reward expects of the answer."""

    system: str = ""
    """System message; empty sends none."""
    template: str = "{{ question }}"
    """Jinja template of the user message; `question` is the row's question."""
    format: Literal["boxed", "answer"] = "boxed"
    """Where the `format` reward looks for the answer: in a `boxed` LaTeX command or between `<answer>` tags."""


class LogSection(Section):
    """`[log]`: what is written while training."""

    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """Weights & Biases: `auto` is online when WANDB_API_KEY is set and offline otherwise."""
    project: str = "covt"
    """Weights & Biases project."""
    every: int = Field(default=10, ge=1)
    """Steps between lines of metrics."""
    save_every: int = Field(default=0, ge=0)
    """Steps between checkpoints; 0 saves at the end of each stage only."""
    keep: int = Field(default=2, ge=1)
    """Newest checkpoints to keep; the best one is kept besides."""
