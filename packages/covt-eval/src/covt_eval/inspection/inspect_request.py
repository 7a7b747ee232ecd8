"""What `POST /covt/inspect` takes, within bounds, and the row that is asked."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from covt_data.images.image_checks import ImageLimits, check_image, strict_decoding
from covt_data.rejects import Rejected
from covt_data.schema import IMAGE_TAG, Image, Row
from covt_eval.eval_errors import EvalError
from covt_model.latents.latent_modes import LatentMode

MAX_BODY = 32 << 20
"""Bytes of a request."""
PICTURE_LIMITS = ImageLimits(max_bytes=16 << 20, max_pixels=32_000_000, any_suffix=True)
MAX_QUESTION, MAX_TOKENS, MAX_SAMPLES, MAX_NEAREST = 20_000, 1024, 16, 20
UPLOADED = "uploaded"
"""Id of a row that a request describes itself."""
AblatingMode = Literal["zeros", "noise", "shuffle", "drop_latents", "drop_span"]
DEFAULT_MODES: tuple[AblatingMode, ...] = ("zeros", "noise", "shuffle", "drop_latents")


class InspectRequest(BaseModel):
    """One question to look into: a row of the server's set, or a question with pictures.

    Attributes:
        row: index of a row of the set that the server was started with.
        question: the question. Pictures come first, unless it has an `<image>` for each of them.
        pictures: encoded pictures in base64, bare or as data URLs.
        max_tokens: longest answer in tokens, latents included.
        modes: what is done to the latents, one answer each.
        samples: sampled answers, to see how far they agree.
        temperature: of the samples; all other answers are greedy.
        seed: of samples and noise.
        nearest: patches, helper patches and words that are named for each latent.
        stream: answer with server-sent events, as parts become known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    row: Annotated[int, Field(ge=0)] | None = None
    question: Annotated[str, Field(max_length=MAX_QUESTION)] = ""
    pictures: list[str] = []
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] = 256
    modes: list[AblatingMode] = list(DEFAULT_MODES)
    samples: Annotated[int, Field(ge=0, le=MAX_SAMPLES)] = 4
    temperature: Annotated[float, Field(gt=0, le=2, strict=False)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    nearest: Annotated[int, Field(ge=1, le=MAX_NEAREST)] = 3
    stream: bool = False

    @property
    def latent_modes(self) -> list[LatentMode]:
        """The modes, each once, in the order of the request."""
        return list(dict.fromkeys(LatentMode(mode) for mode in self.modes))


def read_request(body: bytes) -> InspectRequest:
    """Read a request's JSON; raises EvalError that names the field."""
    try:
        request = InspectRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        what = first["msg"] if not where else f"{where}: {first['msg']}"
        raise EvalError(f"the request is malformed, {what}", "see the fields in docs/inspect.md") from None
    if (request.row is None) != bool(request.question or request.pictures):
        raise EvalError("the request has neither or both of row and question", "give a row, or a question and pictures")
    return request


def uploaded_row(request: InspectRequest, max_pictures: int) -> Row:
    """The row that a request describes itself; every picture is decoded here once, whatever it claims to be.

    Raises:
        EvalError: a picture can't be read or is too large, or their number is not the question's.
    """
    if len(request.pictures) > max_pictures:
        raise EvalError(
            f"the request has {len(request.pictures)} pictures, the server takes {max_pictures}",
            "send fewer, or start it with --images",
        )
    pictures = [read_picture(text, number) for number, text in enumerate(request.pictures, start=1)]
    question, tags = request.question, request.question.count(IMAGE_TAG)
    if tags == 0:
        question = IMAGE_TAG * len(pictures) + (question or "?")
    elif tags != len(pictures):
        raise EvalError(
            f"the question has {tags} {IMAGE_TAG} for {len(pictures)} pictures", f"write one {IMAGE_TAG} for each"
        )
    images = [Image(bytes=data) for data in pictures]
    return Row(
        id=UPLOADED, source=UPLOADED, split=UPLOADED, question=question, images=images, answer="?", grader="text"
    )


def read_picture(text: str, number: int) -> bytes:
    """Decode a picture; one that readers would see differently comes back as a PNG of what a person sees."""
    name = f"picture {number}"
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise EvalError(f"{name} is not base64", "send the file's bytes in base64, or a data URL of them") from None
    try:
        with strict_decoding():
            return check_image(data, name, PICTURE_LIMITS).data
    except Rejected as error:
        remedy = "send a whole PNG, JPEG, WebP, GIF, BMP or TIFF of at most 32 megapixels and 16 MiB"
        raise EvalError(one_line(error.detail), remedy) from None


def one_line(text: str, most: int = 300) -> str:
    """The text as one line of printable characters."""
    flat = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(flat.split())[:most]
