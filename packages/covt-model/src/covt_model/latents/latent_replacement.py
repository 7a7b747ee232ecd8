"""What a latent position is fed in place of its own latent: the implementation of each wire mode."""

from __future__ import annotations

import torch

from covt_model.latents.feedback import noise
from covt_model.latents.latent_modes import LatentMode


def replacement_latent(
    mode: LatentMode, own: torch.Tensor, ordinal: int, *, given: torch.Tensor | None = None, seed: int = 0
) -> torch.Tensor:
    """The vector that takes the place of a pad's own latent.

    Args:
        mode: one of `WIRE_MODES`.
        own: [H], the pad's own latent; under `none` the caller passes the pad's token embedding.
        ordinal: number of the pad in its sequence, from 0.
        given: [n, H], for `given`: pad i gets row i mod n.
        seed: for `noise`.

    Returns:
        [H], with the dtype and on the device of `own`.

    Raises:
        ValueError: `mode` is not a wire mode, or `given` has no latents.
    """
    match mode:
        case LatentMode.KEEP | LatentMode.NONE:
            return own
        case LatentMode.ZEROS:
            return torch.zeros_like(own)
        case LatentMode.NOISE:
            return noise(seed, ordinal, own)
        case LatentMode.GIVEN:
            if given is None:
                raise ValueError("mode 'given' has no latents")
            return given[ordinal % len(given)].to(own)
        case _:
            raise ValueError(f"{str(mode)!r} is not a mode of a request; it is sent as {str(mode.wire_mode)!r}")
