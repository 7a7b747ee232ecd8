"""Targets of a batch: the crops' own features under focus, the selected ones under ilvr."""

from __future__ import annotations

import pytest
import torch
from model_samples import make_row, visual_arguments

from covt_model.encoding.batch import collate
from covt_model.encoding.encode import Encoder
from covt_model.encoding.vision_features import VisionFeatures
from covt_model.latent_config import LatentConfig
from covt_model.latents.feedback import feedback
from covt_model.latents.input_embeddings import input_embeds
from covt_model.latents.training_losses import alignment_loss
from covt_model.model_errors import ModelError
from covt_model.targets.alignment_targets import SelectionRule, make_targets
from covt_model.targets.momentum_teacher import Teacher
from covt_model.targets.selection import mean_runs, select_targets


def prepared(tiny, tiny_model, selection, rows):
    encoder = Encoder(tiny, selection=selection)
    samples = [encoder.encode(row) for row in rows]
    batch = collate(samples, pad_id=encoder.pad_id, image_pad_id=encoder.image_pad_id)
    features = VisionFeatures(tiny_model.model.visual, encoder.settings)
    helpers = features.merged([picture for row in batch.helpers for segment in row for picture in segment])
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

    cold = SelectionRule(temperature=0.05)
    targets = run(batch, helper_features=helpers, rule=cold)
    assert targets.values.shape == (12, 64)
    assert [[len(segment) for segment in row] for row in targets.chosen] == [[2], [1, 1]]
    features = [helpers[0], helpers[1]]
    first = targets.chosen[0][0]
    for helper, indices, part in zip(features, first, targets.values[:4].split(2), strict=True):
        torch.testing.assert_close(part[: len(indices)], feedback(helper[indices], "rms"))
    # The row alone has the same targets: nothing leaks between rows, and padding does not count.
    encoder = Encoder(tiny, selection="ilvr")
    single = collate([encoder.encode(rows[0])], pad_id=encoder.pad_id, image_pad_id=encoder.image_pad_id)
    alone = run(single, helper_features=helpers[:2], image_features=images[:1], rule=cold)
    torch.testing.assert_close(alone.values, targets.values[:4], rtol=1e-4, atol=1e-4)


@pytest.fixture
def queries(monkeypatch):
    """The query of each segment that `make_targets` selects for, with the features selected."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def recorded(helpers_, query, size, **options):
        result = select_targets(helpers_, query, size, **options)
        seen.append((query, result[2]))
        return result

    monkeypatch.setattr("covt_model.targets.alignment_targets.select_targets", recorded)
    return seen


def select_for(tiny, tiny_model, row, rule):
    """Targets of one row, with its batch and features."""
    batch, helpers, images = prepared(tiny, tiny_model, "ilvr", [row])
    targets = make_targets(
        batch, LatentConfig.read(tiny), helpers, selection="ilvr", teacher=tiny_model.model.language_model,
        embed_tokens=tiny_model.get_input_embeddings(), image_features=images, rule=rule,
    )  # fmt: skip
    return targets, batch, helpers, images


def own_hidden(tiny, tiny_model, batch, helpers, images, rule):
    """Transformers' own hidden states [T, H] of what the teacher is shown."""
    size = LatentConfig.read(tiny).size
    means = [feedback(mean_runs(helper, size), "rms") for helper in helpers]
    stand_ins = torch.cat(means) if rule.teacher_pads == "helpers" else None
    with torch.no_grad():
        embeds = input_embeds(tiny_model.get_input_embeddings(), batch, images, stand_ins)
        language_model = tiny_model.model.language_model
        shown = torch.zeros(batch.input_ids.shape, dtype=torch.bool)
        shown[0, batch.image_index] = True
        visual = visual_arguments(torch.cat(images), shown, 64)
        return language_model(inputs_embeds=embeds, position_ids=batch.position_ids, **visual).last_hidden_state[0]


