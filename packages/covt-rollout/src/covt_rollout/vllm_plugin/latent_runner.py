"""Feeds latents inside vLLM's V1 model runner, to the rows of a step that are at a pad."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from covt_model.latents.feedback import feedback
from covt_model.latents.heads import load_head
from covt_model.latents.latent_modes import LatentMode
from covt_rollout.vllm_plugin.engine_settings import EngineSettings, checkpoint_folder
from covt_rollout.vllm_plugin.latent_store import FINISHED_LIMIT, FinishedLatents, RequestLatents, RowPool
from covt_rollout.vllm_plugin.protocol import Latents
from covt_rollout.vllm_plugin.request_latents import (
    choice_index,
    feeds,
    latent_key,
    prompt_latents,
    replacement,
    request_options,
)


@dataclass
class LatentState:
    """What the plugin keeps beside the runner.

    Attributes:
        settings: of the engine.
        pool: the latents of running requests.
        head: of the feedback rule; None for a rule without weights.
        requests: running requests that have reached a pad, by id.
        finished: latents of ended requests that nobody has fetched yet.
        taken: requests that ended for the client, who fetched the latents before the engine told the runner.
    """

    settings: EngineSettings
    pool: RowPool
    head: torch.nn.Module | None = None
    requests: dict[str, RequestLatents] = field(default_factory=dict)
    finished: FinishedLatents[Latents] = field(default_factory=lambda: FinishedLatents(FINISHED_LIMIT))
    taken: set[str] = field(default_factory=set)

    def counters(self) -> dict[str, int]:
        """Numbers for tests and monitoring."""
        return {
            "live_requests": len(self.requests),
            "unread_ends": len(self.taken),
            "held_latents": len(self.finished.by_key),
            "dropped_latents": self.finished.dropped,
            "latent_rows": self.pool.used,
        }


class LatentRunner(GPUModelRunner):
    """The V1 runner with latent feedback, for GPUs; `cpu_worker` has the CPU's.

    The base class calls, in each step: `_preprocess` (embeddings of the scheduled tokens), the model, `_sample`,
    `_bookkeeping_sync` (sampled ids are known). A pad sampled at position t stores the feedback of the hidden state
    that sampled it, under (request, t); the step that computes position t overwrites the pad's embedding with it.
    """

    latents: LatentState
    sample_hidden: torch.Tensor | None

    def start_latents(self, settings: EngineSettings) -> None:
        """Prepare the latents' memory and read the feedback rule's head."""
        self.latents = LatentState(settings, RowPool(settings.hidden, self.dtype, self.device))
        self.latents.head = self.read_head(checkpoint_folder(self.model_config.model))
        self.sample_hidden = None

    def read_head(self, folder: Path) -> torch.nn.Module | None:
        """Read the head beside the weights in `folder`; raises CheckpointError or ModelError when it can't be read."""
        head = load_head(folder, self.latents.settings.latent, self.latents.settings.hidden)
        return None if head is None else head.to(self.device, self.dtype).requires_grad_(False)

    def execute_model(self, *args: Any, **kwargs: Any) -> Any:
        output = super().execute_model(*args, **kwargs)
        state = self.execute_model_state
        self.sample_hidden = None if state is None else state.sample_hidden_states
        return output

    def _preprocess(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._preprocess(scheduler_output, *args, **kwargs)
        self.feed(scheduler_output.total_num_scheduled_tokens)
        return prepared

    def _sample(self, logits: Any, spec_decode_metadata: Any) -> Any:
        # A partial prefill's sample is discarded. The base class then rewinds the request's generator with
        # `set_offset`, which a CPU generator refuses. So the state is saved here and hidden from the base class.
        generators = self.input_batch.generators
        rows = np.flatnonzero(self.discard_request_mask.np[: self.input_batch.num_reqs]) if generators else ()
        states = {row: generators[row].get_state() for row in map(int, rows) if row in generators}
        output = super()._sample(logits, spec_decode_metadata)
        for row, state in states.items():
            generators[row].set_state(state)
        return output

    def _bookkeeping_sync(self, scheduler_output: Any, sampler_output: Any, *args: Any, **kwargs: Any) -> Any:
        generators = self.input_batch.generators
        discarded = self.discard_request_mask.np[: self.input_batch.num_reqs]
        hidden_away = {row: generators.pop(row) for row in map(int, np.flatnonzero(discarded)) if row in generators}
        booked = super()._bookkeeping_sync(scheduler_output, sampler_output, *args, **kwargs)
        generators.update(hidden_away)
        sampled = sampler_output.sampled_token_ids[:, 0].cpu().numpy()
        self.keep_sampled(np.flatnonzero((sampled == self.latents.settings.latent.pad_id) & ~discarded))
        return booked

    def _on_request_state_removed(self, req_id: str, req_state: Any) -> None:
        """Store the latents of a request that has ended; a preempted request has not."""
        super()._on_request_state_removed(req_id, req_state)
        latents = self.latents
        if req_id in latents.taken:
            latents.taken.discard(req_id)
        elif req_state is not None and (key := latent_key(req_state.sampling_params)):
            latents.finished.add(key, choice_index(req_id), self.fed(req_id))
        if (state := latents.requests.pop(req_id, None)) is not None:
            latents.pool.release(list(state.slots.values()))

    def feed(self, scheduled: int) -> None:
        """Overwrite the embeddings of the step's pads; the input buffers hold `scheduled` tokens in row order."""
        pads = np.flatnonzero(self.input_ids.np[:scheduled] == self.latents.settings.latent.pad_id)
        if not pads.size:
            return
        batch = self.input_batch
        starts = self.query_start_loc.np[: batch.num_reqs + 1]
        rows = np.searchsorted(starts, pads, side="right") - 1
        positions = batch.num_computed_tokens_cpu[rows] + pads - starts[rows]
        targets: list[int] = []
        slots: list[int] = []
        for pad, row, position in zip(pads.tolist(), rows.tolist(), positions.tolist(), strict=True):
            slot = self.state_of(batch.req_ids[row]).slots.get(position)
            if slot is not None:
                targets.append(pad)
                slots.append(slot)
        if targets:
            embeds = self.inputs_embeds.gpu
            embeds[torch.tensor(targets, device=embeds.device)] = self.latents.pool.read(slots).to(embeds.dtype)

    def keep_sampled(self, rows: np.ndarray) -> None:
        """Store the feedback for the batch rows whose sampled token is a pad."""
        if not rows.size:
            return
        assert self.sample_hidden is not None
        batch, pool = self.input_batch, self.latents.pool
        states = [self.state_of(batch.req_ids[row]) for row in rows.tolist()]
        feeding = [i for i, state in enumerate(states) if feeds(state.options, self.latents.settings.latent)]
        if not feeding:
            return
        rows = rows[feeding]
        latent = self.latents.settings.latent
        if latent.head == "none":
            own = self.pad_embedding().expand(len(rows), -1)
        else:
            own = feedback(self.sample_hidden[torch.from_numpy(rows)], latent.normalize)
            if self.latents.head is not None:
                own = self.latents.head(own)
        slots = pool.put(own)
        positions = (batch.num_tokens_no_spec[rows] - 1).tolist()
        for i, slot, position in zip(range(len(slots)), slots, positions, strict=True):
            state = states[feeding[i]]
            if state.options.mode is not LatentMode.KEEP:
                pool.rows[slot] = replacement(state.options, len(state.slots), own[i].to(pool.rows.dtype))
            state.slots[position] = slot

    def state_of(self, req_id: str) -> RequestLatents:
        """The request's latents; those of its prompt's pads are stored when it is seen for the first time."""
        state = self.latents.requests.get(req_id)
        if state is None:
            request = self.requests[req_id]
            options = request_options(request.sampling_params, self.latents.settings)
            state = RequestLatents(options, request.num_prompt_tokens)
            self.latents.requests[req_id] = state
            if feeds(options, self.latents.settings.latent):
                self.store_prompt(state, np.asarray(request.prompt_token_ids))
        return state

    def store_prompt(self, state: RequestLatents, prompt: np.ndarray) -> None:
        """Store what the pads of a prompt are fed."""
        pads = np.flatnonzero(prompt == self.latents.settings.latent.pad_id).tolist()
        if not pads:
            return
        pool, latent = self.latents.pool, self.latents.settings.latent
        own = prompt_latents(state.options, len(pads), latent, pool.rows, self.pad_embedding)
        state.slots.update(zip(pads, pool.put(own), strict=True))

    def pad_embedding(self) -> torch.Tensor:
        """The pad's own token embedding [1, H], which a pause checkpoint feeds."""
        model: Any = self.get_model()
        return model.embed_input_ids(torch.tensor([self.latents.settings.latent.pad_id], device=self.device))

    def fed(self, req_id: str) -> Latents:
        """What the request's output pads have been fed so far, float32 [n, H]."""
        state = self.latents.requests.get(req_id)
        slots = state.output_slots() if state is not None else []
        return self.latents.pool.read(slots).float().cpu().numpy()

    def take_latents(self, key: str) -> dict[int, Latents]:
        """Remove and return the latents of the requests with this key, running or ended, by choice."""
        found = self.latents.finished.take(key)
        for req_id, request in self.requests.items():
            if req_id not in self.latents.taken and latent_key(request.sampling_params) == key:
                found[choice_index(req_id)] = self.fed(req_id)
                self.latents.taken.add(req_id)
        return found
