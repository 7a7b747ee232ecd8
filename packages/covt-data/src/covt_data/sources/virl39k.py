"""Source `virl39k`: TIGER-Lab/ViRL39K, verifiable questions for RL: Parquet (or JSONL) and an archive of images.

Columns: `question`, `answer` (`\\boxed{…}`), `PassRate_32BTrained`, `PassRate_7BBase` (missing, NaN or −1 for about
half), `category`, `source`, `qid`, `image` (a list of relative paths, empty for some, one for most).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from covt_data.rejects import Reason, Rejected, shorten
from covt_data.sources.dataset_files import find_archives, find_record_files, group_by_split
from covt_data.sources.parsed_records import (
    ParsedRecord,
    choose_grader,
    find_options,
    get_image_refs,
    get_text,
    place_image_tags,
    strip_boxed,
)
from covt_data.sources.source_types import DatasetFiles, FileOptions, RecordLocation, RecordSource

PASS_RATES = {"32b": "PassRate_32BTrained", "7b": "PassRate_7BBase"}


class VirlOptions(FileOptions):
    """`rated_by` chooses the pass rate that is filtered by; both go into the metadata."""

    rated_by: Literal["32b", "7b"] = "32b"


def find(path: Path, options: VirlOptions) -> DatasetFiles:
    files = find_record_files(path, (".parquet", ".jsonl"), "the Parquet file and images/ or its archive")
    folder = path if path.is_dir() else path.parent
    archives = () if (folder / "images").is_dir() else find_archives(folder)
    return DatasetFiles(group_by_split(files), None if archives else folder, archives, ("", "images"))


def parse(data: dict[str, Any], place: RecordLocation, options: VirlOptions) -> ParsedRecord:
    pictures = get_image_refs(data.get("image"), "image")
    question = place_image_tags(get_text(data, "question", Reason.EMPTY_QUESTION), len(pictures))
    answer = strip_boxed(get_text(data, "answer", Reason.EMPTY_ANSWER))
    choices = find_options(question)
    grader = choose_grader(answer, choices)
    rates = {key: _rate(data, key) for key in PASS_RATES.values()}
    category = data.get("category")
    return ParsedRecord(
        id=get_text(data, "qid") if data.get("qid") is not None else f"virl39k-{place.split}-{place.line:06d}",
        category=str(category) if category else None,
        question=question,
        pictures=pictures,
        options=choices if grader == "choice" else (),
        answer=answer,
        grader=grader,
        metadata={"origin": data.get("source"), "pass_rate": rates[PASS_RATES[options.rated_by]], **rates},
    )


def _rate(data: dict[str, Any], key: str) -> float | None:
    """A share of 0 to 1; None where there is none, which is written in three ways."""
    value = data.get(key)
    if value is None or (isinstance(value, float) and math.isnan(value)) or value == -1:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise Rejected(Reason.WRONG_TYPE, f"{key} = {shorten(value)} is not a share")
    return float(value)


SOURCE = RecordSource(
    name="virl39k",
    version="1",
    options=VirlOptions,
    find=find,
    parse=parse,
    hub_id="TIGER-Lab/ViRL39K",
    patterns=("*.parquet", "**/*.parquet", "*.zip", "*.tar", "*.tar.gz"),
)
