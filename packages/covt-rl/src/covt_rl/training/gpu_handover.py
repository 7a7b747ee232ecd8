"""Trainer and server on the same GPUs, by turns: while one computes, the other holds next to nothing there.

vLLM's sleep mode at level 2 gives the server's memory back and keeps neither weights nor caches; the trainer moves its
states to the host. A server that wakes is therefore given the newest weights, always: wake the weights' memory → load →
wake the caches' memory → sample → sleep. It is also what a server needs that was started again in between, which is
awake and has the weights of its checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

from covt_rl.planning.checks import check_server
from covt_rl.rl_errors import RlError
from covt_rollout import endpoints
from covt_rollout.client.blocking_client import BlockingClient
from covt_rollout.client.http_transport import Transport
from covt_rollout.client.rollout_client import RolloutClient
from covt_rollout.rollout_errors import ServerError
from covt_rollout.weights.weight_sync import LoadWeights, set_weight_version

ASLEEP = "asleep"
EVENT = "turn"
Holder = Literal["trainer", "server"]


def turn_event(holder: Holder) -> dict[str, Any]:
    """What rank 0 emits when the GPUs change hands: no server may be started while the trainer has them."""
    return {"event": EVENT, "holder": holder}


async def sleep_replicas(client: RolloutClient) -> None:
    """Put all replicas to sleep, what runs is aborted; one that died is waited for, so that none wakes up later.

    They keep the number of no weights, since they have none: whatever brings them back has to push some.
    """
    try:
        await _sleep(client)
    except ServerError:
        if not await client.transport.recover():
            raise
        await _sleep(client)
    await set_weight_version(client, ASLEEP)


async def _sleep(client: RolloutClient) -> None:
    await endpoints.sleep(client.transport)


def waking(load: LoadWeights) -> LoadWeights:
    """`load` for replicas of which some may be asleep: their caches get their memory once the weights are there."""

    async def wake_and_load(transport: Transport, folder: Path | str, version: int) -> None:
        await endpoints.wake_weights(transport)
        # A server that was awake goes on with its requests when it is woken: what it computes until now is forgotten.
        await endpoints.pause(transport)
        await load(transport, folder, version)
        await endpoints.wake_caches(transport)

    return wake_and_load


async def first_sleep(client: RolloutClient) -> int:
    """Before the trainer takes any memory: the servers are the checkpoint's and can sleep, and do so.

    Returns the version that they served; raises RlError.
    """
    await check_sleep_mode(client)
    urls = [replica.url for replica in client.transport.replicas]
    for url, sleeps in zip(urls, await endpoints.are_sleeping(client.transport), strict=True):
        if sleeps:
            raise RlError(f"the server at {url} sleeps: another training has it, or left it so", "start it again")
    await check_server(client)
    served = await client.weight_version()
    await sleep_replicas(client)
    return served


async def check_sleep_mode(client: RolloutClient) -> None:
    """Raise RlError for a server without sleep mode: vLLM would say that it sleeps, and give nothing back."""
    statuses = await endpoints.worker_statuses(client.transport)
    for replica, workers in zip(client.transport.replicas, statuses, strict=True):
        if not all(worker.sleep_mode for worker in workers):
            raise RlError(
                f"server.sleep = true, but the server at {replica.url} was started without sleep mode",
                "start it with `covt serve CKPT --sleep` on the trainer's GPUs, or set server.sleep = false",
            )


class Offloadable(Protocol):
    """What a trainer's rank holds on its GPU."""

    def offload(self) -> None: ...
    def reload(self) -> None: ...


class GpuHandover:
    """Whose turn it is, on every rank; at first the trainer's, with all servers asleep.

    held: by this rank. client: rank 0's. barrier: waits for all ranks. emit: tells the process that started the
    servers.
    """

    def __init__(
        self,
        held: Offloadable,
        client: BlockingClient | None,
        barrier: Callable[[], Any],
        emit: Callable[[dict[str, Any]], None],
    ) -> None:
        self.held, self.client, self.barrier, self.emit = held, client, barrier, emit
        self.holder: Holder = "trainer"

    def to_server(self) -> None:
        """All ranks leave the GPUs; the next push wakes the servers (collective)."""
        if self.holder == "server":
            return
        self.held.offload()
        self.barrier()
        if self.client is not None:
            self.emit(turn_event("server"))
        self.holder = "server"

    def to_trainer(self) -> None:
        """The servers fall asleep, then all ranks come back (collective)."""
        if self.holder == "trainer":
            return
        if self.client is not None:
            self.client.run(sleep_replicas(self.client.client))
            self.emit(turn_event("trainer"))
        self.barrier()
        self.held.reload()
        self.holder = "trainer"
