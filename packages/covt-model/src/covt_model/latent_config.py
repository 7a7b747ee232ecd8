"""The latent settings of a checkpoint: `config.json["covt_latent"]`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from covt_model.model_errors import CheckpointError, ModelError

KEY = "covt_latent"
HEADS = ("identity", "linear", "mlp", "none")
NORMALIZE = ("none", "rms")


@dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """How a checkpoint decodes latents.

    In a latent segment the input embedding at position t is `head(normalize(h[t-1]))`, h being the final-norm
    hidden state. `head="identity", normalize="none"` is ILVR. `linear` and `mlp` have
    weights (`covt_model.latents.heads`).
    `head="none"` is the pause control: pads are forced as in latent mode but keep their own learned embedding.
    """

    start_id: int
    pad_id: int
    end_id: int
    size: int = 8
    head: str = "identity"
    normalize: str = "none"
    version: int = 1
    model_type: str = field(default="", compare=False)
    """`model_type` of the config that the settings were written into; empty in checkpoints of earlier releases."""

    def __post_init__(self) -> None:
        if self.version != 1:
            raise ModelError(f"{KEY}.version is {self.version}, this release reads version 1", "upgrade covt-model")
        if self.size < 1:
            raise ModelError(f"{KEY}.size is {self.size}", "use a latent size of at least 1")
        if self.head not in HEADS:
            raise ModelError(f"{KEY}.head is {self.head!r}", f"use one of {', '.join(HEADS)}")
        if self.normalize not in NORMALIZE:
            raise ModelError(f"{KEY}.normalize is {self.normalize!r}", f"use one of {', '.join(NORMALIZE)}")
        if len({self.start_id, self.pad_id, self.end_id}) != 3:
            raise ModelError(f"the three latent token ids are not distinct in {KEY}: {self}", "add the tokens again")

    @property
    def token_ids(self) -> tuple[int, int, int]:
        """The ids of the start marker, the pad and the end marker."""
        return self.start_id, self.pad_id, self.end_id

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build from the JSON object; raises ModelError naming missing and unknown keys."""
        known = {one.name for one in fields(cls)}
        unknown, missing = set(values) - known, {"start_id", "pad_id", "end_id"} - set(values)
        if unknown or missing:
            raise ModelError(
                f"{KEY} has unknown keys {sorted(unknown)} and lacks {sorted(missing)}",
                f"its keys are {', '.join(sorted(known))}",
            )
        return cls(**values)

    @classmethod
    def read(cls, checkpoint: Path | str) -> Self:
        """Read from `checkpoint/config.json`.

        Raises CheckpointError when there is no config.json, ModelError when it holds no latent settings, or those of
        another kind of model.
        """
        config = read_config(checkpoint)
        values = config.get(KEY)
        if values is None:
            raise ModelError(
                f"{checkpoint} has no latent tokens ({KEY!r} is missing from its config.json)",
                "train it with `covt sft`, or add the tokens with "
                "covt_model.checkpoints.latent_checkpoint.prepare_checkpoint",
            )
        found = cls.from_dict(values)
        if found.model_type and found.model_type != config.get("model_type"):
            raise ModelError(
                f"{checkpoint} is a {config.get('model_type')!r} model with latent settings of a {found.model_type!r} "
                "model, whose tokens have other ids",
                f"remove {KEY!r} from its config.json and train it, which adds the tokens",
            )
        return found

    def write(self, checkpoint: Path | str) -> None:
        """Write into the existing `checkpoint/config.json`, leaving its other keys alone."""
        config = read_config(checkpoint)
        config[KEY] = asdict(self) | {"model_type": config.get("model_type", "")}
        (Path(checkpoint) / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def read_config(checkpoint: Path | str) -> dict[str, Any]:
    """`checkpoint/config.json` as a dictionary; raises CheckpointError when it is missing or not JSON."""
    path = Path(checkpoint) / "config.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointError(f"{checkpoint} has no config.json", "give the folder of a Hugging Face model") from error
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not JSON: {error}", "export or download the checkpoint again") from error
