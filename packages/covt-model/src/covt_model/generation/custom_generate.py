"""Latent decoding for stock Transformers: `model.generate(..., custom_generate=FOLDER, trust_remote_code=True)`.

This one file is shipped in exported checkpoints and needs nothing but PyTorch and Transformers. Each row of the batch
has its own state: after `<|latent_start|>` it takes K `<|latent_pad|>` steps, whose input embeddings are the final-norm
hidden states of the positions before them, then `<|latent_end|>`, all forced; other rows go on with text meanwhile.
The settings are `model.config.covt_latent`. Batches are padded on the left, as `generate` always wants them.
"""

import torch
from safetensors.torch import load_file
from torch.nn.functional import linear, silu
from transformers.generation.utils import GenerateDecoderOnlyOutput
from transformers.utils.hub import cached_file

EPS = 1e-6
HEAD_FILE = "covt_latent/head.safetensors"


def generate(model, streamer=None, synced_gpus=None, **kwargs):
    """What `model.generate(**kwargs)` returns, greedy or sampled, with latents decoded.

    Raises:
        ValueError: the checkpoint has no latent settings, or an unknown head; or beams or an assistant are asked for.
    """
    latent = getattr(model.config, "covt_latent", None)
    if latent is None:
        raise ValueError("this checkpoint has no latent settings (config.json lacks 'covt_latent')")
    beams = kwargs.get("num_beams") or getattr(kwargs.get("generation_config"), "num_beams", None) or 1
    if beams > 1 or kwargs.get("assistant_model") is not None:
        raise ValueError("latents are decoded greedily or by sampling, not with beams or an assistant model")
    ids = kwargs.get("input_ids", kwargs.get("inputs"))
    if kwargs.get("image_grid_thw") is not None and kwargs.get("mm_token_type_ids") is None:
        # Without them Transformers falls back to one-dimensional positions without a word.
        kwargs["mm_token_type_ids"] = (ids == model.config.image_token_id).int()

    def loop(model, input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs):
        return _decode(
            model, input_ids, logits_processor, stopping_criteria, generation_config, model_kwargs, latent,
            streamer, bool(synced_gpus),
        )  # fmt: skip

    return model.generate(custom_generate=loop, **{key: value for key, value in kwargs.items() if value is not None})


def _decode(
    model, ids, logits_processor, stopping_criteria, config, model_kwargs, latent, streamer, synced_gpus
):  # fmt: skip
    """The sampling loop of Transformers with latent mode in it. ids: [B, T], padded on the left."""
    rows, device = ids.shape[0], ids.device
    state = torch.full((rows,), -1, dtype=torch.long, device=device)  # pads due; 0: the end marker; -1: text
    banned = torch.tensor([latent["pad_id"], latent["end_id"]], device=device)
    unfinished = torch.ones(rows, dtype=torch.long, device=device)
    scores, raw = [], []
    head = _load_head(model, latent["head"])
    hidden, model_kwargs = _forward(model, ids, model_kwargs, None)
    while True:
        logits = model.lm_head(hidden).to(torch.float32, copy=True)
        chosen, masked = _choose(ids, logits, logits_processor, config.do_sample, banned)
        chosen = torch.where(state > 0, latent["pad_id"], torch.where(state == 0, latent["end_id"], chosen))
        state = torch.where(state >= 0, state - 1, state)
        state = torch.where(chosen == latent["start_id"], latent["size"], state)
        if config._pad_token_tensor is not None:
            chosen = torch.where(unfinished.bool(), chosen, config._pad_token_tensor.to(device))
        if config.output_scores:
            scores.append(masked)
        if config.output_logits:
            raw.append(logits)
        ids = torch.cat([ids, chosen[:, None]], dim=1)
        if streamer is not None:
            streamer.put(chosen.cpu())
        unfinished = unfinished & ~stopping_criteria(ids, tuple(scores) or None)
        finished = not bool(unfinished.max())
        if not model._has_unfinished_sequences(finished, synced_gpus, device=device):
            break
        embeds = model.get_input_embeddings()(chosen)
        if latent["head"] != "none":
            is_pad = (chosen == latent["pad_id"]) & unfinished.bool()
            fed = head(_normalize(hidden, latent["normalize"]))
            embeds = torch.where(is_pad[:, None], fed.to(embeds), embeds)
        hidden, model_kwargs = _forward(model, ids, model_kwargs, embeds)
    if streamer is not None:
        streamer.end()
    if not config.return_dict_in_generate:
        return ids
    return GenerateDecoderOnlyOutput(
        sequences=ids,  # pyright: ignore[reportArgumentType]
        scores=tuple(scores) or None,
        logits=tuple(raw) or None,
        past_key_values=model_kwargs.get("past_key_values"),
    )


def _choose(ids, logits, logits_processor, do_sample, banned):
    """(next ids [B], processed scores [B, V]) from logits [B, V]; pads and the end marker can't be sampled as text."""
    scores = logits_processor(ids, logits.index_fill(1, banned, float("-inf")))
    if do_sample:
        return torch.multinomial(scores.softmax(-1), num_samples=1).squeeze(1), scores
    return scores.argmax(-1), scores


def _forward(model, ids, model_kwargs, embeds):
    """The hidden states [B, H] at the last position; the prompt's forward when `embeds` is None, else one step's."""
    first = embeds is None
    length = None if first else 1
    inputs = model.prepare_inputs_for_generation(
        ids, next_sequence_length=length, is_first_iteration=first, **model_kwargs
    )
    inputs.pop("logits_to_keep", None)
    if not first:
        inputs["input_ids"], inputs["inputs_embeds"] = None, embeds[:, None]
    outputs = model.model(**inputs, return_dict=True)
    return outputs.last_hidden_state[:, -1], model._update_model_kwargs_for_generation(outputs, model_kwargs)


def _normalize(hidden, normalize):
    """Hidden states [B, H], divided by their root mean square where the settings say so."""
    if normalize == "none":
        return hidden
    wide = hidden.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPS)).to(hidden.dtype)


def _load_head(model, kind):
    """The feedback head: [B, H] → [B, H]. Heads with weights have them in covt_latent/head.safetensors."""
    if kind in ("identity", "none"):
        return lambda x: x
    if kind not in ("linear", "mlp"):
        raise ValueError(f"this file doesn't know the feedback head {kind!r}; export the checkpoint again")
    path = cached_file(model.config._name_or_path, HEAD_FILE)
    if path is None:
        raise ValueError(f"this checkpoint has head {kind!r} but no {HEAD_FILE}; export it again")
    weights = load_file(path)
    weights = {name: tensor.to(model.lm_head.weight) for name, tensor in weights.items()}
    if kind == "linear":
        return lambda x: linear(x, weights["weight"], weights["bias"])
    return lambda x: (
        x
        + linear(
            silu(linear(x, weights["up.weight"], weights["up.bias"])), weights["down.weight"], weights["down.bias"]
        )
    )
