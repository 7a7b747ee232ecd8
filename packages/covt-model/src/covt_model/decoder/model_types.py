"""The parts of a Transformers vision-language model that this package reads, for type checkers.

Transformers has one class per family and no common type with these attributes. Nothing here exists at run time but
names; annotations with them never choose a family.
"""

from __future__ import annotations

from typing import Any

from torch import nn


class DecoderLayer(nn.Module):
    """One layer of the language model."""

    self_attn: Any
    mlp: Any
    input_layernorm: Any
    post_attention_layernorm: Any


class LanguageModel(nn.Module):
    """The language model without its output head."""

    config: Any
    layers: Any
    norm: Any
    rotary_emb: Any
    has_sliding_layers: bool


class InnerModel(nn.Module):
    """Language model and vision tower."""

    language_model: LanguageModel
    visual: Any


class VisionLanguageModel(nn.Module):
    """The whole model with its output head."""

    config: Any
    generation_config: Any
    model: InnerModel
    lm_head: Any
    get_input_embeddings: Any
    get_output_embeddings: Any
    save_pretrained: Any
