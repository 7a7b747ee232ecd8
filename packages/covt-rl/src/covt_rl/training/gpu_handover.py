"""Trainer and server take turns on the same GPUs: while one computes, the other holds almost no memory there.

vLLM's sleep mode at level 2 frees the server's memory and keeps neither weights nor caches. The trainer moves its
states to the host. A server that wakes up always gets the newest weights: wake the weights' memory → load → wake the
caches' memory → sample → sleep. The same sequence serves a server that was restarted in between, which is awake with
the weights of its checkpoint.
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
    """The event that rank 0 emits when the GPUs change hands. No server may be started while the trainer has them."""
    return {"event": EVENT, "holder": holder}


async def sleep_replicas(client: RolloutClient) -> None:
    """Abort running requests and put every replica to sleep.

    A sleeping replica has no weights, so it reports no version until weights are pushed. A replica that has died is
    restarted first, so that none comes up awake later.
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
    """Make `load` work for sleeping replicas: wake them, load, and then allocate their caches."""

    async def wake_and_load(transport: Transport, folder: Path | str, version: int) -> None:
        await endpoints.wake_weights(transport)
        # vLLM resumes requests when it is told to wake a server that is awake. Abort what it has computed since.
        await endpoints.pause(transport)
        await load(transport, folder, version)
        await endpoints.wake_caches(transport)

    return wake_and_load


async def first_sleep(client: RolloutClient) -> int:
    """Check the servers and put them to sleep, before the trainer takes any memory.

    Returns:
        The weight version that they served.

    Raises:
        RlError: a server can't sleep, sleeps already, or serves another model.
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
    """Raise RlError for a server without sleep mode, in which vLLM would report sleep and free nothing."""
    statuses = await endpoints.worker_statuses(client.transport)
    for replica, workers in zip(client.transport.replicas, statuses, strict=True):
        if not all(worker.sleep_mode for worker in workers):
            raise RlError(
                f"server.sleep = true, but the server at {replica.url} was started without sleep mode",
                "start it with `covt serve CKPT --sleep` on the trainer's GPUs, or set server.sleep = false",
            )


class Offloadable(Protocol):
    """Memory of a trainer's rank that can leave its GPU."""

    def offload(self) -> None: ...
    def reload(self) -> None: ...


class GpuHandover:
    """Hands the GPUs from trainer to server and back, on every rank. At first the trainer has them.

    Args:
        held: memory of this rank on its GPU.
        client: of the servers, on rank 0.
        barrier: waits for all ranks.
        emit: sends events to the process that started the servers.
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
        """Move all ranks off the GPUs; the next push wakes the servers (collective)."""
        if self.holder == "server":
            return
        self.held.offload()
        self.barrier()
        if self.client is not None:
            self.emit(turn_event("server"))
        self.holder = "server"

    def to_trainer(self) -> None:
        """Put the servers to sleep, then move all ranks back (collective)."""
        if self.holder == "trainer":
            return
        if self.client is not None:
            self.client.run(sleep_replicas(self.client.client))
            self.emit(turn_event("trainer"))
        self.barrier()
        self.held.reload()
        self.holder = "trainer"
