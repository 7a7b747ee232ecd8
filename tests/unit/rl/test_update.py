"""A step's optimizer steps, with a real tiny model in one process; the reference loop samples the completions."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image as PilImage

from covt_data.schema import Image, Row
from covt_model.checkpoints.split_load import load_split
from covt_model.checkpoints.tiny_checkpoint import build_tiny
from covt_model.encoding.encode import IGNORE, Encoder
from covt_model.encoding.vision_features import VisionFeatures
from covt_model.generation.latent_generation import generate
from covt_model.latent_config import LatentConfig
from covt_model.latents.policy import LatentPolicy
from covt_rl.rl_errors import RlError
from covt_rl.rl_recipe import RlConfig
from covt_rl.scoring.score_groups import ScoredGroup
from covt_rl.scoring.train_groups import TrainGroup, to_train_group
from covt_rl.updates.objective import GrpoObjective
from covt_rl.updates.step_plan import StepPlanner, train_samples
from covt_rl.updates.updater import Updater
from covt_rollout.client.completions import Completion
from covt_runtime.engine.zero_engine import StepResult

SAMPLES, TOKENS = 4, 24


class OneProcess:
    """The engine's interface over plain PyTorch: one of `world_size` ranks, whose gradients are the test's to add."""

    device = torch.device("cpu")

    def __init__(self, module: torch.nn.Module, rank: int = 0, world_size: int = 1, lr: float = 0.0) -> None:
        self.module, self.rank, self.world_size, self.lr = module, rank, world_size, lr
        self.gradients: list[torch.Tensor] = []
        self.skipped = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def step(self) -> StepResult:
        flat = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.module.parameters()]
        self.gradients.append(torch.cat([gradient.flatten() for gradient in flat]))
        norm = float(self.gradients[-1].norm())
        with torch.no_grad():
            for p, gradient in zip(self.module.parameters(), flat, strict=True):
                # As the real engine, which leaves the weights alone where the norm is not finite.
                if norm < float("inf"):
                    p -= self.lr * gradient
                p.grad = None
        return StepResult(len(self.gradients), self.lr, norm)

    def skip_step(self) -> StepResult:
        for p in self.module.parameters():
            p.grad = None
        self.skipped += 1
        return StepResult(self.skipped, self.lr, float("nan"))

    @contextmanager
    def forwards(self) -> Iterator[None]:
        yield

    def global_sum(self, value: Any) -> torch.Tensor:
        return torch.as_tensor(value, dtype=torch.float64)

    def trainable_shards(self) -> dict[str, torch.Tensor]:
        return {name: p.data for name, p in self.module.named_parameters() if p.requires_grad}

    def adopt_shards(self) -> None:
        """The shards are the parameters."""


class Setting:
    """A checkpoint, two prompts and four scored completions of each, sampled at temperature 1."""

    def __init__(self, folder: Path) -> None:
        generator = torch.Generator().manual_seed(0)
        pictures = [torch.randint(0, 256, (3, 56, 56), dtype=torch.uint8, generator=generator) for _ in range(2)]
        self.rows = [_row(number, picture) for number, picture in enumerate(pictures)]
        self.checkpoint = build_tiny(folder, [row.question for row in self.rows] * 4, pictures, latent_size=3, seed=1)
        self.encoder = Encoder(self.checkpoint)
        model, visual = load_split(self.checkpoint, torch.float32)
        self.features = VisionFeatures(visual, self.encoder.settings)
        self.notes: list[str] = []
        self.groups = [self._sample(cast("Any", model), number) for number in range(2)]

    def _sample(self, model: Any, number: int) -> TrainGroup:
        prompt = self.encoder.encode_prompt(self.rows[number])
        features = self.features(list(prompt.pictures)) * SAMPLES
        latent = LatentConfig.read(self.checkpoint)
        # A random model seldom begins a segment: the first seed at which it does.
        drawn = (
            generate(model, [prompt] * SAMPLES, features, latent, max_new_tokens=TOKENS, temperature=1.0, seed=seed)
            for seed in range(100)
        )
        answers = next(answers for answers in drawn if any(one.latent_spans for one in answers))
        completions = tuple(
            Completion(
                group_id=self.rows[number].id,
                sample_index=index,
                prompt_ids=tuple(prompt.expanded.tolist()),
                token_ids=tuple(one.token_ids),
                logprobs=tuple(one.logprobs),
                text="",
                finish_reason="length" if index == 0 else "stop",
                latent_spans=tuple(one.latent_spans),
            )
            for index, one in enumerate(answers)
        )
        group = ScoredGroup(
            row_id=self.rows[number].id,
            completions=completions,
            ablated=((),) * SAMPLES,
            totals=(1.0, 0.0, 0.5, 0.0),
            values={},
            latents=tuple(one.latents.numpy().astype(np.float32) for one in answers),
        )
        return replace(to_train_group(group, prompt), advantages=(1.0, -0.7, 0.4, -0.7))

    def updater(
        self, rank: int = 0, world_size: int = 1, lr: float = 0.0, **sections: Any
    ) -> tuple[Updater, OneProcess]:
        config = RlConfig.model_validate({"rollout": {"prompts": 2, "max_tokens": TOKENS}, **sections})
        model, _ = load_split(self.checkpoint, torch.float32)
        policy = LatentPolicy(model, self.encoder.latent, "latent")
        engine = OneProcess(GrpoObjective(policy, config.algorithm, 1.0, TOKENS), rank, world_size, lr)
        return Updater(cast("Any", engine), policy, self.encoder, self.features, config, self.notes.append), engine

    def gradient(self, rank: int = 0, world_size: int = 1, **sections: Any) -> torch.Tensor:
        updater, engine = self.updater(rank, world_size, **sections)
        updater.update(self.groups)
        (gradient,) = engine.gradients
        return gradient


def _row(number: int, picture: torch.Tensor) -> Row:
    buffer = io.BytesIO()
    PilImage.fromarray(picture.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return Row(
        id=f"r{number}",
        source="s",
        split="p",
        question="<image>Follow the arrows.",
        images=[Image(bytes=buffer.getvalue())],
        answer="B3",
        grader="text",
        metadata=json.dumps({}),
    )


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting(tmp_path_factory.mktemp("update") / "checkpoint")


@pytest.fixture(scope="module")
def whole(setting: Setting) -> torch.Tensor:
    return setting.gradient()


def assert_close(ours: torch.Tensor, expected: torch.Tensor) -> None:
    assert float((ours - expected).norm() / expected.norm()) < 1e-5


def test_the_trainer_computes_what_was_sampled(setting: Setting):
    assert any(one.latent_spans for group in setting.groups for one in group.completions)
    updater, _ = setting.updater()
    metrics = updater.update(setting.groups)
    assert metrics["latent/logprob_gap"] < 1e-5
    assert metrics["frac_trained"] == 1
    assert metrics["clip_ratio/region_mean"] == 0


def test_replayed_latents_give_the_same_probabilities(setting: Setting):
    metrics = setting.updater(algorithm={"latents": "replay"})[0].update(setting.groups)
    assert metrics["latent/logprob_gap"] < 1e-5


def test_ranks_and_micro_batches_add_up_to_one_batch(setting: Setting, whole: torch.Tensor):
    assert_close(setting.gradient(algorithm={"micro_tokens": 60}), whole)
    assert_close(setting.gradient(data={"micro_batch": 3}), whole)
    assert_close(sum((setting.gradient(rank, 3) for rank in range(3)), torch.zeros(())), whole)


def test_mini_batches_are_optimizer_steps_of_their_own(setting: Setting, whole: torch.Tensor):
    updater, engine = setting.updater(algorithm={"mini_batches": 2, "epochs": 2})
    updater.update(setting.groups)
    assert len(engine.gradients) == 4
    torch.testing.assert_close(engine.gradients[0], engine.gradients[2])
    counts = [sum(item.counted for item in train_samples(group)) for group in setting.groups]
    together = sum(g * n for g, n in zip(engine.gradients[:2], counts, strict=True)) / sum(counts)
    assert_close(cast("torch.Tensor", together), whole)


def test_the_reference_stays_where_the_policy_began(setting: Setting):
    updater, engine = setting.updater(lr=0.5, algorithm={"kl_weight": 0.1, "epochs": 2, "importance": "truncate"})
    before = {name: shard.clone() for name, shard in engine.trainable_shards().items()}
    first = updater.update(setting.groups)
    assert 0 < first["kl"] < 1
    assert first["latent/logprob_gap"] < 1e-5
    assert updater.reference is not None
    with updater.reference.active():
        for name, shard in engine.trainable_shards().items():
            torch.testing.assert_close(shard, before[name], rtol=0, atol=0)
    assert any((shard != before[name]).any() for name, shard in engine.trainable_shards().items())


def test_the_kl_of_the_reward_is_that_of_whole_completions(setting: Setting):
    updater, _ = setting.updater(algorithm={"kl_weight": 0.1, "kl_in": "reward", "kl_estimator": "k1"})
    assert max(abs(value) for group in updater.kl_penalties(setting.groups) for value in group) < 1e-3
    assert updater.reference is not None
    with torch.no_grad():
        for average in updater.reference._frozen.average.values():
            average.add_(0.01 * torch.randn(average.shape, generator=torch.Generator().manual_seed(0)))
    penalties = updater.kl_penalties(setting.groups)
    assert [len(group) for group in penalties] == [SAMPLES, SAMPLES]
    assert max(abs(value) for group in penalties for value in group) > 1e-2


def test_truncated_completions_are_left_out(setting: Setting, whole: torch.Tensor):
    masked = setting.updater(algorithm={"mask_truncated": True})[0]
    assert masked.update(setting.groups)["frac_trained"] == 6 / 8
    assert float((setting.gradient(algorithm={"mask_truncated": True}) - whole).norm()) > 0


def shifted(group: TrainGroup, by: float, samples: range = range(SAMPLES)) -> TrainGroup:
    """A group whose server says other log-probabilities of some samples."""
    completions = [
        replace(one, logprobs=one.logprobs - by if number in samples else one.logprobs)
        for number, one in enumerate(group.completions)
    ]
    return replace(group, completions=tuple(completions))


def test_a_step_on_which_the_server_disagrees_is_skipped_and_the_third_in_a_row_ends_the_run(setting: Setting):
    other = [shifted(group, 0.1) for group in setting.groups]
    updater, engine = setting.updater(lr=0.5)
    before = [shard.clone() for shard in engine.trainable_shards().values()]
    for steps in (1, 2):
        metrics = updater.update(other)
        assert metrics["latent/logprob_gap"] == pytest.approx(0.1, rel=0.3)
        assert (metrics["skipped/steps"], metrics["frac_trained"], engine.skipped) == (steps, 0, steps)
    assert "the step is skipped" in setting.notes[-1] and "trainer and server disagree" in setting.notes[-1]
    with pytest.raises(RlError, match=r"trainer and server disagree.*3rd step in a row") as caught:
        updater.update(other)
    assert "algorithm.gap_limit" in caught.value.remedy
    assert engine.gradients == []
    for ours, theirs in zip(before, engine.trainable_shards().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_step_on_which_every_completion_disagrees_is_skipped_too(setting: Setting):
    updater, engine = setting.updater()
    assert updater.update([shifted(group, 3.0) for group in setting.groups])["sampling/masked"] == 1
    assert (engine.skipped, len(engine.gradients)) == (1, 0)


def test_a_good_step_ends_the_trend(setting: Setting):
    other = [shifted(group, 0.1) for group in setting.groups]
    updater, engine = setting.updater()
    for groups in (other, other, setting.groups, other, other):
        updater.update(groups)
    assert (engine.skipped, len(engine.gradients)) == (4, 1)


def test_rollouts_of_older_weights_are_not_held_to_the_limit(setting: Setting):
    updater, engine = setting.updater()
    other = [shifted(group, 1.0) for group in setting.groups]
    assert updater.update(other, fresh=False)["latent/logprob_gap"] > 0.5
    assert len(engine.gradients) == 1


def test_single_completions_on_which_the_server_disagrees_are_left_out(setting: Setting):
    """As if they had no advantage: the counts of the batch stay."""
    wrong = range(1, 2)
    other = [shifted(group, 3.0, wrong) for group in setting.groups]
    updater, engine = setting.updater()
    metrics = updater.update(other)
    assert metrics["sampling/masked"] == 2 / 8
    assert metrics["latent/logprob_gap"] > 0.1
    without = [
        replace(group, advantages=tuple(0.0 if n in wrong else a for n, a in enumerate(group.advantages)))
        for group in setting.groups
    ]
    expected_updater, expected = setting.updater()
    expected_updater.update(without)
    assert_close(engine.gradients[0], expected.gradients[0])


def test_a_gradient_that_is_not_finite_is_refused_or_skipped(setting: Setting):
    poisoned = [replace(group, advantages=(float("nan"), *group.advantages[1:])) for group in setting.groups]
    with pytest.raises(RlError, match="gradient of optimizer step 1 is not finite") as caught:
        setting.updater()[0].update(poisoned)
    assert "data.on_bad=skip" in caught.value.remedy
    updater, engine = setting.updater(lr=0.5, data={"on_bad": "skip"})
    before = [shard.clone() for shard in engine.trainable_shards().values()]
    metrics = updater.update(poisoned)
    assert (metrics["skipped/steps"], metrics["frac_trained"]) == (1, 0)
    assert "loss" not in metrics and "grad_norm" not in metrics
    for ours, theirs in zip(before, engine.trainable_shards().values(), strict=True):
        assert torch.equal(ours, theirs)
    updater.update(poisoned)
    with pytest.raises(RlError, match="3rd step in a row"):
        updater.update(poisoned)


def test_nothing_to_learn_is_no_step(setting: Setting):
    flat = [replace(group, advantages=(0.0,) * SAMPLES) for group in setting.groups]
    updater, engine = setting.updater()
    assert updater.update(flat) == {"frac_trained": 0.0}
    assert engine.gradients == []


def test_what_is_planned_without_encoding_is_what_the_encoder_gives(setting: Setting):
    for item in [item for group in setting.groups for item in train_samples(group)]:
        sample = setting.encoder.completion(item.prompt, item.completion.token_ids.tolist())
        assert (item.length, item.segments) == (len(sample), len(sample.spans))
        assert item.counted == int((sample.labels != IGNORE).sum())


def test_a_completion_with_many_segments_slows_its_own_micro_batch_only(setting: Setting):
    """Where each module gathers its parameters, the k-th forwards of all ranks have the same number."""
    items = [item for group in setting.groups for item in train_samples(group)]
    most = max(item.segments for item in items)
    assert most > min(item.segments for item in items)
    config = RlConfig.model_validate({"data": {"micro_batch": 1}, "zero": {"gather": "module"}})
    found = [[micro.segments for micro in StepPlanner(config, rank, 2).micro_batches(items)] for rank in range(2)]
    assert found[0] == found[1]
    assert max(found[0]) == most and sum(found[0]) < most * len(found[0])
    alone = config.model_copy(update={"zero": config.zero.model_copy(update={"gather": "step"})})
    assert {micro.segments for micro in StepPlanner(alone, 0, 2).micro_batches(items)} == {None}
