"""`covt-rewards explain`: what a reward scores, and its settings, from docstrings and fields."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

from covt_rewards.registry import load, setting_names

_ATTRIBUTE = re.compile(r"^ {4}(\w+(?:, \w+)*): (.*(?:\n {8}.*)*)", re.MULTILINE)
_OPTION_OF_SETTING = {
    "latent": "--latents-of CHECKPOINT",
    "accuracy": "--set accuracy.KEY=VALUE",
}
"""Settings that are not plain values, with the option of `covt-rewards score` that sets them."""


def explain(name: str) -> str:
    """Describe a reward by its name or `./file.py:function`; raises `RewardError` for an unknown one."""
    target = load(name)
    about = inspect.getdoc(inspect.getmodule(target)) if inspect.isclass(target) else None
    own, _, attributes = (inspect.getdoc(target) or "").partition("Attributes:\n")
    settings = _list_settings(name, target, attributes)
    return "\n\n".join(text for text in ((about or "").strip(), own.strip(), settings) if text)


def _list_settings(name: str, target: Callable[..., Any], attributes: str) -> str:
    if inspect.isclass(target) and is_dataclass(target):
        meanings = {
            key: " ".join(meaning.split())
            for keys, meaning in _ATTRIBUTE.findall(attributes)
            for key in keys.split(", ")
        }
        lines = [_format_setting(field, meanings.get(field.name, "")) for field in fields(target) if field.init]
    else:
        lines = [f"  {key}" for key in setting_names(target) or ()]
    return "\n".join([f"Settings (--set {name}.KEY=VALUE):", *lines]) if lines else "It has no settings."


def _format_setting(field: Field[Any], meaning: str) -> str:
    value = _OPTION_OF_SETTING.get(field.name) or ("" if field.default is MISSING else f"= {field.default!r}")
    return f"  {field.name} {value}\n      {meaning}".rstrip()
