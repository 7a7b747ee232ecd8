"""The feedback rule: what a latent position gets as its input embedding."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

EPS = 1e-6


def feedback(hidden: torch.Tensor, normalize: str) -> torch.Tensor:
    """Map final-norm hidden states to input embeddings: `embed[t] = feedback(hidden[t-1])`.

    hidden: [..., H] → [..., H] in the same dtype. `normalize="rms"` divides by the root mean square over H,
    computed in fp32, without parameters; `"none"` (ILVR) returns `hidden` itself. The head is the identity.
    """
    if normalize == "none":
        return hidden
    if normalize != "rms":
        raise ValueError(f"normalize is {normalize!r}, not 'none' or 'rms'")
    wide = hidden.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPS)).to(hidden.dtype)


def noise(seed: int, ordinal: int, own: torch.Tensor) -> torch.Tensor:
    """Gaussian direction with the norm of `own` [H], for pad number `ordinal` of a sequence: the `noise` ablation.

    A function of seed, ordinal and that norm only, on every device and in the server alike.
    """
    direction = torch.from_numpy(noise_draw(seed, ordinal, own.shape[-1])).to(own.device)
    return (direction * (own.float().norm() / direction.norm())).to(own.dtype)


def noise_draw(seed: int, ordinal: int, hidden: int) -> npt.NDArray[np.float32]:
    """The draw [H] of `noise`, before it gets the norm of the latent that it replaces."""
    return np.random.default_rng((seed, ordinal)).standard_normal(hidden, dtype=np.float32)
