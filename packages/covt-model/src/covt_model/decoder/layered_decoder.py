"""The language model run layer by layer, with masks, caches and checkpointing in our own hands.

Transformers' own forward rebuilds masks on each call, concatenates the cache for each position, and with its gradient
checkpointing on silently drops it. Here a batch is a few stretches of slots; attention comes from outside
(`covt_model.decoder.attention`), keys and values lie in one buffer per layer, and checkpointing recomputes one layer
of one stretch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint as checkpointed

from covt_model.decoder.attention import Attention, Causal, PackedCausal, Recorder, Step, VarlenCausal
from covt_model.decoder.deepstack import Deepstack
from covt_model.decoder.kv_buffer import LayerCache
from covt_model.decoder.layer_ops import RmsNorm, Rotate, SwiGlu, signed_sines
from covt_model.decoder.shared_linear import SharedLinear
from covt_model.decoder.step_layer import Slot, StepLayer, StepWeights
from covt_model.decoder.varlen_attention import KERNELS, check_attention
from covt_model.model_errors import ModelError

if TYPE_CHECKING:
    from covt_model.decoder.model_types import DecoderLayer, LanguageModel

Rotary = tuple[torch.Tensor, torch.Tensor]
Function = Callable[[torch.Tensor], torch.Tensor]


class Decoder:
    """One pass over a batch in one or more stretches, each attending to earlier ones.

    language_model: the model without its head; its `_attn_implementation` is one of
    `varlen_attention.ATTENTION`. slots: S, the
    most slots a row takes over all stretches; 0 where there is one stretch only. checkpoint: recompute a layer of a
    stretch in the backward pass instead of keeping its activations.
    """

    def __init__(self, language_model: LanguageModel, *, slots: int = 0, checkpoint: bool = False) -> None:
        config = language_model.config
        _check(language_model)
        self.model = language_model
        self.checkpoint = checkpoint
        self.kernel = KERNELS.get(config._attn_implementation)
        self.caches = [LayerCache(slots) for _ in language_model.layers]
        self.layers = [_Layer(layer, shared=slots > 0, recomputes=checkpoint) for layer in language_model.layers]  # pyright: ignore[reportArgumentType]
        self.norm = _norm(language_model.norm)

    def rotary(self, like: torch.Tensor, position_ids: torch.Tensor) -> Rotary:
        """Cosines and `signed_sines` [B, T, D] for positions [3, B, T], in the dtype of `like`."""
        cos, sin = self.model.rotary_emb(like, position_ids)
        return cos, signed_sines(sin)

    def run(
        self, hidden: torch.Tensor, rotary: Rotary, attend: Attention, deepstack: Deepstack | None = None
    ) -> torch.Tensor:
        """Final-norm hidden states [R, L, H] of the next stretch from its input embeddings [R, L, H]."""
        recompute = self.checkpoint and torch.is_grad_enabled()
        for number, (layer, cache) in enumerate(zip(self.layers, self.caches, strict=True)):
            if recompute and not layer.is_one_node(attend):
                hidden = checkpointed(layer, hidden, rotary, attend, cache, use_reentrant=False)  # pyright: ignore[reportAssignmentType]
            else:
                hidden = layer(hidden, rotary, attend, cache)
            if deepstack is not None:
                hidden = deepstack.add(hidden, number)
        return self.norm(hidden)


class _Layer:
    """A decoder layer's arithmetic over its modules' parameters.

    A module that something is hooked to or put in place of (ZeRO-3's gathering, an adapter) is called as it is.
    """

    def __init__(self, layer: DecoderLayer, *, shared: bool, recomputes: bool) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.head_size = attention.head_dim
        self.input_norm, self.mlp_norm = _norm(layer.input_layernorm), _norm(layer.post_attention_layernorm)
        self.query_norm, self.key_norm = (_norm(norm) if norm is not None else None for norm in _head_norms(layer))
        self.queries, self.keys, self.values, self.output, self.gate, self.up, self.down = (
            _linear(module, shared)
            for module in (
                attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj,
                mlp.gate_proj, mlp.up_proj, mlp.down_proj,
            )
        )  # fmt: skip
        self.step = self._step_weights(layer, recomputes) if shared else None

    def _step_weights(self, layer: DecoderLayer, recomputes: bool) -> StepWeights | None:
        """For single slots, where no module has to be called as it is."""
        norms = layer.input_layernorm, layer.post_attention_layernorm
        projections = self.queries, self.keys, self.values, self.output, self.gate, self.up, self.down
        if not all(isinstance(projection, SharedLinear) for projection in projections):
            return None
        if any(isinstance(n, nn.Module) for n in (self.input_norm, self.mlp_norm, self.query_norm, self.key_norm)):
            return None
        eps = norms[0].variance_epsilon
        query_norm, key_norm = (None if norm is None else norm.weight for norm in _head_norms(layer))
        return StepWeights(
            self.head_size, norms[0].weight, norms[1].weight, eps, *projections, query_norm, key_norm, recomputes
        )  # pyright: ignore[reportArgumentType]

    def is_one_node(self, attend: Attention) -> bool:
        """Whether the layer is a single node of the autograd graph, which decides what it keeps."""
        return self.step is not None and isinstance(attend, Step)

    def __call__(self, hidden: torch.Tensor, rotary: Rotary, attend: Attention, cache: LayerCache) -> torch.Tensor:
        if self.step is not None and isinstance(attend, Step):
            slot = Slot(rotary[0][:, 0], rotary[1][:, 0], attend.mask, attend.start, attend.first)
            return StepLayer.apply(self.step, slot, cache, hidden.squeeze(1), *self.step.links)[:, None]  # pyright: ignore[reportOptionalSubscript]
        normed = self.input_norm(hidden)
        queries, keys, values = (
            project(normed).unflatten(-1, (-1, self.head_size)) for project in (self.queries, self.keys, self.values)
        )
        if self.query_norm is not None and self.key_norm is not None:
            queries, keys = self.query_norm(queries), self.key_norm(keys)
        queries, keys = (Rotate.apply(part, *rotary) for part in (queries, keys))
        hidden = hidden + self.output(attend(queries, keys, values, cache))  # pyright: ignore[reportArgumentType]
        normed = self.mlp_norm(hidden)
        return hidden + self.down(SwiGlu.apply(self.gate(normed), self.up(normed)))  # pyright: ignore[reportArgumentType]


def _head_norms(layer: DecoderLayer) -> tuple[Any, Any]:
    """The norms over each head of queries and of keys, None where the architecture has none."""
    attention = layer.self_attn
    return getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)


def _is_bare(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return not any(hooks) and "forward" not in module.__dict__


def _linear(module: nn.Module, shared: bool) -> Function:
    if type(module) is not nn.Linear or not _is_bare(module):
        return module
    if shared and torch.is_grad_enabled():
        return SharedLinear(module)
    weight, bias = module.weight, module.bias
    return lambda x: functional.linear(x, weight, bias)


def _norm(module: nn.Module) -> Function:
    # Transformers has a class per family for the same norm. Those with another rule name their epsilon differently.
    kind = type(module)
    is_rms_norm = kind.__module__.startswith("transformers.") and kind.__name__.endswith("RMSNorm")
    if not is_rms_norm or not hasattr(module, "variance_epsilon") or not _is_bare(module):
        return module
    weight, eps = module.weight, module.variance_epsilon
    return lambda x: RmsNorm.apply(x, weight, eps)  # pyright: ignore[reportReturnType]


def _check(language_model: LanguageModel) -> None:
    config = language_model.config
    if getattr(language_model, "has_sliding_layers", False):
        raise ModelError("sliding-window attention is not supported", "set use_sliding_window to false")
    if config.hidden_act != "silu":
        raise ModelError(f"hidden_act is {config.hidden_act!r}", "use a checkpoint with hidden_act silu")
    if config.attention_dropout:
        raise ModelError(f"attention_dropout is {config.attention_dropout}", "set it to 0 in the checkpoint's config")
    check_attention(config._attn_implementation, language_model.norm.weight.dtype)
    if any(getattr(layer, "gradient_checkpointing", False) for layer in language_model.layers):
        raise ModelError(
            "Transformers' gradient checkpointing is on; it drops the keys and values that latents need",
            "call model.gradient_checkpointing_disable() and use checkpoint=True",
        )


def plain_forward(
    language_model: LanguageModel,
    embeds: torch.Tensor,
    position_ids: torch.Tensor,
    *,
    lengths: Sequence[int] | None = None,
    checkpoint: bool = False,
    recorder: Recorder | None = None,
    deepstack: Deepstack | None = None,
) -> torch.Tensor:
    """Final-norm hidden states [B, T, H] in one causal pass, for stage 1, the controls, and given latents.

    Rows are padded on the right. With `lengths`, embeds is [1, sum of lengths, H]: samples laid end to end, none of
    which sees another. recorder: gets the last layer's queries and keys. deepstack: visual features of further levels.
    """
    decoder = Decoder(language_model, checkpoint=checkpoint)
    rotary = decoder.rotary(embeds, position_ids)
    attend: Attention = Causal() if decoder.kernel is None else VarlenCausal(decoder.kernel)
    if lengths is not None:
        attend = PackedCausal(lengths, decoder.kernel)
    return decoder.run(embeds, rotary, attend if recorder is None else recorder.over(attend), deepstack)
