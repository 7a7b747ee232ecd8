"""Reading reward settings: `necessity.w_harm=0.25` from the command line, and a checkpoint's latent vocabulary."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from covt_rewards import json_fields as read
from covt_rewards.latents import LatentFormat
from covt_rewards.reward_errors import RewardError


def parse_settings(items: Iterable[str]) -> dict[str, dict[str, object]]:
    """Read `["necessity.w_harm=0.25"]` as `{"necessity": {"w_harm": 0.25}}`; values that are not JSON are text."""
    settings: dict[str, dict[str, object]] = {}
    for item in items:
        place, equals, value = item.partition("=")
        reward, dot, key = place.partition(".")
        if not (equals and dot and reward and key):
            raise RewardError(f"the setting {item!r} is not REWARD.KEY=VALUE", "write it like necessity.w_harm=0.25")
        try:
            parsed: object = json.loads(value)
        except json.JSONDecodeError:
            parsed = value
        settings.setdefault(reward, {})[key] = parsed
    return settings


def read_latent_format(path: str | Path) -> LatentFormat:
    """Read the latent vocabulary of a checkpoint from its `config.json` (key `covt_latent`).

    Args:
        path: the checkpoint's folder or its `config.json`.

    Raises:
        RewardError: when the file cannot be read or has no `covt_latent`.
    """
    file = Path(path) / "config.json" if Path(path).is_dir() else Path(path)
    try:
        config: object = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RewardError(f"cannot read {file}: {error.strerror}", "give a checkpoint folder") from error
    except json.JSONDecodeError as error:
        raise RewardError(f"{file} is not JSON: {error}", "give a checkpoint's config.json") from error
    latent = read.mapping(config, str(file)).get("covt_latent")
    if latent is None:
        raise RewardError(f"{file} has no covt_latent", "give a checkpoint that decodes latents")
    record = read.mapping(latent, f"{file}: covt_latent")
    names = ("start_id", "pad_id", "end_id", "size")
    return LatentFormat(*read.integers([record.get(name) for name in names], f"{file}: covt_latent {names}"))
