"""An HTML page of a prepared set: sample rows with helper images in place. One file without scripts."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

from PIL import Image as PillowImage

from covt_data.schema import IMAGE_TAG, Image, Row
from covt_data.store.prepared_set import PreparedSet

SIGNATURES = {b"\x89PNG": "png", b"\xff\xd8": "jpeg", b"GIF8": "gif", b"RIFF": "webp", b"BM": "bmp"}

STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --soft: #5b6672; --paper: #f6f7f8; --card: #ffffff; --line: #dde2e7;
  --mark: #d6006f; --latent: #f3e9f8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #9aa5b1; --paper: #15181b; --card: #1e2226;
  --line: #343a41; --mark: #ff5ab0; --latent: #2d2433; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; }
code { overflow-wrap: anywhere; }
.soft { color: var(--soft); }
table { border-collapse: collapse; margin: .8rem 0; }
td, th { padding: .15rem 1.2rem .15rem 0; text-align: left; font-weight: normal; vertical-align: top; }
th { color: var(--soft); white-space: nowrap; }
article { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .9rem 1.1rem;
  margin: 0 0 1rem; }
article header { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .85rem; color: var(--soft);
  margin-bottom: .5rem; }
.question, .text { white-space: pre-wrap; overflow-wrap: anywhere; margin: .4rem 0; }
.latent { background: var(--latent); border-left: 3px solid var(--mark); border-radius: 4px; padding: .5rem .7rem;
  margin: .5rem 0; display: flex; flex-wrap: wrap; gap: .5rem; align-items: flex-start; }
.latent > span { flex-basis: 100%; font-size: .8rem; color: var(--soft); }
figure { margin: 0; position: relative; display: inline-block; line-height: 0; }
figure img { max-width: min(100%, 22rem); max-height: 18rem; border-radius: 3px; image-rendering: auto; }
.question figure { vertical-align: middle; margin: .2rem .5rem .2rem 0; }
.latent figure img { max-width: 11rem; max-height: 9rem; }
figure.small img { image-rendering: pixelated; min-width: 7rem; }
figure i { position: absolute; border: 2px solid var(--mark); border-radius: 2px; pointer-events: none; }
.answer { border-top: 1px solid var(--line); padding-top: .5rem; margin-top: .6rem; overflow-wrap: anywhere; }
.answer b { font-weight: 600; }
ol.options { margin: .3rem 0; padding-left: 1.6rem; list-style: upper-alpha; }
"""


def sample_page(prepared: PreparedSet, *, splits: Sequence[str] | None = None, n: int = 12) -> str:
    """The page: the manifest in short, then `n` rows of each split, spread over it evenly."""
    manifest = prepared.manifest
    facts = {
        "made by": f"<code>{html.escape(manifest.command)}</code>",
        "source": html.escape(f"{manifest.source}, version {manifest.version}"),
        "rows": html.escape(", ".join(f"{name} {count.rows}" for name, count in manifest.counts.items())),
        "rejected": _counts(manifest.rejected),
        "filtered": _counts(manifest.filtered),
        "converted": _counts(manifest.converted),
    }
    rows = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in facts.items() if value)
    parts = [f"<h1>{html.escape(prepared.path.name)}</h1>", f"<table>{rows}</table>"]
    for split in splits or prepared.splits:
        count = prepared.count(split)
        parts.append(f"<h2>{html.escape(split)} <span class='soft'>{min(n, count)} of {count} rows</span></h2>")
        parts += [_article(row) for row in _spread(prepared, split, n)]
    title = html.escape(f"{prepared.path.name}: samples")
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{title}</title><style>{STYLE}</style></head><body><main>{''.join(parts)}</main></body></html>\n"
    )


def _counts(counts: dict[str, int]) -> str:
    return html.escape(", ".join(f"{name} {count}" for name, count in counts.items()))


def _spread(prepared: PreparedSet, split: str, n: int) -> list[Row]:
    """Return `n` evenly spaced rows, because the first rows of a split are often of one kind."""
    step = max(1, prepared.count(split) // n)
    chosen = (row for number, row in enumerate(prepared.rows(split)) if number % step == 0)
    return [row for row, _ in zip(chosen, range(n), strict=False)]


def _article(row: Row) -> str:
    about = [row.id, row.category or "", f"judged by {row.grader}"]
    head = "".join(f"<span>{html.escape(text)}</span>" for text in about if text)
    focus = iter(row.meta.get("focus", []))
    steps = "".join(_step(step.text, step.images, focus) for step in row.steps)
    asked = all(option in row.question for option in row.options)  # the question lists them itself
    options = "" if asked else "".join(f"<li>{html.escape(option)}</li>" for option in row.options)
    return (
        f"<article><header>{head}</header><div class='question'>{_question(row)}</div>"
        f"{f'<ol class=options>{options}</ol>' if options else ''}{steps}"
        f"<div class='answer'><span class='soft'>answer</span> <b>{html.escape(row.answer)}</b></div></article>"
    )


def _question(row: Row) -> str:
    """The question with its images where their tags stand."""
    texts = row.question.split(IMAGE_TAG)
    figures = ["", *(_figure(image) for image in row.images)]
    return "".join(figure + html.escape(text) for figure, text in zip(figures, texts, strict=True))


def _step(text: str | None, images: list[Image] | None, focus: Any) -> str:
    if not images:
        return f"<div class='text'>{html.escape(text or '')}</div>"
    boxes = next(focus, None) or [None] * len(images)
    many = f"latent step, {len(images)} helper image{'s' if len(images) > 1 else ''}"
    figures = "".join(_figure(image, box) for image, box in zip(images, boxes, strict=True))
    return f"<div class='latent'><span>{many}</span>{figures}</div>"


def _figure(image: Image, box: Sequence[int] | None = None) -> str:
    """The image as it is stored, its focus box [x0, y0, x1, y1) drawn over it in percent of its size."""
    with PillowImage.open(io.BytesIO(image.bytes)) as opened:
        width, height = opened.size
    kind = next((kind for start, kind in SIGNATURES.items() if image.bytes.startswith(start)), "png")
    data = base64.b64encode(image.bytes).decode()
    mark = ""
    if box:
        left, top, right, bottom = (100 * value / side for value, side in zip(box, (width, height) * 2, strict=True))
        place = f"left:{left:.2f}%;top:{top:.2f}%;width:{right - left:.2f}%;height:{bottom - top:.2f}%"
        mark = f"<i style='{place}'></i>"
    small = " class='small'" if max(width, height) < 200 else ""
    name = html.escape(image.path or f"{width}×{height}", quote=True)
    return f"<figure{small} title='{name}'><img src='data:image/{kind};base64,{data}' alt='{name}'>{mark}</figure>"
