"""Weights from the trainer's GPU to the servers' over NCCL: vLLM's own weight-transfer engine, driven over HTTP.

Each push is one transfer: connect (the trainer is rank 0 of a group with all workers of all replicas), announce names,
dtypes and shapes in one request, broadcast the tensors packed in buckets, finish, leave. A group for each push costs
about a second, and in return a server that was started again in between needs nothing special. The tensors come from
the publisher's copy of the weights, so one rank alone can send them again to a server that has lost them.
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
from covt_rollout import endpoints
from covt_rollout.client.http_transport import Transport
from covt_rollout.rollout_errors import RolloutError, ServerUnreachableError
from covt_rollout.server.nccl_group import BUCKET_BYTES, BUCKETS, Tensors, connect_nccl, send_nccl
from covt_rollout.server.server_options import is_loopback
from covt_rollout.server.server_process import free_port, listen_on
from covt_rollout.server.weight_root import SHARED_MEMORY

if TYPE_CHECKING:
    import torch

TORCH_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""torch's name for each of safetensors' dtypes."""
WeightTransport = Literal["files", "http", "nccl"]
FILES_REMEDY = (
    "use rollout.transfer=http, or set rollout.weight_folder to a folder that both machines see under the same path"
)
Connect = Callable[[str, int, int], Any]
"""Joins a group as rank 0, given its address, port and size; waits for all other ranks."""
Send = Callable[[Any, Tensors], None]
"""Broadcasts all tensors in order to a group that `Connect` returned, packed as its members were told."""


def choose_weight_transport(
    wanted: Literal["auto", "files", "http", "nccl"],
    device: str,
    urls: Sequence[str],
    checkpoint: Path,
    *,
    server_gpus: int = 0,
    sleeps: bool = False,
    weight_folder: str = "",
) -> WeightTransport:
    """Choose how a run's weights reach its servers.

    `auto` is NCCL where the trainer and the servers have own GPUs, HTTP for a server on another machine, and else
    files. NCCL can't join two processes on one GPU, nor does it know a latent head with weights, which is not part of
    vLLM's model.

    Args:
        wanted: the recipe's `rollout.transfer`.
        device: type of rank 0's device, `cpu` or `cuda`.
        urls: addresses of the servers.
        checkpoint: folder that they serve.
        server_gpus: GPUs that are set aside for servers on this machine.
        sleeps: the servers sleep while the trainer uses their GPUs.
        weight_folder: the recipe's `rollout.weight_folder`.

    Raises:
        RolloutError: NCCL is wanted and impossible, or a server on another machine would be given a folder of this one.
    """
    remote = [url for url in urls if not is_this_machine(urlsplit(url).hostname or "")]
    reason = ""
    if device != "cuda":
        reason = f"the trainer runs on {device}"
    elif sleeps or not (server_gpus or remote):
        reason = "the server shares the trainer's GPU"
    elif (checkpoint / heads.FILE).is_file():
        reason = f"the checkpoint has {heads.FILE}, which vLLM's transfer doesn't know"
    if wanted == "nccl" and reason:
        raise RolloutError(f"rollout.transfer = 'nccl', but {reason}", "use rollout.transfer = 'files' or 'auto'")
    if wanted == "http":
        return "http"
    if wanted != "files" and not reason:
        return "nccl"
    if not remote or weight_folder:
        return "files"
    if wanted == "files":
        raise RolloutError(
            f"the server at {remote[0]} is on another machine and can't read files in {SHARED_MEMORY} of this one",
            FILES_REMEDY,
        )
    return "http"


def is_this_machine(host: str) -> bool:
    """Whether an address is one of this machine's own, which alone can be listened on."""
    if is_loopback(host):
        return True
    try:
        listen_on(host, 0).close()
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class NcclLoader:
    """Loads a folder's weights into all replicas over NCCL; a `weight_sync.LoadWeights`."""

    connect: Connect
    send: Send

    async def __call__(self, transport: Transport, folder: Path | str, version: int) -> None:
        """Send `folder/*.safetensors` as `version`.

        Raises ServerError when a replica fails or does not join; the next push then starts over.
        """
        workers = await endpoints.worker_counts(transport)
        address = local_address_for(transport.replicas[0].url)
        port, size = free_port(address), 1 + sum(workers)
        bodies = endpoints.transfer_group_bodies(address, port, workers, bucket_bytes=BUCKET_BYTES, buckets=BUCKETS)
        group = await run_beside_request(
            lambda: self.connect(address, port, size), endpoints.join_transfer_group(transport, bodies)
        )
        await endpoints.start_weight_update(transport)
        await run_beside_request(
            lambda: self.send(group, lambda: read_tensors(Path(folder))),
            endpoints.receive_weights(transport, describe_tensors(Path(folder))),
        )
        await endpoints.finish_weight_update(transport, version)


def describe_tensors(folder: Path) -> dict[str, Any]:
    """Announce names, dtypes and shapes of the folder's tensors, in the order of `read_tensors`."""
    from safetensors import safe_open

    names: list[str] = []
    dtypes: list[str] = []
    shapes: list[list[int]] = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                stored = file.get_slice(name)
                names.append(name)
                dtypes.append(TORCH_DTYPES[stored.get_dtype()])
                shapes.append(list(stored.get_shape()))
    return endpoints.received_weights_body(names, dtypes, shapes)


def read_tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Read the tensors of a folder, one in memory at a time."""
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            yield from ((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118


def on_device(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """Make `device` the current device of the thread that calls `function`."""

    def run(*arguments: Any) -> Any:
        import torch

        with torch.accelerator.device_index(device.index or 0):
            return function(*arguments)

    return run


def nccl_loader(device: torch.device) -> NcclLoader:
    """Loads weights over NCCL from rank 0's GPU."""
    return NcclLoader(on_device(connect_nccl, device), on_device(send_nccl, device))


async def run_beside_request(blocking: Callable[[], Any], request: Awaitable[Any]) -> Any:
    """Run a blocking function and a request together, since each waits for the other.

    Returns the function's result. The first failure of either is raised at once. A thread that waits for a peer that
    never comes can't be ended; it is a daemon, so it holds nothing up.
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


def local_address_for(url: str) -> str:
    """This machine's address as the server of `url` sees it."""
    host = urlsplit(url).hostname or "127.0.0.1"
    if is_loopback(host):
        return "127.0.0.1"
    # A datagram socket chooses its route without sending anything.
    family, kind, protocol, _, address = socket.getaddrinfo(host, urlsplit(url).port or 80, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as route:
        route.connect(address)
        return str(route.getsockname()[0])
