"""One card per test row: image, helper images, text with latent spans, and the answers of every model and ablation."""

from dataclasses import dataclass, field
from typing import Any

from covt_eval.report.charts.by_hops import main_mode, model_labels
from covt_eval.report.charts.maps import Drawing, draw_answer, draw_truth, grid_of, hops, plan_map
from covt_eval.report.content import labels
from covt_eval.report.content.run_files import Record, RunFiles, list_or_empty, number, object_or_empty
from covt_eval.report.sections.decoded import DecodedSet, read_decoded
from covt_eval.report.sections.pictures import Picture, read_picture
from covt_eval.report.sections.spans import Piece, split_text

MOST_CARDS = 24


@dataclass(frozen=True)
class Answer:
    """An answer to show: who gave it, what it is, whether it's right, and how it looks on the map."""

    key: str
    who: str
    note: str
    text: str
    right: bool
    drawing: Drawing


@dataclass(frozen=True)
class Helper:
    picture: Picture
    box: tuple[float, float, float, float] | None  # x, y, width, height
    name: str


@dataclass(frozen=True)
class Card:
    id: str
    question: str
    gold: str
    hops: int | None
    picture: Picture | None
    truth: Drawing
    many: bool  # whether other paths than `truth` are right as well
    helpers: list[Helper]
    nearest: list[Helper]
    decoded: list[DecodedSet]
    pieces: list[Piece]
    chosen: Answer | None
    models: list[Answer]
    ablations: list[Answer]
    finish: str = ""
    notes: list[str] = field(default_factory=list[str])


def judged_model(run: RunFiles) -> str | None:
    """The model whose text the cards show: the last of the chain that was evaluated."""
    present = model_labels(run)
    return next(
        (label for label in ("rl", "sft_more", "stage2", "stage1") if label in present),
        present[-1] if present else None,
    )


def make_cards(run: RunFiles) -> list[Card]:
    judged = judged_model(run)
    return [make_card(run, sample, judged) for sample in run.samples[:MOST_CARDS]]


def make_card(run: RunFiles, sample: Record, judged: str | None) -> Card:
    row_id = str(sample["id"])
    notes: list[str] = []
    mode = main_mode(run, judged) if judged else None
    row = run.evals[judged, mode].get(row_id) if judged and mode else None
    meta = {**object_or_empty((row or {}).get("meta")), **object_or_empty(sample.get("meta"))}
    name = sample.get("image")
    picture = read_picture(run.folder, name, notes) if isinstance(name, str) else None
    grid = grid_of(meta, picture.width, picture.height) if picture else None

    def answer(label: str, shown_mode: str, who: str, note: str) -> Answer | None:
        found = run.evals.get((label, shown_mode), {}).get(row_id)
        if found is None:
            return None
        text = found.get("answer")
        text = "" if text is None else str(text)
        return Answer(
            key=f"{label}.{shown_mode}",
            who=who,
            note=note,
            text=text,
            right=is_right(found),
            drawing=draw_answer(text, meta, grid) if grid else Drawing(),
        )

    models = [
        answer(label, own, labels.card_name(label), labels.MODEL_NOTES.get(label, ""))
        for label in model_labels(run)
        if (own := main_mode(run, label))
    ]
    modes = labels.in_order([mode for label, mode in run.evals if label == judged and mode != "keep"], labels.MODES)
    ablations = [
        answer(judged, ablated, labels.MODES.get(ablated, ablated), labels.MODE_NOTES.get(ablated, ""))
        for ablated in modes
        if judged and mode == "keep"
    ]
    if row is None:
        notes.append("No evaluation of this row was found.")
    return Card(
        id=row_id,
        question=str(sample.get("question") or "").replace("<image>", "").strip(),
        gold=str((row or {}).get("gold") or sample.get("answer") or ""),
        hops=hops(meta, (row or {}).get("gold")),
        picture=picture,
        many=bool(plan_map(meta)),
        truth=draw_truth(meta, grid) if grid else Drawing(),
        helpers=make_helpers(run, sample, notes),
        nearest=make_nearest(run, sample, notes),
        decoded=read_decoded(sample),
        pieces=split_text(str((row or {}).get("text") or "")),
        chosen=answer(judged, mode, labels.card_name(judged), "") if judged and mode else None,
        models=[item for item in models if item],
        ablations=[item for item in ablations if item],
        finish="cut off at the length limit" if (row or {}).get("finish_reason") == "length" else "",
        notes=notes,
    )


def make_helpers(run: RunFiles, sample: Record, notes: list[str]) -> list[Helper]:
    boxes, names = list_or_empty(sample.get("focus")), list_or_empty(sample.get("names"))
    helpers: list[Helper] = []
    for index, name in enumerate(sample.get("helpers") or []):
        picture = read_picture(run.folder, str(name), notes)
        if picture:
            box = read_box(boxes[index]) if index < len(boxes) else None
            is_whole = box == (0, 0, picture.width, picture.height)
            title = str(names[index]) if index < len(names) else str(index + 1)
            helpers.append(Helper(picture, None if is_whole else box, title))
    return helpers


def make_nearest(run: RunFiles, sample: Record, notes: list[str]) -> list[Helper]:
    """For each latent the picture with the patch it resembles most; what it is and the cosine are its name."""
    helpers: list[Helper] = []
    for entry in map(object_or_empty, list_or_empty(sample.get("nearest"))):
        name, box, cosine = entry.get("picture"), read_box(entry.get("box")), number(entry.get("cosine"))
        picture = read_picture(run.folder, str(name), notes) if name else None
        if picture and box and cosine is not None:
            helpers.append(Helper(picture, box, f"{len(helpers) + 1}: {entry.get('what', '')} {cosine:.2f}"))
    return helpers


def read_box(value: Any) -> tuple[float, float, float, float] | None:
    """[x0, y0, x1, y1] → (x, y, width, height); None when it's no box."""
    edges = list_or_empty(value)
    if len(edges) != 4:
        return None
    x0, y0, x1, y1 = map(number, edges)
    if x0 is None or y0 is None or x1 is None or y1 is None or x1 <= x0 or y1 <= y0:
        return None
    return x0, y0, x1 - x0, y1 - y0


def is_right(row: Record) -> bool:
    return row.get("correct") is True or number(row.get("correct")) == 1.0
