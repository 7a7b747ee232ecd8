"""The model card that an export writes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from covt_model.families.family import Family
from covt_model.latent_config import LatentConfig

UNKNOWN_LICENCE = "unknown"


@dataclass(frozen=True)
class Facts:
    """What a model card says about where a model comes from and what it can do; empty parts are left out.

    base: name of the model it was trained from. licence: that model's. data, recipe, metrics: name → value.
    accuracy, ablation: name → (value, low, high), fractions with 95 % bounds.
    """

    base: str = ""
    licence: str = UNKNOWN_LICENCE
    data: Mapping[str, str] = field(default_factory=dict)
    recipe: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, str] = field(default_factory=dict)
    accuracy: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    ablation: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)


def read_licence(checkpoint: Path | str) -> tuple[str, str]:
    """(licence, base model) from the front matter of a checkpoint's README.md, each empty when it isn't said."""
    card = Path(checkpoint) / "README.md"
    text = card.read_text(errors="replace") if card.is_file() else ""
    front = text.split("---", 2)[1] if text.startswith("---") and text.count("---") >= 2 else ""
    found = {
        key: value.strip() for key, value in re.findall(r"^(license|license_name|base_model):[ \t]*(.+)$", front, re.M)
    }
    return found.get("license_name") or found.get("license", ""), found.get("base_model", "")


def model_card(title: str, latent: LatentConfig, family: Family, facts: Facts | None = None) -> str:
    """Markdown of the checkpoint's README: what it is, how it decodes, how to run it, where it comes from."""
    facts = facts or Facts()
    rule = {
        "identity": "its input is the model's own final-norm hidden state at the position before"
        + (", divided by its root mean square" if latent.normalize == "rms" else ""),
        "none": "its input is the pad's learned embedding (the pause control: same tokens, no feedback)",
    }.get(latent.head, f"its input is the hidden state at the position before, through the head {latent.head!r}")
    return f"""---
library_name: transformers
pipeline_tag: image-text-to-text
license: {facts.licence}
{f"base_model: {facts.base}{chr(10)}" if facts.base else ""}tags: [{family.model_type}, latent-reasoning]
---

# {title}

A {family.title} checkpoint that reasons with latent visual tokens (Interleaved Latent Visual Reasoning,
arXiv 2512.05665). After `<|latent_start|>` (id {latent.start_id}) it takes {latent.size} latent steps,
`<|latent_pad|>` (id {latent.pad_id}); at each, {rule}. Then `<|latent_end|>` (id {latent.end_id}) follows and
text continues. The settings are in `config.json` under `covt_latent`.

## Use

The files are stock: `{family.model_class_name}.from_pretrained` loads them. A plain `generate` treats
latent pads as ordinary tokens; to decode latents with nothing but Transformers, let it take the loop in
`custom_generate/generate.py`:

```python
from PIL import Image
from transformers import AutoProcessor, {family.model_class_name}

folder = "."  # where this file lies
processor = AutoProcessor.from_pretrained(folder)
model = {family.model_class_name}.from_pretrained(folder, dtype="auto")
question = [{{"type": "image"}}, {{"type": "text", "text": "Where do you end?"}}]
text = processor.apply_chat_template([{{"role": "user", "content": question}}], add_generation_prompt=True)
inputs = processor(text=[text], images=[Image.open("picture.png")], return_tensors="pt")
answer = model.generate(**inputs, max_new_tokens=512, custom_generate=folder, trust_remote_code=True)
print(processor.decode(answer[0, inputs["input_ids"].shape[1] :], skip_special_tokens=False))
```

To serve it with an OpenAI-compatible API and continuous batching: `covt serve .`

The three latent tokens are special tokens: decoding with `skip_special_tokens=True` hides them.
{_origin(facts)}{_results(facts)}
## Licence

{_licence(facts)}
"""


def _licence(facts: Facts) -> str:
    base = f" (`{facts.base}`)" if facts.base else ""
    if facts.licence == UNKNOWN_LICENCE:
        return f"The base model{base} doesn't state its licence; whatever it is, it applies to these weights too."
    return f"These weights are derived from the base model{base} and stand under its licence: {facts.licence}."


def _origin(facts: Facts) -> str:
    parts = [("Data", facts.data), ("Recipe", facts.recipe), ("Metrics at the end of training", facts.metrics)]
    return "".join(f"\n## {name}\n\n{_table(('', ''), rows.items())}\n" for name, rows in parts if rows)


def _results(facts: Facts) -> str:
    text = ""
    for name, note, values in (
        ("Accuracy", "Greedy answers through the server, with 95 % intervals.", facts.accuracy),
        ("Do the latents matter?", "The same rows with the latents replaced or taken out.", facts.ablation),
    ):
        if values:
            rows = [(key, f"{v:.1%} [{low:.1%}, {high:.1%}]") for key, (v, low, high) in values.items()]
            text += f"\n## {name}\n\n{note}\n\n{_table(('', 'accuracy'), rows)}\n"
    return text


def _table(head: tuple[str, str], rows: object) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    lines += [f"| {key} | {str(value).replace('|', chr(92) + '|')} |" for key, value in rows]  # type: ignore[attr-defined]
    return "\n".join(lines)
