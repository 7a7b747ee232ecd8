"""Checks of encoded images. The bytes decide the format, and every image is read to its end.

An image that all readers decode alike is kept byte for byte. Readers disagree on EXIF rotation, CMYK, 16 bits,
transparency, several frames and TIFF; such an image is converted to a PNG of what a person sees, and the conversion
is counted.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from posixpath import splitext

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageOps, UnidentifiedImageError

from covt_data.images.intact_png import is_intact_plain_png
from covt_data.rejects import Reason, Rejected

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")
SUFFIXES = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".pjpeg": "JPEG",
    ".gif": "GIF",
    ".webp": "WEBP",
    ".apng": "PNG",
    ".bmp": "BMP",
    ".dib": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
ORIENTATION_TAG = 0x0112
TURNED = range(2, 9)
"""The orientations that turn or mirror. Viewers ignore other values, such as 0 and 9."""

DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
PLAIN_MODES = ("1", "L", "P", "RGB")


@dataclass(frozen=True)
class ImageLimits:
    """Limits of one image file.

    Attributes:
        max_bytes: encoded size.
        max_pixels: decoded size.
        max_aspect: ratio of the longer to the shorter side.
        any_suffix: accept a suffix that does not match the format.
    """

    max_bytes: int = 64 << 20
    max_pixels: int = 64_000_000
    max_aspect: int = 200
    any_suffix: bool = False


@dataclass(frozen=True)
class CheckedImage:
    """Bytes that decode, their size (width, height), and the conversions applied (empty for none)."""

    data: bytes
    size: tuple[int, int]
    conversions: tuple[str, ...] = ()


@contextmanager
def strict_decoding() -> Generator[None]:
    """Turn Pillow's warning about huge images into an error, for all threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", PillowImage.DecompressionBombWarning)
        yield


def check_image(data: bytes, name: str, limits: ImageLimits) -> CheckedImage:
    """Check that `data` is a complete image within the limits.

    Args:
        data: the encoded image.
        name: for messages; its suffix, if any, must match the format.
        limits: see `ImageLimits`.

    Raises:
        Rejected: with the reason.
    """
    if not data:
        raise Rejected(Reason.IMAGE_EMPTY, f"{name} has 0 bytes")
    if len(data) > limits.max_bytes:
        raise Rejected(Reason.IMAGE_TOO_LARGE, f"{name} has {len(data)} bytes, more than {limits.max_bytes}")
    try:
        with PillowImage.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_header(image, name, limits)
            return _decoded(image, data)
    except Rejected:
        raise
    except (PillowImage.DecompressionBombError, PillowImage.DecompressionBombWarning) as error:
        raise Rejected(Reason.IMAGE_BOMB, f"{name}: {error}") from None
    except UnidentifiedImageError:
        raise Rejected(Reason.IMAGE_UNREADABLE, f"{name} is none of {', '.join(FORMATS)}") from None
    except Exception as error:
        # Decoders raise nearly anything on hostile bytes (SyntaxError, struct.error, ...): all mean the same here.
        cut = "truncated" in str(error) or isinstance(error, EOFError)
        raise Rejected(
            Reason.IMAGE_TRUNCATED if cut else Reason.IMAGE_UNREADABLE, f"{name}: {type(error).__name__} {error}"
        ) from None


def _check_header(image: PillowImage.Image, name: str, limits: ImageLimits) -> None:
    width, height = image.size
    if width * height > limits.max_pixels:
        raise Rejected(Reason.IMAGE_BOMB, f"{name} has {width}×{height} pixels, more than {limits.max_pixels}")
    if max(width, height) > limits.max_aspect * min(width, height):
        raise Rejected(Reason.IMAGE_TOO_NARROW, f"{name} has {width}×{height} pixels")
    suffix = splitext(name)[1].lower()
    found = "JPEG" if image.format == "MPO" else image.format
    if suffix and SUFFIXES.get(suffix) != found and not limits.any_suffix:
        raise Rejected(Reason.IMAGE_WRONG_SUFFIX, f"{name} is a {found} image: rename it, or give wrong_suffix=keep")


def _decoded(image: PillowImage.Image, data: bytes) -> CheckedImage:
    size = image.size
    if image.format == "PNG" and is_intact_plain_png(data):
        return CheckedImage(data, size)
    conversions = _conversions(image)
    if not conversions:
        if image.format == "JPEG":
            # Still reads every coded bit, so a cut or damaged file is noticed, but skips most of the arithmetic.
            image.draft(None, (max(1, size[0] // 8), max(1, size[1] // 8)))
        image.load()
        if not _see_through(image):
            return CheckedImage(data, size)
        conversions = ("transparency",)
    shown = _as_seen(image)
    out = io.BytesIO()
    shown.save(out, "PNG")
    return CheckedImage(out.getvalue(), shown.size, conversions)


def _conversions(image: PillowImage.Image) -> tuple[str, ...]:
    """Return the conversions that the header calls for."""
    found: list[str] = []
    if image.format == "TIFF":  # browsers don't show it
        found.append("tiff")
    if getattr(image, "is_animated", False) and image.format != "MPO":
        found.append("animated")
    if image.getexif().get(ORIENTATION_TAG) in TURNED:
        found.append("exif_rotation")
    if image.mode in DEEP_MODES:
        found.append("16_bit")
    elif image.mode == "CMYK":
        found.append("cmyk")
    elif image.mode not in (*PLAIN_MODES, "RGBA", "LA", "PA"):
        found.append("color_mode")
    return tuple(found)


def _see_through(image: PillowImage.Image) -> bool:
    """Whether any pixel is not opaque. A fully opaque alpha channel changes nothing."""
    if image.mode in ("RGBA", "LA", "PA"):
        return image.getchannel("A").getextrema()[0] != 255
    if "transparency" not in image.info:
        return False
    return image.convert("RGBA").getchannel("A").getextrema()[0] != 255


def _as_seen(image: PillowImage.Image) -> PillowImage.Image:
    """Return the first frame as upright 8-bit RGB on a white background."""
    image.load()
    if image.mode in DEEP_MODES:
        values = np.nan_to_num(np.asarray(image, np.float64), posinf=65535.0, neginf=0.0)
        top = 65535.0 if values.max() > 255 or image.mode.startswith("I;16") else 255.0
        if image.mode == "F" and values.max() <= 1:
            top = 1.0
        image = PillowImage.fromarray((values.clip(0, top) * (255 / top)).round().astype(np.uint8))
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        paper = PillowImage.new("RGBA", upright.size, "white")
        upright = PillowImage.alpha_composite(paper, upright.convert("RGBA"))
    rgb = upright.convert("RGB")
    rgb.info.clear()  # no EXIF or transparency of the original in the new file
    return rgb