@pytest.mark.parametrize("pads", ["embedding", "helpers"])
def test_a_segments_query_takes_the_text_since_the_last_one_and_what_was_selected(tiny, tiny_model, queries, pads):
    """Undoing the means of both segments' queries leaves the same user context; hidden states are Transformers' own."""
    rule = SelectionRule(teacher_pads=pads)
    _, batch, helpers, images = select_for(tiny, tiny_model, make_row(7, cells=3, segments=2, helpers=1), rule)
    hidden = own_hidden(tiny, tiny_model, batch, helpers, images, rule)
    (first, end), (second, _) = batch.spans[0]
    before, between = hidden[batch.prompt_lengths[0] : first - 1].mean(0), hidden[end + 1 : second - 1].mean(0)
    (query, selected), (next_query, _) = queries
    torch.testing.assert_close(2 * query - before, 3 * next_query - between - selected.mean(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("context", ["merger", "hidden"])
def test_the_context_weights_merged_features_or_hidden_states(tiny, tiny_model, queries, context):
    """Both averages lie within the range of what they average, in every dimension; they are different ones."""
    rule = SelectionRule(image_context=context)
    _, batch, helpers, images = select_for(tiny, tiny_model, make_row(8, cells=2, helpers=1), rule)
    hidden = own_hidden(tiny, tiny_model, batch, helpers, images, rule)
    prompt, (first, _) = batch.prompt_lengths[0], batch.spans[0][0]
    is_image = torch.zeros(prompt, dtype=torch.bool)
    is_image[batch.image_index] = True
    text = hidden[:prompt][~is_image].mean(0)
    user = 2 * queries[0][0] - hidden[prompt : first - 1].mean(0)
    seen = 2 * user - text
    values = {"merger": images[0][:, :64], "hidden": hidden[:prompt][is_image]}
    inside = {
        name: bool(((seen >= value.amin(0) - 1e-3) & (seen <= value.amax(0) + 1e-3)).all())
        for name, value in values.items()
    }
    assert inside == {"merger": context == "merger", "hidden": context == "hidden"}


@pytest.mark.parametrize("pads", ["embedding", "helpers"])
def test_with_the_pads_own_embedding_helper_images_reach_no_later_text(tiny, tiny_model, queries, pads):
    """Two rows that differ in their helper images alone; what was selected is left out of the second query."""
    row = make_row(9, cells=3, segments=2, helpers=1)
    other = make_row(10, cells=3, segments=2, helpers=1)
    steps = [a.model_copy(update={"images": b.images}) for a, b in zip(row.steps, other.steps, strict=True)]
    for one in (row, row.model_copy(update={"steps": steps})):
        select_for(tiny, tiny_model, one, SelectionRule(teacher_pads=pads))
    (_, selected), (query, _), (_, other_selected), (other_query, _) = queries
    same = torch.allclose(3 * query - selected.mean(0), 3 * other_query - other_selected.mean(0), atol=1e-4)
    assert same == (pads == "embedding")
    assert not torch.allclose(selected.mean(0), other_selected.mean(0), atol=1e-2)


def test_unaligned_pads_have_no_target_keep_their_embedding_and_do_not_count(tiny, tiny_model):
    row, cold = make_row(11, cells=3, helpers=1), {"temperature": 1e-3}
    repeated = select_for(tiny, tiny_model, row, SelectionRule(**cold))[0].values
    targets, batch, _, images = select_for(tiny, tiny_model, row, SelectionRule(unfilled="unaligned", **cold))
    has = targets.values.any(-1)
    assert has.tolist() == [True, False, False, False]
    assert torch.equal(repeated, targets.values[:1].expand(4, -1))
    embed_tokens = tiny_model.get_input_embeddings()
    with torch.no_grad():
        embeds = input_embeds(embed_tokens, batch, images, targets.values, has)[0, batch.pad_index]
        own = embed_tokens(batch.input_ids)[0, batch.pad_index]
    assert torch.equal(embeds[0], targets.values[0]) and torch.equal(embeds[1:], own[1:])
    hidden = torch.randn(1, batch.input_ids.shape[1], 64, generator=torch.Generator().manual_seed(1))
    loss = alignment_loss(hidden, batch.pad_index, targets.values, is_aligned=has)
    before = hidden[0, batch.pad_index[0] - 1]
    cosine = before @ targets.values[0] / before.norm() / targets.values[0].norm()
    assert loss.count == 1
    assert float(loss.total) == pytest.approx(1 - float(cosine), abs=1e-5)


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
