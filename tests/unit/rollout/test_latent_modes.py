"""The table of latent modes: everything that names modes derives them from it, and every mode is implemented."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from covt.main import app
from covt_eval.report.content import labels
from covt_model.latent_config import LatentConfig
from covt_model.latents.latent_modes import (
    ABLATION_MODES,
    CONTINUATION_MODES,
    EVALUATION_MODES,
    WIRE_MODES,
    LatentMode,
)
from covt_model.latents.latent_replacement import replacement_latent
from covt_rl.rl_recipe import RewardsSection
from covt_rollout.branches.branch_points import find_branch_point
from covt_rollout.client.completions import Completion
from covt_rollout.vllm_plugin import cache_salt, latent_args
from covt_rollout.vllm_plugin.protocol import read_options
from covt_rollout.vllm_plugin.request_latents import replacement

START, PAD, END = 100, 101, 102
LATENT = LatentConfig(start_id=START, pad_id=PAD, end_id=END, size=2)
LATENTS = np.arange(8, dtype=np.float32).reshape(2, 4) + 1
PARENT = Completion(
    group_id="p", sample_index=0, prompt_ids=(1,), token_ids=(7, START, PAD, PAD, END, 8), logprobs=(-0.5,) * 6,
    text="", finish_reason="stop", latent_spans=((2, 4),),
)  # fmt: skip


def test_the_names_on_the_wire_and_in_files_are_fixed() -> None:
    assert [str(mode) for mode in LatentMode] == [
        "keep", "zeros", "noise", "shuffle", "given", "drop_latents", "drop_span", "none",
    ]  # fmt: skip
    assert WIRE_MODES == ("keep", "zeros", "noise", "given", "none")
    assert CONTINUATION_MODES == ("keep", "zeros", "noise", "shuffle", "drop_latents", "drop_span")
    assert ABLATION_MODES == ("zeros", "noise", "shuffle", "drop_latents", "drop_span")
    assert EVALUATION_MODES == ("keep", "zeros", "noise", "shuffle", "drop_latents", "drop_span", "none")


@pytest.mark.parametrize("mode", LatentMode)
def test_every_mode_says_what_it_is(mode: LatentMode) -> None:
    assert mode.label and mode.description and mode.participle
    assert mode.wire_mode.on_wire
    assert mode in (*WIRE_MODES, *CONTINUATION_MODES, *EVALUATION_MODES)
    assert not (mode.edits_ids and mode.salted), "the ids of an edited continuation tell all that was fed"


@pytest.mark.parametrize("mode", WIRE_MODES)
def test_every_mode_of_a_request_is_checked_salted_and_fed(mode: LatentMode) -> None:
    options = read_options(latent_args(mode, LATENTS, seed=3))
    assert options.mode is mode
    assert (cache_salt(mode, LATENTS, 3) is not None) == mode.salted
    own = torch.tensor([3.0, 0.0, 4.0, 0.0])
    fed = replacement(options, 1, own)
    assert fed.shape == own.shape
    assert torch.equal(fed, replacement_latent(mode, own, 1, given=torch.from_numpy(LATENTS), seed=3))
    assert torch.equal(fed, own) != mode.replaces_latents


@pytest.mark.parametrize("mode", [mode for mode in LatentMode if not mode.on_wire])
def test_other_modes_are_refused_in_a_request(mode: LatentMode) -> None:
    with pytest.raises(ValueError, match=f"latent_mode is '{mode}'"):
        latent_args(str(mode))
    with pytest.raises(ValueError, match=f"sent as '{mode.wire_mode}'"):
        replacement_latent(mode, torch.ones(4), 0)


@pytest.mark.parametrize("mode", CONTINUATION_MODES)
def test_every_continuation_mode_asks_for_what_it_needs_and_edits_what_it_says(mode: LatentMode) -> None:
    own = LATENTS if mode.needs_own_latents else None
    foreign = LATENTS if mode.needs_foreign_latents else None
    point = find_branch_point(PARENT, mode, LATENT, max_tokens=9, own=own, foreign=foreign)
    assert point is not None
    assert point.fed.mode == mode.wire_mode
    assert (point.fed.latents is not None) == (mode.needs_own_latents or mode.needs_foreign_latents)
    removed = LATENT.size + mode.dropped_markers if mode.edits_ids else 0
    assert len(point.prefix) == 5 - removed


def test_the_recipe_accepts_every_ablation_and_nothing_else() -> None:
    for mode in LatentMode:
        values = {"ablation": str(mode)}
        if mode in ABLATION_MODES:
            section = RewardsSection.model_validate(values)
            assert section.ablation is mode
            assert section.model_dump(mode="json")["ablation"] == str(mode)
        else:
            with pytest.raises(ValueError, match="one of zeros, noise, shuffle, drop_latents, drop_span"):
                RewardsSection.model_validate(values)


def test_the_command_line_names_every_evaluation_mode_and_the_report_labels_it() -> None:
    text = CliRunner().invoke(app, ["eval", "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    for mode in EVALUATION_MODES:
        assert mode in text
        assert labels.MODES[str(mode)] == mode.label
        assert labels.MODE_NOTES[str(mode)] == mode.description
    assert len({mode.label for mode in LatentMode}) == len(LatentMode)
