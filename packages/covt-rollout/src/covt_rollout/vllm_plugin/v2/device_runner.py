"""Feeds latents inside vLLM's V2 model runner, without a word from the device to the host in a step.

The V2 runner prepares a step while the last one still runs: the host knows neither the sampled tokens nor how many pads
a request has. So `DeviceLatents` keeps both on the device, and each hook only adds work to the runner's own stream:

- `sample` has the hidden states that sampled the step's tokens, and stores the feedback of those that are pads;
- `prepare_inputs_embeds` runs outside the CUDA graphs and overwrites embeddings in the buffer that they read;
- `add_request` copies a prompt's latents, or a preempted request's, into the request's slot. Its slot's last owner was
  served by work that is ahead in the same stream;
- `remove_request` takes a copy of the slot: on the device for a preempted request, whose slot is given away, and on its
  way to the host for an ended one that a client will ask for.

No tensor's shape depends on the device's numbers, so full and piecewise CUDA graphs and asynchronous scheduling stay as
they are. Only `take_latents`, which a client calls between steps, waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from vllm.v1.worker.gpu.model_runner import GPUModelRunner
from vllm.v1.worker.gpu.model_states.default import DefaultModelState

from covt_model.latents.feedback import feedback
from covt_model.latents.heads import load_head
from covt_rollout.vllm_plugin.engine_settings import EngineSettings, checkpoint_folder
from covt_rollout.vllm_plugin.latent_store import FINISHED_LIMIT, FinishedLatents
from covt_rollout.vllm_plugin.protocol import Latents
from covt_rollout.vllm_plugin.request_latents import (
    choice_index,
    feeds,
    latent_key,
    prompt_latents,
    request_options,
)
from covt_rollout.vllm_plugin.v2.device_latents import DeviceLatents, HostCopy

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import NewRequestData
    from vllm.v1.worker.gpu.input_batch import InputBatch

NEWEST = -1
"""In place of a pad's number: the request's newest pad."""


@dataclass
class SlotRequest:
    """What the host knows of a request in a slot.

    Attributes:
        key: under which its latents are kept.
        choice: its number among the samples of one prompt.
        prompt: its prompt's length.
        prompt_pads: pads in its prompt.
        pads_before: [prefilled tokens + 1], pads before each position; None where the prefilled tokens have none.
    """

    key: str | None
    choice: int
    prompt: int
    prompt_pads: int
    pads_before: np.ndarray | None


@dataclass
class DeviceLatentState:
    """What the plugin keeps beside the V2 runner; `latent_runner.LatentState` is the V1 runner's.

    Attributes:
        settings: of the engine.
        store: the latents on the device.
        head: of the feedback rule; None for a rule without weights.
        requests: running requests, by slot.
        preempted: latents of requests that wait to be prefilled again, by id.
        finished: latents of ended requests that nobody has fetched yet.
        taken: requests that ended for the client, who fetched the latents before the engine told the runner.
    """

    settings: EngineSettings
    store: DeviceLatents
    head: torch.nn.Module | None = None
    requests: dict[int, SlotRequest] = field(default_factory=dict[int, SlotRequest])
    preempted: dict[str, tuple[SlotRequest, torch.Tensor]] = field(
        default_factory=dict[str, tuple[SlotRequest, torch.Tensor]]
    )
    finished: FinishedLatents[HostCopy] = field(default_factory=lambda: FinishedLatents(FINISHED_LIMIT))
    taken: set[str] = field(default_factory=set[str])

    def counters(self) -> dict[str, int]:
        """Numbers for tests and monitoring."""
        return {
            "live_requests": len(self.requests) + len(self.preempted),
            "unread_ends": len(self.taken),
            "held_latents": len(self.finished.by_key),
            "dropped_latents": self.finished.dropped,
            "latent_rows": sum(len(rows) for _, rows in self.preempted.values()),
        }


class LatentModelState(DefaultModelState):
    """vLLM's state of a multimodal model, with latents."""

    runner: DeviceLatentRunner

    def add_request(self, req_index: int, new_req_data: NewRequestData) -> None:
        super().add_request(req_index, new_req_data)
        self.runner.begin(req_index, new_req_data)

    def remove_request(self, req_id: str) -> None:
        super().remove_request(req_id)
        self.runner.end(req_id)

    def prepare_inputs_embeds(self, scheduled_encoder_inputs: Any, input_batch: InputBatch, req_states: Any) -> Any:
        embeds = super().prepare_inputs_embeds(scheduled_encoder_inputs, input_batch, req_states)
        self.runner.feed(embeds[: input_batch.num_tokens], input_batch)
        return embeds


