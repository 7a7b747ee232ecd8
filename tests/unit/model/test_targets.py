"""Targets of a batch: the crops' own features under focus, the selected ones under ilvr."""

from __future__ import annotations

import pytest
import torch
from model_samples import make_row

from covt_model.encoding.batch import collate
from covt_model.encoding.encode import Encoder
from covt_model.encoding.vision_features import VisionFeatures
from covt_model.latent_config import LatentConfig
from covt_model.latents.feedback import feedback
from covt_model.latents.input_embeddings import input_embeds
from covt_model.model_errors import ModelError
from covt_model.targets.alignment_targets import make_targets
from covt_model.targets.momentum_teacher import Teacher
from covt_model.targets.selection import mean_runs, select_targets


def prepared(tiny, tiny_model, selection, rows):
    encoder = Encoder(tiny, selection=selection)
    samples = [encoder.encode(row) for row in rows]
    batch = collate(samples, pad_id=encoder.pad_id, image_pad_id=encoder.image_pad_id)
    features = VisionFeatures(tiny_model.model.visual, encoder.settings)
    helpers = features([picture for row in batch.helpers for segment in row for picture in segment])
    images = features([picture for row in batch.pictures for picture in row])
    return batch, helpers, images


def test_focus_targets_are_the_rms_normalized_features_of_the_crops(tiny, tiny_model):
    latent = LatentConfig.read(tiny)
    batch, helpers, _ = prepared(tiny, tiny_model, "focus", [make_row(1), make_row(2, segments=2)])
    targets = make_targets(batch, latent, helpers, selection="focus").values
    assert targets.shape == (12, 64)
    expected = torch.cat(helpers)
    expected = expected / expected.pow(2).mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(targets, expected, rtol=1e-4, atol=1e-5)


def test_ilvr_targets_follow_the_query_chain_of_each_row(tiny, tiny_model):
    latent = LatentConfig.read(tiny)
    rows = [make_row(3, cells=3, helpers=2), make_row(4, cells=3, segments=2, helpers=1)]
    batch, helpers, images = prepared(tiny, tiny_model, "ilvr", rows)
    options = {"teacher": tiny_model.model.language_model, "embed_tokens": tiny_model.get_input_embeddings()}

    def run(keep, **changes):
        return make_targets(keep, latent, **{"selection": "ilvr", "image_features": images, **options, **changes})

    targets = run(batch, helper_features=helpers, temperature=0.05)
    assert targets.values.shape == (12, 64)
    assert [[len(segment) for segment in row] for row in targets.chosen] == [[2], [1, 1]]
    features = [helpers[0], helpers[1]]
    first = targets.chosen[0][0]
    for helper, indices, part in zip(features, first, targets.values[:4].split(2), strict=True):
        torch.testing.assert_close(part[: len(indices)], feedback(helper[indices], "rms"))
    # The row alone has the same targets: nothing leaks between rows, and padding does not count.
    encoder = Encoder(tiny, selection="ilvr")
    single = collate([encoder.encode(rows[0])], pad_id=encoder.pad_id, image_pad_id=encoder.image_pad_id)
    alone = run(single, helper_features=helpers[:2], image_features=images[:1], temperature=0.05)
    torch.testing.assert_close(alone.values, targets.values[:4], rtol=1e-4, atol=1e-4)


