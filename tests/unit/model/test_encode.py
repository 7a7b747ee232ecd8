"""Encoded rows: ids, labels, spans, positions and pictures equal what Transformers makes of the same text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_samples import make_row, png

from covt_data.schema import Image
from covt_model.encoding.batch import collate
from covt_model.encoding.encode import IGNORE, Encoder
from covt_model.encoding.prompt import PromptConfig
from covt_model.model_errors import ModelError


@pytest.fixture(scope="module")
def encoder(tiny) -> Encoder:
    return Encoder(tiny)


@pytest.fixture(scope="module")
def processor(tiny):
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(tiny)


def test_a_sample_decodes_to_prompt_steps_and_end_of_turn(encoder):
    sample = encoder.encode(make_row(1, segments=2))
    text = encoder.tokenizer.decode(sample.input_ids)
    pads = "<|latent_start|>" + "<|latent_pad|>" * 4 + "<|latent_end|>"
    assert text == (
        "<|im_start|>user\n<|vision_start|>" + "<|image_pad|>" * 4 + "<|vision_end|>Follow the arrows. "
        "Where do you end?<|im_end|>\n<|im_start|>assistant\n"
        f"I look.{pads}Step 0: the answer is \\boxed{{B1}}.{pads}Step 1: the answer is \\boxed{{B2}}.<|im_end|>"
    )


def test_prompt_and_pads_carry_no_label_and_markers_do(encoder):
    sample = encoder.encode(make_row(1, segments=2))
    labelled = sample.labels != IGNORE
    assert not labelled[: sample.prompt_length].any()
    unlabelled = np.flatnonzero(~labelled[sample.prompt_length :]) + sample.prompt_length
    assert [t for start, end in sample.spans for t in range(start, end)] == unlabelled.tolist()
    assert (sample.input_ids[unlabelled] == encoder.latent.pad_id).all()
    for start, end in sample.spans:
        assert sample.labels[start - 1] == encoder.latent.start_id
        assert sample.labels[end] == encoder.latent.end_id
    assert (sample.labels[labelled] == sample.input_ids[labelled]).all()


def test_plain_mode_has_the_text_without_markers_and_pause_the_same_ids(encoder, tiny):
    row = make_row(1)
    plain = Encoder(tiny, mode="plain").encode(row)
    text = encoder.tokenizer.decode(plain.input_ids[plain.prompt_length :])
    assert text == "I look.\nStep 0: the answer is \\boxed{B1}.<|im_end|>"
    assert plain.spans == () and plain.helpers == ()
    pause = Encoder(tiny, mode="pause").encode(row)
    assert (pause.input_ids == encoder.encode(row).input_ids).all()
    assert pause.helpers == ()


def test_prompt_ids_pictures_and_grids_equal_the_processor(encoder, processor):
    row = make_row(3, cells=3)
    prompt = encoder.encode_prompt(row)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": row.question[7:]}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    expected = processor(text=[text], images=[prompt.pictures[0].pixels()], return_tensors="pt")
    assert prompt.expanded.tolist() == expected["input_ids"][0].tolist()
    assert prompt.grids == (tuple(expected["image_grid_thw"][0].tolist()),)
    assert (prompt.ids == encoder.image_pad_id).sum() == 1
    assert prompt.ids[prompt.ids != encoder.image_pad_id].tolist() == (
        prompt.expanded[prompt.expanded != encoder.image_pad_id].tolist()
    )


@st.composite
def pictured_rows(draw: st.DrawFn):
    """A row with up to three pictures of any size between pieces of text, and 1 to 3 latent segments."""
    sizes = draw(st.lists(st.tuples(st.integers(10, 130), st.integers(10, 130)), min_size=1, max_size=3))
    pieces = [draw(st.text("ab é数\n<|.", max_size=8)) for _ in range(len(sizes) + 1)]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    pictures = [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for size in sizes]
    row = make_row(1, segments=draw(st.integers(1, 3)))
    return row.model_copy(
        update={
            "question": "<image>".join(pieces),
            "images": [Image(bytes=png(picture)) for picture in pictures],
        }
    ), pictures


@settings(max_examples=25)
@given(case=pictured_rows())
def test_rows_with_several_pictures_equal_processor_and_rope_index(encoder, processor, tiny_model, case):
    """The same text through Transformers' processor: ids with expanded pictures, grids, and positions to the last."""
    row, pictures = case
    sample = encoder.encode(row)
    content = [{"type": "image"} if piece is None else {"type": "text", "text": piece} for piece in _pieces(row)]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    pads = "<|latent_start|>" + "<|latent_pad|>" * 4 + "<|latent_end|>"
    text += "".join(pads if step.type == "latent" else step.text for step in row.steps) + "<|im_end|>"
    expected = processor(text=[text], images=pictures, return_tensors="pt", return_mm_token_type_ids=True)
    assert sample.input_ids.tolist() == expected["input_ids"][0].tolist()
    positions, _ = tiny_model.model.get_rope_index(
        expected["input_ids"],
        mm_token_type_ids=expected["mm_token_type_ids"],
        image_grid_thw=expected["image_grid_thw"],
    )
    assert sample.position_ids.tolist() == positions[:, 0].tolist()