class DeviceLatentRunner(GPUModelRunner):
    """The V2 runner with latent feedback, for GPUs; `cpu_worker` has the CPU's."""

    latents: DeviceLatentState
    preempting: set[str]
    ending: set[str]

    def start_latents(self, settings: EngineSettings) -> None:
        """Reserve the latents' memory and read the feedback rule's head."""
        store = DeviceLatents(self.max_num_reqs, settings.max_pads, settings.hidden, self.dtype, self.device)
        self.latents = DeviceLatentState(settings, store)
        self.latents.head = self.read_head(checkpoint_folder(self.model_config.model))
        self.preempting, self.ending = set(), set()

    def read_head(self, folder: Path) -> torch.nn.Module | None:
        """Read the head beside the weights in `folder`; raises CheckpointError or ModelError when it can't be read."""
        head = load_head(folder, self.latents.settings.latent, self.latents.settings.hidden)
        return None if head is None else head.to(self.device, self.dtype).requires_grad_(False)

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        super().load_model(*args, **kwargs)
        self.model_state.__class__ = LatentModelState
        self.model_state.runner = self  # pyright: ignore[reportAttributeAccessIssue]

    def finish_requests(self, scheduler_output: Any) -> None:
        self.preempting = set(scheduler_output.preempted_req_ids or ())
        self.ending = set(scheduler_output.finished_req_ids)
        super().finish_requests(scheduler_output)
        self.preempting, self.ending = set(), set()

    def sample(self, hidden_states: torch.Tensor, input_batch: InputBatch, *args: Any, **kwargs: Any) -> Any:
        output, sampled, rejected = super().sample(hidden_states, input_batch, *args, **kwargs)
        latent = self.latents.settings.latent
        own = feedback(hidden_states[input_batch.logits_indices], latent.normalize)
        if latent.head == "none":
            own = self.pad_embedding().to(own).expand_as(own)
        elif self.latents.head is not None:
            own = self.latents.head(own)
        pads = (output.sampled_token_ids[:, 0] == latent.pad_id) & (sampled > 0)
        self.latents.store.store(input_batch.idx_mapping.long(), pads, own)
        return output, sampled, rejected

    def begin(self, slot: int, request: NewRequestData) -> None:
        """Give a new request, or one that was preempted, its slot."""
        latents, params = self.latents, request.sampling_params
        options = request_options(params, latents.settings)
        tokens = np.asarray(request.prefill_token_ids)
        pads = tokens == latents.settings.latent.pad_id
        prompt = len(request.prompt_token_ids or ())
        known = SlotRequest(latent_key(params), choice_index(request.req_id), prompt, int(pads[:prompt].sum()), None)
        if pads.any():
            known.pads_before = np.concatenate([[0], np.cumsum(pads)])
        fed: torch.Tensor | None = None
        feeding = feeds(options, latents.settings.latent)
        if (preempted := latents.preempted.pop(request.req_id, None)) is not None:
            fed = preempted[1]
        elif known.prompt_pads and feeding:
            like = latents.store.rows
            fed = prompt_latents(options, known.prompt_pads, latents.settings.latent, like, self.pad_embedding)
        latents.store.add(slot, options, feeding, fed, int(pads.sum()))
        latents.requests[slot] = known

    def end(self, req_id: str) -> None:
        """Free a request's slot, and keep what will be asked for; called before the runner forgets the slot."""
        latents = self.latents
        slot = self.req_states.req_id_to_index.get(req_id)
        if slot is None:
            if req_id in self.ending and (waiting := latents.preempted.pop(req_id, None)) is not None:
                known, rows = waiting
                self._finish(req_id, known, rows[known.prompt_pads :], torch.tensor([len(rows) - known.prompt_pads]))
            return
        known = latents.requests.pop(slot)
        if req_id in self.preempting:
            latents.preempted[req_id] = known, latents.store.rows[slot, : self._most_pads(slot, known)].clone()
        elif req_id in self.ending:
            self._finish(req_id, known, *self._output_rows(slot, known))

    def _finish(self, req_id: str, known: SlotRequest, rows: torch.Tensor, count: torch.Tensor) -> None:
        latents = self.latents
        if req_id in latents.taken:
            latents.taken.discard(req_id)
        elif known.key:
            latents.finished.add(known.key, known.choice, HostCopy.start(rows, count))

    def _most_pads(self, slot: int, known: SlotRequest) -> int:
        """The most pads that the request can have: not more than it has tokens, of which the host counts the most."""
        sampled = int(self.req_states.num_computed_tokens_np[slot]) + 2 - known.prompt
        return min(known.prompt_pads + max(sampled, 0), self.latents.store.pads)

    def _output_rows(self, slot: int, known: SlotRequest) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows [n, H] of the request's output, and how many of them are latents [1]."""
        store = self.latents.store
        rows = store.rows[slot, known.prompt_pads : self._most_pads(slot, known)]
        count = store.counts[slot : slot + 1] - known.prompt_pads
        return rows, torch.where(store.codes[slot : slot + 1] < 0, torch.zeros_like(count), count)

    def feed(self, embeds: torch.Tensor, batch: InputBatch) -> None:
        """Overwrite the embeddings [N, H] of the step's pads."""
        starts, slots = batch.query_start_loc[: batch.num_reqs + 1], batch.idx_mapping[: batch.num_reqs].long()
        first = np.full(batch.num_reqs, NEWEST, dtype=np.int64)
        for row in np.flatnonzero(batch.is_prefilling_np[: batch.num_reqs]).tolist():
            before = self.latents.requests[int(batch.idx_mapping_np[row])].pads_before
            first[row] = 0 if before is None else before[int(batch.num_computed_tokens_np[row])]
        on_device = torch.from_numpy(first).to(embeds.device, non_blocking=True)
        pads = batch.input_ids[: batch.num_tokens] == self.latents.settings.latent.pad_id
        self.latents.store.feed(embeds, pads, starts, slots, on_device)

    def pad_embedding(self) -> torch.Tensor:
        """The pad's own token embedding [1, H], which a pause checkpoint feeds."""
        model: Any = self.get_model()
        return model.embed_input_ids(torch.tensor([self.latents.settings.latent.pad_id], device=self.device))

    def take_latents(self, key: str) -> dict[int, Latents]:
        """Remove and return the latents of the requests with this key, running or ended, by choice."""
        latents = self.latents
        found = {choice: copy.read() for choice, copy in latents.finished.take(key).items()}
        for slot, known in latents.requests.items():
            req_id = self.req_states.index_to_req_id[slot]
            if known.key == key and req_id not in latents.taken:
                found[known.choice] = HostCopy.start(*self._output_rows(slot, known)).read()
                latents.taken.add(req_id)
        return found