def test_a_segments_query_takes_the_text_since_the_last_one_and_what_was_selected(tiny, tiny_model, monkeypatch):
    """Undoing the means of both segments' queries leaves the same user context; hidden states are Transformers' own."""
    latent = LatentConfig.read(tiny)
    batch, helpers, images = prepared(tiny, tiny_model, "ilvr", [make_row(7, cells=3, segments=2, helpers=1)])
    embed_tokens, language_model = tiny_model.get_input_embeddings(), tiny_model.model.language_model
    seen = []

    def recorded(helpers_, query, size, **options):
        result = select_targets(helpers_, query, size, **options)
        seen.append((query, result[2]))
        return result

    monkeypatch.setattr("covt_model.targets.alignment_targets.select_targets", recorded)
    make_targets(
        batch, latent, helpers, selection="ilvr", teacher=language_model, embed_tokens=embed_tokens,
        image_features=images,
    )  # fmt: skip
    stand_ins = torch.cat([feedback(mean_runs(helper, latent.size), "rms") for helper in helpers])
    with torch.no_grad():
        embeds = input_embeds(embed_tokens, batch, images, stand_ins)
        hidden = language_model(inputs_embeds=embeds, position_ids=batch.position_ids).last_hidden_state[0]
    (first, end), (second, _) = batch.spans[0]
    before, between = hidden[batch.prompt_lengths[0] : first - 1].mean(0), hidden[end + 1 : second - 1].mean(0)
    (query, selected), (next_query, _) = seen
    torch.testing.assert_close(2 * query - before, 3 * next_query - between - selected.mean(0), rtol=1e-4, atol=1e-4)


def test_ilvr_targets_depend_on_the_question(tiny, tiny_model):
    """The query comes from the prompt: another question selects other features of the same helper image."""
    latent = LatentConfig.read(tiny)
    row = make_row(5, cells=4, helpers=1)
    chosen = []
    for question in ("<image>Follow the arrows. Where do you end?", "<image>" + "B1 look answer " * 6):
        batch, helpers, images = prepared(tiny, tiny_model, "ilvr", [row.model_copy(update={"question": question})])
        targets = make_targets(
            batch, latent, helpers, selection="ilvr", teacher=tiny_model.model.language_model,
            embed_tokens=tiny_model.get_input_embeddings(), image_features=images,
        )  # fmt: skip
        chosen.append(targets.chosen[0][0][0].tolist())
    assert chosen[0] != chosen[1]


def test_helper_counts_that_do_not_divide_the_latents_are_refused(tiny, tiny_model):
    latent = LatentConfig.read(tiny)
    batch, helpers, images = prepared(tiny, tiny_model, "ilvr", [make_row(6, helpers=3)])
    with pytest.raises(ModelError, match="row-6, segment 0: 3 helper images do not divide 4"):
        make_targets(
            batch, latent, helpers, selection="ilvr", teacher=tiny_model.model.language_model,
            embed_tokens=tiny_model.get_input_embeddings(), image_features=images,
        )  # fmt: skip


def test_the_teacher_follows_the_closed_form_of_a_bf16_student():
    student = {"w": torch.tensor([1.0, -2.0], dtype=torch.bfloat16)}
    teacher = Teacher(student, decay=0.999)
    student["w"] += torch.tensor([1.0, 1.0], dtype=torch.bfloat16)
    for _ in range(100):
        teacher.update(student)
    expected = torch.tensor([2.0, -1.0]) - 0.999**100
    torch.testing.assert_close(teacher.average["w"], expected, rtol=0, atol=1e-5)
    frozen = Teacher(student, decay=1.0)
    student["w"] += 1
    frozen.update(student)
    assert frozen.average["w"].tolist() == [2.0, -1.0]


def test_swapping_twice_puts_both_back_and_state_survives():
    student = {"w": torch.tensor([1.0, 0.1])}
    teacher = Teacher({"w": torch.tensor([5.0, 0.3])}, decay=0.5)
    teacher.swap(student)
    assert torch.equal(student["w"], torch.tensor([5.0, 0.3]))
    teacher.swap(student)
    assert torch.equal(student["w"], torch.tensor([1.0, 0.1]))
    other = Teacher(student)
    other.load_state_dict(teacher.state_dict())
    assert torch.equal(other.average["w"], torch.tensor([5.0, 0.3]))
    with pytest.raises(ModelError, match="w is missing"):
        other.load_state_dict({})
    with pytest.raises(ModelError, match="decay"):
        Teacher(student, decay=1.5)
