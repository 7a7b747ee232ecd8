"""The recipe of a reinforcement training: every setting is described, and settings that exclude each other are said."""

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from covt_rl.rl_recipe import RlConfig


def sections_of(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models in a field's type, such as those of `tuple[MixSection, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from sections_of(part)


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        yield prefix + name, field
        for section in sections_of(field.annotation):
            yield from fields(section, f"{prefix}{name}.")


@pytest.mark.parametrize(("name", "field"), [pytest.param(name, field, id=name) for name, field in fields(RlConfig)])
def test_every_setting_is_described_in_a_whole_sentence(name: str, field: Any):
    text = (field.description or "").strip()
    assert text.endswith((".", ")")), name
    # `Of the entropy bonus.` would need the setting's name to be understood.
    assert not text.startswith("Of "), name


def test_a_batch_that_can_not_be_cut_is_refused():
    with pytest.raises(ValueError, match=r"rollout.prompts = 10 can't be cut into algorithm.mini_batches = 4"):
        RlConfig.model_validate({"rollout": {"prompts": 10}, "algorithm": {"mini_batches": 4}})
