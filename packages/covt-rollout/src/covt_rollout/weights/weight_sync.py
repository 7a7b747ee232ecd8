"""New weights into a running server: gather → shared memory → pause, load, name, resume.

The order keeps every completion honest. Pausing aborts what runs and clears all caches, whose contents belong to the
old weights. While weights are being replaced the server's version has a name that is no step, so an answer from a
half-loaded model could never pass for one of either version.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from covt_rollout.client.http_transport import Transport
from covt_rollout.client.rollout_client import RolloutClient
from covt_rollout.rollout_errors import RolloutError, ServerError, StaleWeightsError, WeightPushError
from covt_rollout.weights.weight_files import ServedNames, drain, scratch, write_weights

if TYPE_CHECKING:
    import torch

LOADING = "loading"
# How often newest weights are pushed to a server that answers, and seconds between: one that is ending answers too.
PUSHES, REST = 3, 5.0

Load = Callable[[Transport, Path | str, int], Awaitable[None]]
"""Makes all replicas load the weights of a folder as a version: from its files, or through `weight_transfer`."""


@dataclass(frozen=True, slots=True)
class PushReport:
    """What a push did: version, tensors and bytes written, seconds of gathering and writing, and of the server."""

    version: int
    tensors: int
    bytes: int
    write_seconds: float
    push_seconds: float


@dataclass(frozen=True, slots=True)
class Written:
    """Weights in a folder that a server can read: their tensors and bytes, the seconds it took, and what removes it."""

    folder: Path
    tensors: int
    bytes: int
    seconds: float
    kept: contextlib.ExitStack


async def load_files(transport: Transport, folder: Path | str, version: int) -> None:
    """Every replica reads `folder/*.safetensors` itself."""
    await transport.each("POST", "/collective_rpc", {"method": "covt_load_weights", "args": [str(folder), version]})


async def push_weights(
    client: RolloutClient,
    folder: Path | str,
    version: int,
    fallback: tuple[Path, int] | None = None,
    load: Load = load_files,
) -> None:
    """Make all replicas serve `folder/*.safetensors` under `version`; completions must then come from it.

    Requests under way are aborted; the client sends them again. Raises WeightPushError when a replica could not be
    updated. Then those that refused serve their old weights under their old version, and those that had the new ones
    already are given the old ones again, if `fallback` (folder, version) is those.
    """
    transport = client.transport
    before = None
    try:
        before = await _version(client)
        await transport.each("POST", "/pause", params={"mode": "abort"}, attempts=client.attempts)
        await serve_as(client, f"{LOADING} {version}")
        await load(transport, folder, version)
        await serve_as(client, str(version))
    except ServerError as error:
        stays = await _take_back(client, before, fallback, load)
        raise WeightPushError(
            f"weights of version {version} were not loaded, "
            + (f"version {before} stays: {error}" if stays else f"and no version is served: {error}"),
            "see the server's log; push all tensors of the served model, from a folder that the server can read",
        ) from error
    client.version = version
    await transport.each("POST", "/resume", attempts=client.attempts)


async def _version(client: RolloutClient) -> int | None:
    """The version served now; None when an earlier push has left none, or the replicas differ."""
    try:
        return await client.weight_version()
    except StaleWeightsError:
        return None


async def _take_back(client: RolloutClient, before: int | None, fallback: tuple[Path, int] | None, load: Load) -> bool:
    """Resume under the old name where all of the old weights are there again; False where they are not.

    The workers report the version of the last load that came to its end, and none after one that did not. A replica
    that is left without one keeps a name that is no version: its answers are refused until a push succeeds.
    """
    if before is None:
        return False
    try:
        if not await _all_have(client, before):
            if fallback is None or fallback[1] != before:
                return False
            await load(client.transport, *fallback)
        await serve_as(client, str(before))
        await client.transport.each("POST", "/resume", attempts=client.attempts)
    except ServerError:
        # The error that brought us here is the one to raise; `stays` says that taking back failed too.
        return False
    return True


async def _all_have(client: RolloutClient, version: int) -> bool:
    """Whether every worker of every replica has loaded just these weights."""
    answers = await client.transport.each("POST", "/collective_rpc", {"method": "covt_status"})
    return all(worker["weight_version"] == version for answer in answers for worker in answer["results"])


async def serve_as(client: RolloutClient, name: str) -> None:
    """Call what all replicas serve `name`; answers under one that is no number are refused."""
    body = {"new_version": name}
    await client.transport.each("POST", "/update_weight_version", body, attempts=client.attempts)


class Publisher:
    """Publishes a trainer's weights, and keeps the newest at hand for a server that was started again.

    names: what the served checkpoint calls the published tensors. folder: where to write, by default shared memory;
    a server on another machine needs a folder that both see, unless `load` brings the weights there. Use it as a
    context manager: what it wrote is removed.
    """

    def __init__(
        self, client: RolloutClient, names: ServedNames, *, folder: Path | None = None, load: Load = load_files
    ) -> None:
        self.client, self.names, self.load = client, names, load
        self._root = folder
        self._kept = contextlib.ExitStack()
        self._newest: tuple[Path, int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._newest = None
        self._kept.close()

    async def publish(self, named_tensors: Iterable[tuple[str, torch.Tensor | None]], version: int) -> PushReport:
        """Write the tensors where the server can read them, push them as `version`, and keep them."""
        return await self.push(self.write(named_tensors), version)

    def write(self, named_tensors: Iterable[tuple[str, torch.Tensor | None]]) -> Written:
        """Write the tensors where the server can read them, for `push`.

        named_tensors: all of `names`, on rank 0; a ZeRO-3 gather is iterated once, to its end, also when something
        fails, since the other ranks take part in it.
        """
        pairs = iter(named_tensors)
        with contextlib.ExitStack() as unfinished:
            unfinished.callback(drain, pairs)
            folder = unfinished.enter_context(scratch(self._root))
            began = time.perf_counter()
            count, size = write_weights(pairs, folder, self.names)
            if count != len(self.names):
                raise RolloutError(
                    f"{count} tensors were given, the server expects {len(self.names)}", "publish every parameter"
                )
            return Written(folder, count, size, time.perf_counter() - began, unfinished.pop_all())

    async def push(self, written: Written, version: int) -> PushReport:
        """Push what was written as `version`, and keep it."""
        began = time.perf_counter()
        with contextlib.ExitStack() as unfinished:
            unfinished.push(written.kept)
            await self._push(written.folder, version)
            self._kept.close()
            self._kept = unfinished.pop_all()
        return PushReport(version, written.tensors, written.bytes, written.seconds, time.perf_counter() - began)

    async def _push(self, folder: Path, version: int) -> None:
        """Push, once more after the client's `on_down` where it has one; a failure leaves the older weights newest."""
        older, self._newest = self._newest, (folder, version)
        # A server that nothing was pushed to has the checkpoint's weights, as version 0.
        fallback = older or (self.names.folder, 0)
        try:
            try:
                await push_weights(self.client, folder, version, fallback, self.load)
            except ServerError:
                if not await self.client.transport.bring_back():
                    raise
                # `restore` has pushed them unless `on_down` is something else.
                if self.client.version != version:
                    await push_weights(self.client, folder, version, load=self.load)
        except BaseException:
            self._newest = older
            raise

    async def restore(self, wait: float = 300.0) -> None:
        """Wait until the server answers, push the newest weights again where it serves others, and let it go on.

        The client's `on_down`. wait: seconds until ServerUnreachableError. Raises WeightPushError when a server that
        answers could not be given the weights in PUSHES attempts.
        """
        end, failed = time.monotonic() + wait, 0
        while True:
            try:
                await self._give_newest()
                return
            except WeightPushError:
                failed += 1
                if failed == PUSHES:
                    raise
                await asyncio.sleep(REST)
            except ServerError:
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(0.5)

    async def _give_newest(self) -> None:
        version = await _version(self.client)
        if self._newest is not None and version != self._newest[1]:
            await push_weights(self.client, *self._newest, load=self.load)
        else:
            # A push may have been cut short just before its end.
            await self.client.transport.each("POST", "/resume", attempts=self.client.attempts)


async def publish(
    client: RolloutClient,
    named_tensors: Iterable[tuple[str, torch.Tensor | None]],
    version: int,
    names: ServedNames,
    *,
    folder: Path | None = None,
) -> PushReport:
    """Push tensors as `version` once, keeping nothing (see `Publisher`)."""
    with Publisher(client, names, folder=folder) as publisher:
        return await publisher.publish(named_tensors, version)
