"""What a request's latent fields mean, for both model runners."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from covt_model.latent_config import LatentConfig
from covt_model.latents.latent_modes import LatentMode
from covt_model.latents.latent_replacement import replacement_latent
from covt_model.model_errors import ModelError
from covt_rollout.vllm_plugin.engine_settings import EngineSettings
from covt_rollout.vllm_plugin.protocol import LatentOptions, read_options

if TYPE_CHECKING:
    from vllm import SamplingParams

log = logging.getLogger("vllm.covt_latent")


def latent_key(params: SamplingParams | None) -> str | None:
    """The name under which the request's latents are kept."""
    return params.extra_args.get("latent_key") if params is not None and params.extra_args else None


def choice_index(req_id: str) -> int:
    """vLLM names the requests of `n > 1` samples `<index>_<id>`; a single sample has no index."""
    index, separator, _ = req_id.partition("_")
    return int(index) if separator and index.isdigit() else 0


def check_params(params: SamplingParams) -> None:
    """Check a request's latent fields in the API server; raises ValueError, which it answers with HTTP 400."""
    try:
        read_options(params.extra_args)
    except ModelError as error:
        raise ValueError(f"{error}: {error.remedy}") from error


def stop_token(params: SamplingParams) -> int | None:
    """The token that ends a completion; None where nothing but its length does."""
    stop = params.eos_token_id
    return min(params.all_stop_token_ids, default=None) if stop is None else stop


def request_options(params: SamplingParams | None, settings: EngineSettings) -> LatentOptions:
    """The latent fields of a request that the API server has checked, or of the offline `LLM` class."""
    options = read_options(params.extra_args if params else None)
    if options.data is not None and options.data.shape[1] != settings.hidden:
        # The API server refuses such requests. The offline `LLM` class gets here, and a step must not raise.
        log.error("a request's latents have %d dimensions: its pads are fed zeros", options.data.shape[1])
        return LatentOptions(LatentMode.ZEROS, key=options.key)
    return options


def feeds(options: LatentOptions, latent: LatentConfig) -> bool:
    """Whether pads are fed anything but their own token embedding."""
    return latent.head != "none" if options.mode is LatentMode.KEEP else options.mode is not LatentMode.NONE


def replacement(options: LatentOptions, ordinal: int, own: torch.Tensor) -> torch.Tensor:
    """The vector that pad number `ordinal` of the sequence gets in place of its own latent `own` [H]."""
    given = None if options.data is None else torch.from_numpy(options.data)
    return replacement_latent(options.mode, own, ordinal, given=given, seed=options.seed)


def prompt_latents(
    options: LatentOptions,
    pads: int,
    latent: LatentConfig,
    like: torch.Tensor,
    pad_embedding: Callable[[], torch.Tensor],
) -> torch.Tensor:
    """What the pads of a prompt are fed.

    Args:
        options: the request's latent fields.
        pads: in the prompt, at least 1.
        latent: the checkpoint's settings.
        like: a tensor [..., H] with the dtype and the device of the result.
        pad_embedding: returns the pad's token embedding [1, H].

    Returns:
        [pads, H].
    """
    if options.data is not None:
        own = torch.from_numpy(options.data[np.arange(pads) % len(options.data)]).to(like)
    elif options.mode is LatentMode.ZEROS or latent.head == "none":
        own = pad_embedding().to(like).expand(pads, -1)
    else:
        # The API server refuses such requests; only the offline `LLM` class gets here.
        log.error("a prompt has latent pads but no latents: the pads are fed zeros")
        own = like.new_zeros(pads, like.shape[-1])
    if options.mode in (LatentMode.KEEP, LatentMode.GIVEN):
        return own
    return torch.stack([replacement(options, i, row) for i, row in enumerate(own)])
