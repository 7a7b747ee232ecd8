"""How a row becomes a user turn: system prompt, question template, the checkpoint's chat template."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from covt_model.model_errors import ModelError

if TYPE_CHECKING:
    from jinja2 import Template

    from covt_data.schema import Row

IMAGE_TAG = "<image>"


@dataclass(frozen=True)
class PromptConfig:
    """`[prompt]` of a recipe.

    system: the system message; empty leaves it to the chat template (which may have a default one).
    template: Jinja over `question` and `options`; the question holds one `<image>` for each picture.
    """

    system: str = ""
    template: str = "{{ question }}"


def messages(row: Row, config: PromptConfig) -> list[dict[str, Any]]:
    """Chat messages of a row, pictures as `{"type": "image"}` parts in their places."""
    text = _compile(config.template).render(question=row.question, options=row.options)
    pieces = text.split(IMAGE_TAG)
    if len(pieces) - 1 != len(row.images):
        raise ModelError(
            f"row {row.id}: the prompt has {len(pieces) - 1} {IMAGE_TAG} but the row has {len(row.images)} images",
            "let the template contain the question once",
        )
    content: list[dict[str, Any]] = []
    for number, piece in enumerate(pieces):
        if number:
            content.append({"type": "image"})
        if piece:
            content.append({"type": "text", "text": piece})
    system = [{"role": "system", "content": config.system}] if config.system else []
    return [*system, {"role": "user", "content": content}]


@lru_cache(maxsize=16)
def _compile(template: str) -> Template:
    from jinja2 import TemplateSyntaxError, meta
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(keep_trailing_newline=True)
    try:
        names = meta.find_undeclared_variables(environment.parse(template))
    except TemplateSyntaxError as error:
        raise ModelError(f"prompt.template is not a Jinja template: {error}", "write {{ question }} into it") from error
    if "question" not in names or names - {"question", "options"}:
        raise ModelError(
            f"prompt.template uses {sorted(names)} and not question and options", "write {{ question }} into it"
        )
    return environment.from_string(template)
