"""Control tokens in a row's text are refused by the row's id; text that only looks like one is text."""

from __future__ import annotations

import pytest
from model_samples import make_row

from covt_data.schema import Step
from covt_model.encoding.encode import Encoder
from covt_model.encoding.prompt import PromptConfig
from covt_model.model_errors import ModelError

CONTROL = ["<|latent_pad|>", "<|latent_start|>", "<|latent_end|>", "<|im_end|>", "<|im_start|>", "<|image_pad|>"]


@pytest.fixture(scope="module")
def encoder(tiny) -> Encoder:
    return Encoder(tiny, PromptConfig(template="{{ question }} {{ options | join(' ') }}"))


@pytest.mark.parametrize("token", CONTROL)
def test_in_a_reasoning_step(encoder, token):
    row = make_row(3)
    steps = [*row.steps[:-1], Step(type="text", text=f"I write {token} here.")]
    with pytest.raises(ModelError, match="row-3") as caught:
        encoder.encode(row.model_copy(update={"steps": steps}))
    assert token in str(caught.value) and "step 2" in str(caught.value)
    assert "without" in caught.value.remedy


@pytest.mark.parametrize("token", CONTROL)
def test_in_a_question_or_an_option(encoder, token):
    row = make_row(4)
    for changes, place in (
        ({"question": f"<image>What is {token}?"}, "question"),
        ({"options": ["A", f"B{token}"]}, "option 1"),
    ):
        with pytest.raises(ModelError, match="row-4") as caught:
            encoder.encode_prompt(row.model_copy(update=changes))
        assert token in str(caught.value) and place in str(caught.value)


@pytest.mark.parametrize("text", ["<|latent_pad", "<| im_end |>", "im_end", "a < b | c > d", "<|nothing|>", "<image"])
def test_text_that_only_looks_like_one_is_encoded(encoder, text):
    row = make_row(5)
    steps = [*row.steps[:-1], Step(type="text", text=text)]
    sample = encoder.encode(row.model_copy(update={"steps": steps, "question": f"<image>{text}"}))
    assert sample.spans == encoder.encode(row).spans or len(sample.spans) == 1


def test_markers_and_pads_of_the_encoder_itself_are_no_fault(encoder):
    assert len(encoder.encode(make_row(6, segments=3)).spans) == 3
