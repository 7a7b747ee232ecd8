"""The model card that an export writes."""

from __future__ import annotations

from covt_model.config import LatentConfig


def model_card(title: str, latent: LatentConfig) -> str:
    """Markdown of the checkpoint's README: what it is, how it decodes, how to run it."""
    rule = {
        "identity": "its input is the model's own final-norm hidden state at the position before"
        + (", divided by its root mean square" if latent.normalize == "rms" else ""),
        "none": "its input is the pad's learned embedding (the pause control: same tokens, no feedback)",
    }[latent.head]
    return f"""---
library_name: transformers
pipeline_tag: image-text-to-text
tags: [qwen2_5_vl, latent-reasoning]
---

# {title}

A Qwen2.5-VL checkpoint that reasons with latent visual tokens (Interleaved Latent Visual Reasoning,
arXiv 2512.05665). After `<|latent_start|>` (id {latent.start_id}) it takes {latent.size} latent steps,
`<|latent_pad|>` (id {latent.pad_id}); at each, {rule}. Then `<|latent_end|>` (id {latent.end_id}) follows and
text goes on. The settings are in `config.json` under `covt_latent`.

The files are stock: `Qwen2_5_VLForConditionalGeneration.from_pretrained` loads them. A plain `generate` treats
latent pads as ordinary tokens; to decode latents, serve the folder with the `covt` command:

```
covt serve .
```

The three latent tokens are special tokens: decoding with `skip_special_tokens=True` hides them.
"""
