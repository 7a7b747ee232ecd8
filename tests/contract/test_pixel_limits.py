"""`data.min_pixels` and `data.max_pixels`: every stage reads the same pictures, whichever command it belongs to."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as Pictures
from pydantic import ValidationError

from covt_data.data_errors import DataError
from covt_data.images.pixel_limits import PixelLimits
from covt_data.ingest.prepare import prepare
from covt_data.schema import Image, Row
from covt_data.store.manifest import Manifest
from covt_data.store.prepared_set import PreparedSet, write_split
from covt_data.stream.row_stream import RowStream
from covt_rl.rl_recipe import RlConfig
from covt_rl.rollouts.rollout_stream import training_stream as rl_stream
from covt_sft.batches.row_checks import RowChecks
from covt_sft.batches.sample_source import SampleSource
from covt_sft.planning.plan import training_stream as sft_stream
from covt_sft.sft_recipe import SftConfig, SftDataSection

LIMITS = {"min_pixels": 60 * 60, "max_pixels": 90 * 90}


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "trace"
    prepare("trace", out, options={"n_train": 3, "n_prompts": 2, "n_test": 2})
    return out


def sft(data: Path, **section: Any) -> RowStream:
    return sft_stream(data, SftConfig.model_validate({"data": section}))


def rl(data: Path, **section: Any) -> RowStream:
    return rl_stream(data, RlConfig.model_validate({"data": {"split": "train"} | section}))


def sizes(rows: list[Row]) -> set[tuple[int, int]]:
    """(width, height) of all pictures, those of the steps among them."""
    found = set[tuple[int, int]]()
    for row in rows:
        for image in [*row.images, *(image for step in row.steps for image in step.images or [])]:
            with Pictures.open(io.BytesIO(image.bytes)) as picture:
                found.add(picture.size)
    return found


def test_without_limits_pictures_are_those_of_the_set(trace: Path) -> None:
    rows = list(PreparedSet(trace).rows("train"))
    assert sizes(rows) == {(112, 112)}
    assert list(sft(trace).rows) == list(rl(trace).rows) == rows


def test_training_sampling_and_evaluation_read_the_same_smaller_pictures(trace: Path) -> None:
    expected = list(PreparedSet(trace).rows("train", limits=PixelLimits(**LIMITS)))
    assert sizes(expected) == {(84, 84)}
    assert list(sft(trace, **LIMITS).rows) == list(rl(trace, **LIMITS).rows) == expected
    assert sizes(list(sft(trace, min_pixels=120 * 120).rows)) == {(140, 140)}
    assert sizes(list(rl(trace, max_pixels=784).rows)) == {(28, 28)}


def test_oversize_pictures_are_refused_where_the_recipe_says_so(trace: Path) -> None:
    refusing = sft(trace, max_pixels=90 * 90, oversize="refuse")
    assert refusing.limits is None and sizes(list(refusing.rows)) == {(112, 112)}
    assert sft(trace, **LIMITS, oversize="refuse").limits == PixelLimits(60 * 60, 2**63 - 1)


def test_a_position_is_not_resumed_under_other_limits(trace: Path) -> None:
    state = sft(trace, **LIMITS).state()
    sft(trace, **LIMITS).resume(state)
    for other in (sft(trace), sft(trace, max_pixels=90 * 90)):
        with pytest.raises(DataError, match="of another stream"):
            other.resume(state)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"min_pixels": 783}, "greater than or equal to 784"),
        ({"max_pixels": 100}, "greater than or equal to 784"),
        ({"min_pixels": 3000, "max_pixels": 2000}, "min_pixels = 3000 is more than max_pixels = 2000"),
    ],
)
def test_limits_that_cannot_be_met_are_refused(section: dict[str, int], message: str) -> None:
    for config in (SftConfig, RlConfig):
        with pytest.raises(ValidationError, match=message):
            config.model_validate({"data": section})


def png(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Pictures.new("RGB", (width, height)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("data", [b"no picture", png(2010, 10)], ids=["unreadable", "narrow"])
def test_a_picture_that_cannot_be_resized_is_a_bad_row(data: bytes, trace: Path, tmp_path: Path) -> None:
    row = next(PreparedSet(trace).rows("train")).model_copy(update={"id": "bad", "images": [Image(bytes=data)]})
    count, files = write_split([row], tmp_path / "train")
    files = {f"train/{name}": entry for name, entry in files.items()}
    Manifest(source="s", version="1", command="c", options={}, counts={"train": count}, files=files).write(tmp_path)

    def source(on_bad: str) -> SampleSource:
        section = SftDataSection.model_validate({"on_bad": on_bad} | LIMITS)
        encoder: Any = None  # no row that is refused comes so far
        checks = RowChecks(None, 8, selects=False)
        return SampleSource(sft(tmp_path, **LIMITS).rows, encoder, section, checks, device=torch.device("cpu"))

    assert source("skip").skips(0)
    with pytest.raises(DataError, match="an image of row 'bad' cannot be resized"):
        source("refuse").sample(0)
