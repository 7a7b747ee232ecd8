"""Each further family: a server of its own decodes what stock Transformers decodes, before and after pushed weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from latent_oracle import Oracle
from server_tools import build_checkpoint, push
from test_server_variants import assert_parity, changed, serving

from covt_model.families import DEFAULT_FAMILY, known_families


@pytest.mark.parametrize("family", [name for name in known_families() if name != DEFAULT_FAMILY])
def test_a_family_is_served_as_the_reference_decodes(tmp_path: Path, family: str) -> None:
    """Greedy with latents, sampled, two pictures of different sizes, latents replaced by zeros."""
    checkpoint = build_checkpoint(tmp_path / "checkpoint", family=family)
    with serving(checkpoint) as server:
        assert_parity(server, Oracle(checkpoint))
        other = changed(checkpoint, tmp_path / "changed")
        push(server, other, 7)
        assert_parity(server, Oracle(other))
