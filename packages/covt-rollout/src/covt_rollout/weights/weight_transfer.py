"""Weights from the trainer's GPU to the servers' over NCCL: vLLM's own weight-transfer engine, driven over HTTP.

A transfer is one push's: connect (the trainer is rank 0 of a group with all workers of all replicas), announce names,
dtypes and shapes in one request, broadcast the tensors packed in buckets, finish, leave. A group of its own for each
push costs about a second, and a server that was started again in between needs nothing special. What is sent is the
publisher's copy of the weights, so one rank alone can send them again to a server that has lost them.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from covt_model.latents import heads
from covt_rollout.client.http_transport import Transport
from covt_rollout.rollout_errors import RolloutError, ServerUnreachableError
from covt_rollout.server.server_options import is_loopback
from covt_rollout.server.server_process import free_port

if TYPE_CHECKING:
    import torch

    from covt_rl.rl_recipe import RlConfig

BUCKET_BYTES, BUCKETS = 1 << 30, 2
Way = Literal["files", "nccl"]
Tensors = Callable[[], Iterator[tuple[str, "torch.Tensor"]]]
Connect = Callable[[str, int, int], Any]
"""Address, port and size of the group → the trainer's end of it, as rank 0; waits for all others."""
Send = Callable[[Any, Tensors], None]
"""Broadcast all tensors of a push in their order, packed as `init_bodies` said, through what `Connect` gave."""


def way(config: RlConfig, device: str, urls: Sequence[str], checkpoint: Path) -> Way:
    """How a run's weights reach its servers. `auto` is NCCL where the trainer and the servers have GPUs each.

    device: type of rank 0's. NCCL can't join two processes on one GPU, so a server that shares the trainer's is given
    files, and so is one of a latent head with weights, which is no part of vLLM's model. Raises RolloutError for NCCL
    where it can't be.
    """
    wanted = config.rollout.transfer
    remote = any(not is_loopback(urlsplit(url).hostname or "") for url in urls)
    reason = ""
    if device != "cuda":
        reason = f"the trainer runs on {device}"
    elif config.server.sleep or not (config.server.gpus or remote):
        reason = "the server shares the trainer's GPU"
    elif (checkpoint / heads.FILE).is_file():
        reason = f"the checkpoint has {heads.FILE}, which vLLM's transfer doesn't know"
    if wanted == "nccl" and reason:
        raise RolloutError(f"rollout.transfer = 'nccl', but {reason}", "use rollout.transfer = 'files' or 'auto'")
    return "files" if wanted == "files" or reason else "nccl"


@dataclass(frozen=True)
class Nccl:
    """Loads a folder's weights into all replicas over NCCL; a `weight_sync.Load`."""

    connect: Connect
    send: Send

    async def __call__(self, transport: Transport, folder: Path | str, version: int) -> None:
        """Raises ServerError when a replica fails or does not come; the engines are then left for the next push."""
        answers = await transport.each("GET", "/get_world_size")
        workers = [answer["world_size"] for answer in answers]
        address = own_address(transport.replicas[0].url)
        port, size = free_port(address), 1 + sum(workers)
        group = await beside(
            lambda: self.connect(address, port, size),
            transport.each("POST", "/init_weight_transfer_engine", bodies=init_bodies(address, port, workers)),
        )
        await transport.each("POST", "/start_weight_update")
        await beside(
            lambda: self.send(group, lambda: stored(Path(folder))),
            transport.each("POST", "/update_weights", update_body(Path(folder))),
        )
        await transport.each("POST", "/finish_weight_update")
        await transport.each("POST", "/collective_rpc", {"method": "covt_finish_transfer", "args": [version]})
        await transport.each("POST", "/shutdown_weight_transfer_engine")


def init_bodies(address: str, port: int, workers: Sequence[int]) -> list[dict[str, Any]]:
    """What each replica is told to join: `workers` are the numbers of their processes. The trainer is rank 0."""
    shared = {
        "master_address": address,
        "master_port": port,
        "world_size": 1 + sum(workers),
        "packed": True,
        "packed_buffer_size_bytes": BUCKET_BYTES,
        "packed_num_buffers": BUCKETS,
    }
    offsets = [1 + sum(workers[:number]) for number in range(len(workers))]
    return [{"init_info": shared | {"rank_offset": offset}} for offset in offsets]


def update_body(folder: Path) -> dict[str, Any]:
    """Names, dtypes and shapes of `folder`'s tensors in the order in which they are sent."""
    from safetensors import safe_open

    names: list[str] = []
    dtypes: list[str] = []
    shapes: list[list[int]] = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                held = file.get_slice(name)
                names.append(name)
                dtypes.append(DTYPES[held.get_dtype()])
                shapes.append(list(held.get_shape()))
    return {"update_info": {"names": names, "dtype_names": dtypes, "shapes": shapes}}


# What safetensors and torch call the same dtype.
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def stored(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a folder, one in memory at a time, in the order of `update_body`."""
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            yield from ((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118


def connect_nccl(address: str, port: int, size: int) -> Any:
    """vLLM's communicator on this rank's GPU, as rank 0 of `size`."""
    from vllm.distributed.weight_transfer.nccl_common import trainer_init

    return trainer_init({"master_address": address, "master_port": port, "world_size": size})


def send_nccl(group: Any, tensors: Tensors) -> None:
    """Broadcast in packed buckets, then leave the group."""
    from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_producer

    try:
        packed_nccl_broadcast_producer(
            iterator=tensors(),
            group=group,
            src=0,
            post_iter_func=lambda item: item[1].to(group.device),
            buffer_size_bytes=BUCKET_BYTES,
            num_buffers=BUCKETS,
        )
    finally:
        group.destroy()


def on_device(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """The function with `device` as the current one of whatever thread calls it."""

    def run(*arguments: Any) -> Any:
        import torch

        with torch.accelerator.device_index(device.index or 0):
            return function(*arguments)

    return run


def nccl(device: torch.device) -> Nccl:
    """NCCL from rank 0's GPU."""
    return Nccl(on_device(connect_nccl, device), on_device(send_nccl, device))


async def beside(blocking: Callable[[], Any], request: Awaitable[Any]) -> Any:
    """Both at once, since each waits for the other; the first failure is raised, whatever the other does.

    A thread that waits for a peer that never comes can't be ended: it is a daemon, so it holds nothing up.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def finish(result: Any, error: Exception | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)

    def run() -> None:
        result, error = None, None
        try:
            result = blocking()
        except Exception as caught:
            error = ServerUnreachableError(
                f"the transfer of weights failed: {caught}", "see the server's log, or use rollout.transfer = 'files'"
            )
        if not loop.is_closed():
            loop.call_soon_threadsafe(finish, result, error)

    threading.Thread(target=run, name="weight-transfer", daemon=True).start()
    result, _ = await asyncio.gather(done, request)
    return result


def own_address(url: str) -> str:
    """This machine's address as the server of `url` sees it."""
    host = urlsplit(url).hostname or "127.0.0.1"
    if is_loopback(host):
        return "127.0.0.1"
    # A datagram socket chooses its route without sending anything.
    family, kind, protocol, _, address = socket.getaddrinfo(host, urlsplit(url).port or 80, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as route:
        route.connect(address)
        return str(route.getsockname()[0])
