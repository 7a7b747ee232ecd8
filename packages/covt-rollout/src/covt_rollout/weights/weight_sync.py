"""New weights into a running server: gather → shared memory → pause, load, name, resume.

The order keeps every completion honest. Pausing aborts running requests and clears all caches, whose contents belong to
the old weights. While weights are being replaced, the server's version has a name that is not a step, so an answer of a
half-loaded model can't pass for an answer of either version.
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

from covt_rollout import endpoints
from covt_rollout.client.http_transport import Transport
from covt_rollout.client.rollout_client import RolloutClient
from covt_rollout.rollout_errors import RolloutError, ServerError, StaleWeightsError, WeightPushError
from covt_rollout.weights.weight_files import ServedNames, drain, write_weights
from covt_rollout.weights.weight_folder import scratch_folder

if TYPE_CHECKING:
    import torch

LOADING = "loading"
MAX_PUSHES = 3
"""How often the newest weights are pushed to a server that answers."""
PUSH_PAUSE = 5.0
"""Seconds between these pushes, since a server that is ending still answers."""

LoadWeights = Callable[[Transport, Path | str, int], Awaitable[None]]
"""Makes all replicas load a folder's weights as a version: from its files, or through `weight_transfer`."""


@dataclass(frozen=True, slots=True)
class PushReport:
    """What a push did.

    Attributes:
        version: of the weights.
        tensors, bytes: written.
        write_seconds: of gathering and writing.
        push_seconds: of the server.
    """

    version: int
    tensors: int
    bytes: int
    write_seconds: float
    push_seconds: float


@dataclass(frozen=True, slots=True)
class WrittenWeights:
    """Weights in a folder that a server can read.

    Attributes:
        folder: of the safetensors files.
        tensors, bytes: written.
        seconds: of gathering and writing.
        cleanup: removes the folder when it is closed.
    """

    folder: Path
    tensors: int
    bytes: int
    seconds: float
    cleanup: contextlib.ExitStack


async def load_weight_files(transport: Transport, folder: Path | str, version: int) -> None:
    """Let every replica read `folder/*.safetensors` itself."""
    await endpoints.load_weights(transport, str(folder), version)


async def push_weights(
    client: RolloutClient,
    folder: Path | str,
    version: int,
    fallback: tuple[Path, int] | None = None,
    load: LoadWeights = load_weight_files,
) -> None:
    """Make all replicas serve `folder/*.safetensors` under `version`; completions must then come from it.

    Running requests are aborted; the client sends them again.

    Args:
        client: of the replicas.
        folder: with all weights of the served model.
        version: optimizer step of the weights.
        fallback: folder and version of the weights that are served now. Replicas that had loaded the new weights
            already load these again when another replica could not.
        load: how a replica loads a folder.

    Raises:
        WeightPushError: a replica could not be updated. Replicas that refused the new weights then serve their old ones
            under the old version.
    """
    transport = client.transport
    before = None
    try:
        before = await _served_version(client)
        await endpoints.pause(transport, client.attempts)
        await set_weight_version(client, f"{LOADING} {version}")
        await load(transport, folder, version)
        await set_weight_version(client, str(version))
    except ServerError as error:
        restored = await _roll_back(client, before, fallback, load)
        raise WeightPushError(
            f"weights of version {version} were not loaded, "
            + (f"version {before} stays: {error}" if restored else f"and no version is served: {error}"),
            "see the server's log; push all tensors of the served model, from a folder that the server can read",
        ) from error
    client.version = version
    await endpoints.resume(transport, client.attempts)


async def _served_version(client: RolloutClient) -> int | None:
    """The version served now; None when an earlier push has left none, or when the replicas differ."""
    try:
        return await client.weight_version()
    except StaleWeightsError:
        return None


async def _roll_back(
    client: RolloutClient, before: int | None, fallback: tuple[Path, int] | None, load: LoadWeights
) -> bool:
    """Resume under the old name where all of the old weights are served again; returns False where they are not.

    Workers report the version of the last load that came to its end, and none after a load that did not. A replica
    that is left without a version keeps a name that is not a number: its answers are refused until a push succeeds.
    """
    if before is None:
        return False
    try:
        if not await _all_have(client, before):
            if fallback is None or fallback[1] != before:
                return False
            await load(client.transport, *fallback)
        await set_weight_version(client, str(before))
        await endpoints.resume(client.transport, client.attempts)
    except ServerError:
        # The caller raises the error that led here; the return value tells it that rolling back failed too.
        return False
    return True


