"""Rows that threads prepare ahead of a step are the rows that the step would prepare itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from covt_data.ingest.prepare import prepare
from covt_data.schema import Step
from covt_data.store.prepared_set import PreparedSet
from covt_model.checkpoints.latent_checkpoint import load_model
from covt_model.encoding.encode import Encoder
from covt_model.encoding.vision_features import VisionFeatures
from covt_model.model_errors import ModelError
from covt_sft.batches.row_checks import RowChecks
from covt_sft.batches.sample_source import SampleSource, StepRows
from covt_sft.batches.step_loader import StepLoader
from covt_sft.planning.starting_checkpoint import build_tiny_checkpoint
from covt_sft.sft_errors import SftError
from covt_sft.sft_recipe import SftConfig, SftDataSection

BATCH, BAD = 4, 9
"""Rows per step, and a row that can't be trained on where a test spoils it: one of the third step."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loader")
    prepare("trace", folder / "data", options={"n_train": 20, "n_prompts": 1, "n_test": 1})
    build_tiny_checkpoint(SftConfig.model_validate({"data": {"path": "data"}}), folder / "data", folder / "model")
    return folder


class SumInProcess:
    """Sums tensors over ranks that are threads of this process."""

    def __init__(self, ranks: int) -> None:
        self.barrier = threading.Barrier(ranks, timeout=60)
        self.given: list[torch.Tensor] = []

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        self.given.append(tensor)
        self.barrier.wait()
        total = torch.stack(self.given[-self.barrier.parties :]).sum(0)
        self.barrier.wait()
        return total


def make_loader(
    place: Path,
    *,
    threads: int,
    rank: int = 0,
    share: Callable[[torch.Tensor], torch.Tensor] = lambda lengths: lengths,
    ranks: int = 1,
    bad: bool = False,
    keeps: bool = True,
    **section: object,
) -> StepLoader:
    rows = list(PreparedSet(place / "data").rows("train"))
    if bad:
        rows[BAD] = rows[BAD].model_copy(update={"steps": [Step(type="text", text="<|im_end|>")]})
    data = SftDataSection.model_validate({"batch_size": BATCH, "micro_batch": 2, **section})
    encoder = Encoder(place / "model", require_latent=False, max_length=data.max_length)
    checks = RowChecks(None, encoder.latent.size, selects=False)
    source = SampleSource(rows, encoder, data, checks, device=torch.device("cpu"))
    features = VisionFeatures(load_model(place / "model").model.visual, encoder.settings, keeps=keeps)

    def rows_of_step(number: int) -> list[int]:
        return [place % len(rows) for place in range(number * BATCH, (number + 1) * BATCH)]

    return StepLoader(source, features, rows_of_step, rank, ranks, share, threads=threads)


def described(rows: StepRows) -> list[tuple[object, ...]]:
    return [(m.batch.row_ids, m.batch.input_ids.tolist(), m.batch.spans, m.counted) for m in rows.micro_batches]


@pytest.mark.parametrize("batching", ["order", "length", "packed"])
@pytest.mark.parametrize("cache", [0.0, 1.0])
def test_any_number_of_threads_prepares_the_same_rows(place: Path, batching: str, cache: float):
    options = {"batching": batching, "sample_cache_gib": cache}
    with make_loader(place, threads=0, **options) as plain, make_loader(place, threads=3, **options) as ahead:
        for number in range(5):
            assert described(plain.deal(number)) == described(ahead.deal(number))


def test_a_step_out_of_order_is_prepared_then(place: Path):
    """As after a resume."""
    with make_loader(place, threads=0) as plain, make_loader(place, threads=2) as ahead:
        for number in (2, 3, 1, 1):
            assert described(plain.deal(number)) == described(ahead.deal(number))


def test_the_ranks_share_a_step(place: Path):
    found: dict[int, list[tuple[object, ...]]] = {}
    share = SumInProcess(2)
    # Made here, not in the threads: two that load a model at once leave Transformers without tied weights.
    loaders = [make_loader(place, threads=2, rank=rank, ranks=2, share=share) for rank in (0, 1)]

    def deal(rank: int) -> None:
        with loaders[rank] as loader:
            found[rank] = [described(loader.deal(number)) for number in range(4)]

    ranks = [threading.Thread(target=deal, args=(rank,)) for rank in (0, 1)]
    for thread in ranks:
        thread.start()
    for thread in ranks:
        thread.join()
    with make_loader(place, threads=0) as alone:
        for number in range(4):
            whole = {row for batch in described(alone.deal(number)) for row in batch[0]}
            parts = [row for rank in (0, 1) for batch in found[rank][number] if batch[3] for row in batch[0]]
            assert len(found[0][number]) == len(found[1][number])
            assert set(parts) == whole and len(parts) == BATCH


def test_rows_are_encoded_and_pictures_decoded_by_the_threads(place: Path, monkeypatch: pytest.MonkeyPatch):
    seen: set[str] = set()
    encode, decode = Encoder.encode, VisionFeatures.__call__

    def recorded(encoder: Encoder, row):
        seen.add(threading.current_thread().name)
        return encode(encoder, row)

    monkeypatch.setattr(Encoder, "encode", recorded)
    with make_loader(place, threads=2) as loader:
        rows = loader.deal(0)
        monkeypatch.setattr("covt_model.encoding.row_images.Picture.pixels", lambda self: pytest.fail("decoded late"))
        pictures = [image for micro in rows.micro_batches for row in micro.batch.pictures for image in row]
        assert len(decode(loader.features, pictures)) == len(pictures) > 0
    assert seen and all(name.startswith("rows") for name in seen)


def test_features_of_a_step_are_gone_in_the_next_which_has_its_pictures_decoded(
    place: Path, monkeypatch: pytest.MonkeyPatch
):
    """The same rows in each step: while the first runs, its features are there, but not for the second."""
    with make_loader(place, threads=2, keeps=False) as loader:
        monkeypatch.setattr(loader, "rows_of_step", lambda _: range(BATCH))
        rows = loader.deal(0)
        pictures = [image for micro in rows.micro_batches for row in micro.batch.pictures for image in row]
        first = loader.features(pictures)
        assert loader.features.bytes > 0
        loader.deal(1)
        assert loader.features.bytes == 0
        monkeypatch.setattr("covt_model.encoding.row_images.Picture.pixels", lambda self: pytest.fail("decoded late"))
        assert all(torch.equal(one, other) for one, other in zip(loader.features(pictures), first, strict=True))


def test_a_row_that_ends_the_training_does_so_in_its_own_step(place: Path):
    with make_loader(place, threads=2, bad=True) as loader:
        loader.deal(0)
        loader.deal(1)
        with pytest.raises(ModelError, match="control token"):
            loader.deal(2)


def test_a_row_left_out_is_named_and_a_step_without_rows_refused(place: Path):
    with make_loader(place, threads=2, bad=True, on_bad="skip") as loader:
        assert [loader.deal(number).skipped for number in range(4)] == [[], [], [BAD], []]
    with (
        make_loader(place, threads=2, on_bad="skip", max_length=5) as loader,
        pytest.raises(SftError, match="max_length"),
    ):
        loader.deal(0)
