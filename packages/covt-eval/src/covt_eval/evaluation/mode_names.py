"""The names of latent modes that an evaluation accepts."""

from __future__ import annotations

from collections.abc import Sequence

from covt_eval.eval_errors import EvalError
from covt_model.latents.latent_modes import EVALUATION_MODES


def check_mode_names(modes: Sequence[str]) -> None:
    """Raise EvalError if a mode is not one of `EVALUATION_MODES`."""
    for mode in modes:
        if mode not in EVALUATION_MODES:
            raise EvalError(f"there is no evaluation mode {str(mode)!r}", f"use some of {', '.join(EVALUATION_MODES)}")