async def _all_have(client: RolloutClient, version: int) -> bool:
    """Whether every worker of every replica has loaded exactly these weights."""
    statuses = await endpoints.worker_statuses(client.transport)
    return all(worker.weight_version == version for workers in statuses for worker in workers)


async def set_weight_version(client: RolloutClient, name: str) -> None:
    """Name the weights that all replicas serve; answers under a name that is not a number are refused."""
    await endpoints.set_weight_version(client.transport, name, client.attempts)


class Publisher:
    """Publishes a trainer's weights, and keeps the newest at hand for a server that was started again.

    Use it as a context manager: what it wrote is removed on leaving.
    """

    def __init__(
        self,
        client: RolloutClient,
        names: ServedNames,
        *,
        folder: Path | None = None,
        load: LoadWeights = load_weight_files,
    ) -> None:
        """Prepare to publish.

        Args:
            client: of the replicas.
            names: what the served checkpoint calls the published tensors.
            folder: where to write, by default shared memory. A server on another machine needs a folder that both
                machines see, unless `load` brings the weights there.
            load: how a replica loads a folder.
        """
        self.client, self.names, self.load = client, names, load
        self._root = folder
        self._cleanup = contextlib.ExitStack()
        self._newest: tuple[Path, int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._newest = None
        self._cleanup.close()

    async def publish(self, named_tensors: Iterable[tuple[str, torch.Tensor | None]], version: int) -> PushReport:
        """Write the tensors where the server can read them, push them as `version`, and keep them."""
        return await self.push(self.write(named_tensors), version)

    def write(self, named_tensors: Iterable[tuple[str, torch.Tensor | None]]) -> WrittenWeights:
        """Write the tensors where the server can read them, for `push`.

        Args:
            named_tensors: all tensors of `names`, on rank 0. A ZeRO-3 gather is iterated once, to its end, also when
                something fails, since the other ranks take part in it.

        Raises:
            RolloutError: there are more or fewer tensors than the server expects.
            WeightPushError: the folder is full or can't be written.
        """
        pairs = iter(named_tensors)
        with contextlib.ExitStack() as unfinished:
            unfinished.callback(drain, pairs)
            folder = unfinished.enter_context(scratch_folder(self._root))
            began = time.perf_counter()
            count, size = write_weights(pairs, folder, self.names)
            if count != len(self.names):
                raise RolloutError(
                    f"{count} tensors were given, the server expects {len(self.names)}", "publish every parameter"
                )
            return WrittenWeights(folder, count, size, time.perf_counter() - began, unfinished.pop_all())

    async def push(self, written: WrittenWeights, version: int) -> PushReport:
        """Push the written weights as `version`, and keep them."""
        began = time.perf_counter()
        with contextlib.ExitStack() as unfinished:
            unfinished.push(written.cleanup)
            await self._push(written.folder, version)
            self._cleanup.close()
            self._cleanup = unfinished.pop_all()
        return PushReport(version, written.tensors, written.bytes, written.seconds, time.perf_counter() - began)

    async def _push(self, folder: Path, version: int) -> None:
        """Push, and once more after the client's `on_down` where it has one; a failure leaves the older weights newest.

        A server that nothing was pushed to has the checkpoint's weights, as version 0.
        """
        older, self._newest = self._newest, (folder, version)
        fallback = older or (self.names.folder, 0)
        try:
            try:
                await push_weights(self.client, folder, version, fallback, self.load)
            except ServerError:
                if not await self.client.transport.recover():
                    raise
                # `restore` has pushed them, unless `on_down` is something else.
                if self.client.version != version:
                    await push_weights(self.client, folder, version, load=self.load)
        except BaseException:
            self._newest = older
            raise

    async def restore(self, wait: float = 300.0) -> None:
        """Wait until the server answers, push the newest weights again if it serves others, and resume it.

        This is the client's `on_down`.

        Args:
            wait: seconds until ServerUnreachableError.

        Raises:
            WeightPushError: a server that answers could not be given the weights in MAX_PUSHES attempts.
        """
        end, failed = time.monotonic() + wait, 0
        while True:
            try:
                await self._push_newest()
                return
            except WeightPushError:
                failed += 1
                if failed == MAX_PUSHES:
                    raise
                await asyncio.sleep(PUSH_PAUSE)
            except ServerError:
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(0.5)

    async def _push_newest(self) -> None:
        version = await _served_version(self.client)
        if self._newest is not None and version != self._newest[1]:
            await push_weights(self.client, *self._newest, load=self.load)
        else:
            # A push may have been cut short just before its end.
            await endpoints.resume(self.client.transport, self.client.attempts)


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
