"""The page as one file: markup, style and script put together, with a policy that lets nothing else in."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files


def part(name: str) -> str:
    """A file of the page."""
    return files("covt_eval.inspection").joinpath("page", name).read_text(encoding="utf-8")


def script_hash() -> str:
    """What the policy calls the script."""
    return base64.b64encode(hashlib.sha256(part("inspect.js").encode()).digest()).decode("ascii")


POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; "
    f"form-action 'none'; frame-ancestors 'none'; script-src 'sha256-{script_hash()}'"
)


@cache
def page_html() -> str:
    """The page; it holds nothing of the model or the set, which it asks the server for."""
    colors = files("covt_eval.report").joinpath("templates", "palette.css").read_text(encoding="utf-8")
    html = part("inspect.html").replace("/*STYLE*/", colors + part("inspect.css"))
    return html.replace("/*SCRIPT*/", part("inspect.js"))
