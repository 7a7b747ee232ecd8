"""Pictures of a run folder as PNG data URIs. Every file is decoded and written anew, so only pixels reach the page."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

LONGEST_SIDE = 1024  # pixels; larger pictures are scaled down, or the page would weigh as much as the data


@dataclass(frozen=True)
class Picture:
    """A picture on the page; width and height in pixels of the original, which boxes refer to."""

    uri: str
    width: int
    height: int

    @property
    def crisp(self) -> bool:
        """Small pictures are drawn larger with hard pixel edges."""
        return max(self.width, self.height) <= 320


def read_picture(folder: Path, name: str, notes: list[str]) -> Picture | None:
    """The picture `folder/name`; None with a note when it is missing, outside the folder, or no picture."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        notes.append(f"{name} lies outside the run folder and was left out.")
        return None
    if not path.is_file():
        notes.append(f"The picture {name} is missing.")
        return None
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (OSError, Image.DecompressionBombError) as error:
        notes.append(f"The picture {name} can't be read ({error}).")
        return None
    width, height = image.size
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(uri=uri, width=width, height=height)
