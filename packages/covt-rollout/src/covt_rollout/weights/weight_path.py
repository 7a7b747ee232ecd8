"""Whether new weights can reach the servers by the chosen path: asked of the servers before a training starts.

An address doesn't tell what is behind it. A server at 127.0.0.1 may run in a container with a file system of its own,
or at the other end of a tunnel, and a folder of the same name may be another one there.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from covt_rollout import endpoints
from covt_rollout.client.http_transport import Transport
from covt_rollout.rollout_errors import RolloutError
from covt_rollout.server.server_process import listen_on
from covt_rollout.weights.weight_transfer import FILES_REMEDY, WeightTransport, local_address_for

PROBE = "covt-probe-"
"""First part of the name of a file that servers are asked for."""


async def confirm_weight_path(
    transport: Transport,
    chosen: WeightTransport,
    wanted: Literal["auto", "files", "http", "nccl"],
    root: Path,
    note: Callable[[str], None],
) -> WeightTransport:
    """The chosen path where it works; HTTP instead, with a note, where `auto` had chosen one that doesn't.

    Args:
        transport: of the servers, which must answer.
        chosen: by `weight_transfer.choose_weight_transport`.
        wanted: the recipe's `rollout.transfer`.
        root: folder below which weights are written.
        note: told what is taken instead.

    Raises:
        RolloutError: the path was asked for by name, and doesn't reach a server.
    """
    if chosen == "files":
        missing = await _not_seeing(transport, root)
        problem = f"can't read files in {root} of this machine: it has another file system"
        remedy = FILES_REMEDY
    elif chosen == "nccl":
        missing = await _not_reaching(transport)
        problem = f"can't connect to this machine at {local_address_for(transport.replicas[0].url)}, as NCCL must"
        remedy = "use rollout.transfer=http, or name the server by an address from which it reaches this machine"
    else:
        return chosen
    if not missing:
        return chosen
    if wanted != "auto":
        raise RolloutError(f"the server at {missing[0]} {problem}", remedy)
    note(f"the server at {missing[0]} {problem}; new weights go to it over HTTP")
    return "http"


async def _not_seeing(transport: Transport, root: Path) -> list[str]:
    """Addresses of the servers that don't see a new file below `root`."""
    text = uuid.uuid4().hex
    with tempfile.NamedTemporaryFile("w", prefix=PROBE, dir=root, encoding="utf-8") as file:
        file.write(text)
        file.flush()
        seen = await endpoints.see_file(transport, file.name, text)
    return _without(transport, seen)


async def _not_reaching(transport: Transport) -> list[str]:
    """Addresses of the servers whose workers can't connect to this machine."""
    address = local_address_for(transport.replicas[0].url)
    with listen_on(address, 0) as listener:
        listener.listen(64)
        return _without(transport, await endpoints.reach_address(transport, address, listener.getsockname()[1]))


def _without(transport: Transport, answers: Sequence[bool]) -> list[str]:
    return [replica.url for replica, can in zip(transport.replicas, answers, strict=True) if not can]
