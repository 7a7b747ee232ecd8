"""Records to rows: parse, filter, read and check the images, validate. Works on many at once and keeps their order."""

from __future__ import annotations

import json
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing import parent_process
from typing import Any

from PIL import Image as PillowImage
from pydantic import ValidationError

from covt_data.data_errors import DataFileError
from covt_data.images.image_checks import CheckedImage, ImageLimits, check_image, strict_decoding
from covt_data.images.image_folder import ImageFolder
from covt_data.images.similarity import difference_hash, row_digest
from covt_data.ingest.filters import CountTokens, filtered_by_size, filtered_by_text
from covt_data.ingest.fork_server import start_fork_server
from covt_data.ingest.record_files import Record
from covt_data.records.control_tokens import find_control_token, row_texts
from covt_data.records.field_values import to_text
from covt_data.records.gold_answers import Judgment, judge_gold
from covt_data.records.parsed_record import EmbeddedImage, ImageRef, MissingImage, ParsedRecord, ParsedStep
from covt_data.rejects import Reason, Rejected, Rejection, shorten
from covt_data.schema import Image, Row, Step
from covt_data.sources.source_types import FileOptions, RecordLocation, RecordSource

RECORDS_PER_TASK = 16
TASKS_PER_PROCESS = 2  # queued or running
EMBEDDED = "an image inside the record"
ID_NAMES = ("id", "qid")
"""Fields that name a record whose source could not parse it."""


@dataclass(frozen=True)
class Outcome:
    """The result for one record: the fields of a valid row, a rejection, or the name of the filter that dropped it."""

    number: int
    file: str
    line: int
    row: dict[str, Any] | None = None
    rejection: Rejection | None = None
    filtered: str | None = None
    digest: bytes = b""
    looks: tuple[int, ...] = ()
    conversions: tuple[str, ...] = ()


class _RowImages:
    """The images of one row: each file is read and checked only once."""

    def __init__(self, folder: ImageFolder | None, limits: ImageLimits) -> None:
        self.folder = folder
        self.limits = limits
        self.files: dict[str, CheckedImage] = {}
        self.conversions: list[str] = []

    def check(self, ref: ImageRef, missing: Reason) -> CheckedImage:
        """Read and check one image. A missing one is rejected with the reason `missing`."""
        if isinstance(ref, MissingImage):
            raise Rejected(missing, f"{ref.name} is named in the text, but the row has no such image")
        if isinstance(ref, EmbeddedImage):
            found = check_image(ref.data, ref.name or EMBEDDED, self.limits)
        elif ref in self.files:
            return self.files[ref]
        else:
            found = self.files[ref] = check_image(self._read(ref, missing), ref, self.limits)
        self.conversions += found.conversions
        return found

    def _read(self, name: str, missing: Reason) -> bytes:
        if self.folder is None:
            raise Rejected(missing, f"{name!r} is a path, and this dataset has its images inside")
        try:
            return self.folder.read(name, self.limits.max_bytes)
        except Rejected as error:
            if error.reason is Reason.IMAGE_MISSING:
                raise Rejected(missing, error.detail) from None
            raise


