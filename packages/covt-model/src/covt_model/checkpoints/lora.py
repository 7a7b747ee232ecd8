"""LoRA (arXiv 2106.09685) by peft on the language model, and the latent tokens' rows trained beside it.

The markers' embeddings are new: with adapters alone they would stay as they were drawn. Each of their rows gets a
trained difference, added to the embedding's output and to the head's logits, so that the big matrices stay frozen.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from covt_model.checkpoints.computed_tensors import Cast, MergedMatrix, RowsAdded, whole
from covt_model.checkpoints.hf_folder import SourceWeights, checkpoint_name
from covt_model.checkpoints.shard_writer import Stored
from covt_model.latent_config import LatentConfig
from covt_model.latents.heads import ATTRIBUTE
from covt_model.latents.output_head import Rows, Scoring, ScoringHead, scoring_head
from covt_model.model_errors import ModelError

Parameter = torch.Tensor | Stored | None


class RowEmbedding(nn.Module):
    """An embedding with trained differences [n, H] for the rows `ids`."""

    def __init__(self, base: nn.Module, ids: tuple[int, ...], rows: nn.Parameter) -> None:
        super().__init__()
        self.base = base
        self.rows = rows
        self.ids = ids

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """[...] → [..., H]."""
        chosen = input_ids[..., None] == input_ids.new_tensor(self.ids)
        return self.base(input_ids) + chosen.to(self.rows.dtype) @ self.rows


class RowHead(ScoringHead):
    """An output head with trained differences [n, H] for the rows `ids`."""

    def __init__(self, base: nn.Module, ids: tuple[int, ...], rows: nn.Parameter) -> None:
        super().__init__()
        self.base = scoring_head(base)
        self.rows = rows
        self.ids = ids

    def forward(self, hidden: torch.Tensor, scoring: Scoring | None = None) -> Any:
        """Logits [..., vocabulary] of [..., H]; with `scoring` the scores of [N, H]."""
        if scoring is not None:
            return self.base(hidden, scoring, Rows(self.ids, self.rows))
        index = torch.tensor(self.ids, device=hidden.device)
        return self.base(hidden).index_add(-1, index, hidden @ self.rows.T)


def add_lora(model: Any, latent: LatentConfig, *, rank: int, alpha: float, targets: Sequence[str]) -> None:
    """Freeze a model and give its language model adapters and trainable latent rows, in place.

    targets: names of linear layers. Both products and rows begin at zero: the model first computes what it did.

    Raises:
        ModelError: a target that the language model doesn't have.
    """
    from peft import LoraConfig, inject_adapter_in_model

    language = model.model.language_model
    names = {name.rpartition(".")[2] for name, part in language.named_modules() if isinstance(part, nn.Linear)}
    unknown = sorted(set(targets) - names)
    if unknown:
        raise ModelError(
            f"lora.targets: the language model has no {unknown[0]}", f"use some of {', '.join(sorted(names))}"
        )
    model.requires_grad_(False)
    inject_adapter_in_model(
        LoraConfig(
            r=rank,
            lora_alpha=alpha,  # pyright: ignore[reportArgumentType]  # a factor: any number will do
            target_modules=list(targets),
        ),
        language,
    )
    head = getattr(model, ATTRIBUTE, None)
    if isinstance(head, nn.Module):
        head.requires_grad_(True)
    ids = latent.token_ids
    embedding, output = language.embed_tokens, model.lm_head
    tied = embedding.weight is output.weight
    rows = nn.Parameter(torch.zeros(len(ids), language.config.hidden_size, dtype=embedding.weight.dtype))
    language.embed_tokens = RowEmbedding(embedding, ids, rows)
    model.lm_head = RowHead(output, ids, rows if tied else nn.Parameter(torch.zeros_like(rows)))


class FrozenWeights:
    """The frozen parameters of a model with `add_lora`, in the folder that it was made from.

    `frozen(name, "bf16")` is the parameter of this name, to be read in pieces in this dtype.
    """

    def __init__(self, base: Path | str) -> None:
        self._weights = SourceWeights(base)

    def __call__(self, name: str, dtype: str) -> Stored:
        own = checkpoint_name(name.replace(".base_layer.", ".").replace(".base.weight", ".weight"))
        return Cast(self._weights.stored(own), {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype])


def merged(
    named: Iterable[tuple[str, Parameter]], scale: float, latent: LatentConfig
) -> Iterator[tuple[str, Parameter]]:
    """Parameters of a model with `add_lora` as those of a plain one: W + scale · B·A, and rows plus differences.

    scale: alpha / rank. named: as `named_parameters` orders them, tensors on the main rank and None elsewhere; or
    tensors that lie in files, whose sums are then made as they are read. A plain model's pass unchanged. Sums are made
    in fp32.
    """
    waiting: dict[str, Parameter] = {}
    ids = list(latent.token_ids)
    for name, tensor in named:
        module, _, rest = name.rpartition(".base_layer.")
        if module and rest == "weight":
            waiting[module] = tensor
        elif module:
            yield f"{module}.{rest}", tensor
        elif ".lora_A." in name:
            waiting[name] = tensor
        elif ".lora_B." in name:
            owner = name.partition(".lora_B.")[0]
            low, weight = waiting.pop(name.replace(".lora_B.", ".lora_A.")), waiting.pop(owner)
            yield f"{owner}.weight", _sum(weight, tensor, low, scale)
        elif name.endswith(".rows"):
            waiting[name] = tensor
        elif name.endswith(".base.weight"):
            owner = name.removesuffix(".base.weight")
            yield f"{owner}.weight", _with_rows(tensor, waiting.pop(f"{owner}.rows"), ids)
        else:
            yield name, tensor
    assert not waiting, f"parameters without their counterparts: {sorted(waiting)}"


def _sum(weight: Parameter, high: Parameter, low: Parameter, scale: float) -> Parameter:
    if weight is None or high is None or low is None:
        return None
    if not isinstance(weight, torch.Tensor):
        return MergedMatrix(weight, whole(high), whole(low), scale)
    return (weight.float() + scale * (whole(high).float() @ whole(low).float())).to(weight.dtype)


def _with_rows(weight: Parameter, rows: Parameter, ids: list[int]) -> Parameter:
    if weight is None or rows is None:
        return None
    if not isinstance(weight, torch.Tensor):
        return RowsAdded(weight, whole(rows), tuple(ids))
    result = weight.clone()
    result[ids] = (weight[ids].float() + whole(rows).float()).to(weight.dtype)
    return result
