"""Split a completion into text and latent spans, so that no raw marker reaches the reader."""

import re
from dataclasses import dataclass

from covt_model.encoding.latent_tokens import END, PAD, START

SPAN = re.compile(rf"(?P<start>{re.escape(START)})?(?P<pads>(?:{re.escape(PAD)})*)(?P<end>{re.escape(END)})?")
CONTROL = re.compile(r"<\|(?:im_start|im_end|endoftext|vision_start|vision_end|image_pad)\|>")


@dataclass(frozen=True)
class Piece:
    """Text, or a latent span with its number of latents. `closed` is false when the end marker is missing."""

    text: str = ""
    latents: int | None = None
    closed: bool = True


def split_text(text: str) -> list[Piece]:
    """Pieces in order; turn markers are dropped. A span of 0 latents (markers only) is still a span."""
    pieces: list[Piece] = []
    at = 0
    for match in SPAN.finditer(text):
        if not match.group():
            continue
        add_text(pieces, text[at : match.start()])
        pieces.append(Piece(latents=match.group("pads").count(PAD), closed=match.group("end") is not None))
        at = match.end()
    add_text(pieces, text[at:])
    return pieces


def add_text(pieces: list[Piece], text: str) -> None:
    cleaned = CONTROL.sub("", text)
    if cleaned.strip():
        pieces.append(Piece(text=cleaned))