@dataclass(frozen=True)
class Converter:
    """Everything needed to convert the records of one split. It is sent to worker processes."""

    source: RecordSource
    options: FileOptions
    split: str
    folder: ImageFolder | None
    count_tokens: CountTokens | None = None

    @property
    def limits(self) -> ImageLimits:
        return ImageLimits(
            max_bytes=self.options.max_image_bytes,
            max_pixels=self.options.max_image_pixels,
            any_suffix=self.options.wrong_suffix == "keep",
        )

    def convert(self, number: int, record: Record, place: RecordLocation) -> Outcome:
        """Convert one record. `number` is its position in the split."""
        where = number, record.file, record.line
        draft: ParsedRecord | None = None
        data: dict[str, Any] = {}
        try:
            data = record.data()
            draft = self.source.parse(data, place, self.options)
            left_out = filtered_by_text(draft, self.options, self.count_tokens)
            if left_out:
                return Outcome(*where, filtered=left_out)
            _check_texts(draft)
            judgment = judge_gold(draft)
            images = _RowImages(self.folder, self.limits)
            checked = [images.check(ref, Reason.IMAGE_MISSING) for ref in draft.images]
            left_out = filtered_by_size([image.size for image in checked], self.options)
            if left_out:
                return Outcome(*where, filtered=left_out)
            row = self._row(draft, judgment, checked, images)
        except Rejected as error:
            known = draft.id if draft else next((to_text(data[name]) for name in ID_NAMES if name in data), None)
            return Outcome(*where, rejection=Rejection(record.file, record.line, error.reason, error.detail, known))
        looks = [difference_hash(image.bytes) for image in row.images] if self.options.duplicates == "similar" else []
        return Outcome(
            *where,
            row.model_dump(),
            digest=row_digest(row),
            looks=tuple(looks),
            conversions=tuple(images.conversions),
        )

    def _row(self, draft: ParsedRecord, judgment: Judgment, checked: Sequence[CheckedImage], images: _RowImages) -> Row:
        converted = [self._step(step, images) for step in draft.steps]
        steps = [step for step in converted if step is not None]
        if draft.steps and not steps:
            raise Rejected(Reason.EMPTY_STEP, "all steps are missing helper images")
        try:
            return Row(
                id=draft.id,
                source=getattr(self.options, "name", self.source.name),
                split=self.split,
                category=draft.category,
                question=draft.question,
                images=[_image(*pair) for pair in zip(draft.images, checked, strict=True)],
                options=list(judgment.options),
                answer=draft.answer,
                grader=judgment.grader,
                steps=steps,
                metadata=json.dumps(
                    _known(draft.metadata), sort_keys=True, separators=(",", ":"), allow_nan=False, default=_no_json
                ),
            )
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "row"
            raise Rejected(Reason.BAD_ROW, f"{where}: {first['msg']}") from None
        except (TypeError, ValueError) as error:
            raise Rejected(Reason.WRONG_TYPE, f"metadata cannot be written as JSON: {error}") from None

    def _step(self, step: ParsedStep, images: _RowImages) -> Step | None:
        """Return the step with its checked images, or None when it has none and such steps are dropped."""
        if step.text is not None:
            return Step(type="text", text=step.text)
        found: list[Image] = []
        for ref in step.images:
            try:
                found.append(_image(ref, images.check(ref, Reason.HELPER_IMAGE_MISSING)))
            except Rejected as error:
                if error.reason is not Reason.HELPER_IMAGE_MISSING:
                    raise
                if self.options.missing_helpers == "reject":
                    detail = f"{error.detail}: add it, or leave it out with missing_helpers=drop_step"
                    raise Rejected(error.reason, detail) from None
                images.conversions.append("helper_image_dropped")
        return Step(type="latent", images=found) if found else None


def _image(ref: ImageRef, checked: CheckedImage) -> Image:
    name = ref if isinstance(ref, str) else ref.name
    return Image.model_construct(bytes=checked.data, path=name)


def _check_texts(draft: ParsedRecord) -> None:
    """Raise `Rejected` when a text of the record holds a control token."""
    for where, text in row_texts(draft):
        token = find_control_token(text)
        if token is not None:
            raise Rejected(
                Reason.CONTROL_TOKEN, f"{where} holds the control token {token}: remove it, or write it another way"
            )


def _no_json(value: object) -> object:
    raise TypeError(shorten(value))


def _known(metadata: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metadata.items() if value is not None}


def convert_all(
    converter: Converter, records: Iterable[tuple[int, Record, RecordLocation]], processes: int
) -> Iterator[Outcome]:
    """Yield outcomes in the order of the records. Few records are in flight at a time, so memory stays bounded.

    Raises:
        DataFileError: when a process dies, for instance because an image crashes the decoder.
    """
    if processes == 1:
        with strict_decoding():
            for entry in records:
                yield converter.convert(*entry)
        return
    remaining = iter(records)
    waiting: deque[Future[list[Outcome]]] = deque()
    with ProcessPoolExecutor(processes, start_fork_server(), _start, (converter,)) as pool:
        try:
            while True:
                while len(waiting) < processes * TASKS_PER_PROCESS and (
                    chunk := list(islice(remaining, RECORDS_PER_TASK))
                ):
                    waiting.append(pool.submit(_convert_chunk, chunk))
                if not waiting:
                    return
                yield from waiting.popleft().result()
        except BrokenProcessPool:
            raise DataFileError(
                "a process that converts records died", "run again with --processes 1 to see at which record"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_converter: Converter | None = None  # of a worker process


def _start(converter: Converter) -> None:
    """Set up a worker process, which ends with its parent and leaves interrupts to it."""
    global _converter
    _converter = converter
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("error", PillowImage.DecompressionBombWarning)
    parent = parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _convert_chunk(chunk: Sequence[tuple[int, Record, RecordLocation]]) -> list[Outcome]:
    assert _converter is not None
    return [_converter.convert(*entry) for entry in chunk]