def _pieces(row):
    """Text of the question with None for each picture, without empty pieces."""
    texts = row.question.split("<image>")
    between = [part for text in texts for part in (None, text)][1:]
    return [part for part in between if part != ""]


def test_positions_equal_get_rope_index_with_token_types_and_differ_without(encoder, tiny_model):
    samples = [encoder.encode(make_row(4, cells=3)), encoder.encode(make_row(5, cells=2, segments=3))]
    for sample in samples:
        ids = torch.from_numpy(sample.input_ids)[None]
        grids = torch.tensor([[1, *[2 * int(((sample.input_ids == encoder.image_pad_id).sum()) ** 0.5)] * 2]])
        types = (ids == encoder.image_pad_id).int()
        expected, _ = tiny_model.model.get_rope_index(ids, mm_token_type_ids=types, image_grid_thw=grids)
        assert sample.position_ids.tolist() == expected[:, 0].tolist()
        flat, _ = tiny_model.model.get_rope_index(ids, mm_token_type_ids=torch.zeros_like(types))
        assert sample.position_ids.tolist() != flat[:, 0].tolist()


def test_pads_and_markers_take_text_positions(encoder):
    sample = encoder.encode(make_row(1))
    start, end = sample.spans[0]
    window = sample.position_ids[:, start - 1 : end + 1]
    assert (window == window[:1]).all()
    assert (np.diff(window[0]) == 1).all()


def test_focus_cuts_each_helper_picture_to_one_visual_token(encoder):
    row = make_row(6, cells=3)
    sample = encoder.encode(row)
    boxes = row.meta["focus"][0]
    whole = sample.pictures[0].pixels()
    for picture, (x0, y0, x1, y1) in zip(sample.helpers[0], boxes, strict=True):
        assert torch.equal(picture.pixels(), whole[:, y0:y1, x0:x1])


def test_a_completion_scores_sampled_tokens_and_not_forced_ones(encoder):
    latent = encoder.latent
    prompt = encoder.encode_prompt(make_row(1))
    completed = [7, latent.start_id, *[latent.pad_id] * 4, latent.end_id, 8, encoder.eos_id]
    sample = encoder.completion(prompt, completed)
    assert sample.labels[sample.prompt_length :].tolist() == [
        7, latent.start_id, *[IGNORE] * 5, 8, encoder.eos_id,
    ]  # fmt: skip
    cut = encoder.completion(prompt, completed[:4])
    assert cut.labels[cut.prompt_length :].tolist() == [7, latent.start_id, IGNORE, IGNORE]
    assert cut.spans == ((cut.prompt_length + 2, cut.prompt_length + 4),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": []}, "row-1 has no reasoning steps"),
        ({"metadata": "{}"}, "row-1.*no box"),
        ({"question": "<image>a <|image_pad|> too many"}, r"row-1.*control token <\|image_pad"),
    ],
)
def test_bad_rows_are_refused_by_id(encoder, change, message):
    row = make_row(1).model_copy(update=change)
    with pytest.raises(ModelError, match=message) as caught:
        encoder.encode(row)
    assert caught.value.remedy


def test_rows_past_the_length_limit_and_without_latent_steps_are_refused(tiny):
    row = make_row(1)
    with pytest.raises(ModelError, match=r"row-1 has \d+ tokens, more than max_length 20"):
        Encoder(tiny, max_length=20).encode(row)
    text_only = row.model_copy(update={"steps": [step for step in row.steps if step.type == "text"]})
    with pytest.raises(ModelError, match="row-1 has no latent step"):
        Encoder(tiny).encode(text_only)


def test_system_prompt_and_template_go_into_the_prompt(tiny):
    config = PromptConfig(system="Be brief.", template="{{ question }}\nAnswer in a box.")
    encoder = Encoder(tiny, config)
    text = encoder.tokenizer.decode(encoder.encode_prompt(make_row(1)).ids)
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<|vision_start|>")
    assert "end?\nAnswer in a box.<|im_end|>" in text
    with pytest.raises(ModelError, match=r"prompt\.template"):
        Encoder(tiny, PromptConfig(template="{question}")).encode_prompt(make_row(1))


def test_collate_pads_on_the_right_and_indexes_the_flat_batch(encoder):
    samples = [encoder.encode(make_row(1)), encoder.encode(make_row(2, cells=3, segments=2))]
    batch = collate(samples, pad_id=encoder.pad_id, image_pad_id=encoder.image_pad_id, multiple=8)
    assert batch.input_ids.shape[1] % 8 == 0
    assert batch.attention_mask.sum(1).tolist() == [len(sample) for sample in samples]
    flat = batch.input_ids.reshape(-1)
    assert (flat[batch.pad_index] == encoder.latent.pad_id).all() and len(batch.pad_index) == 12
    assert (flat[batch.image_index] == encoder.image_pad_id).all() and len(batch.image_index) == 4 + 9
    assert batch.max_segments == 2
    assert batch.supervised == sum(int((sample.labels != IGNORE).sum()) for sample in samples)
