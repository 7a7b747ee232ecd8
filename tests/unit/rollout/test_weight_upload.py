"""Weights over HTTP: whole files or none, a bounded piece in memory, and a path that is asked for before it is used."""

from __future__ import annotations

import asyncio
import os
import socket
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import uvicorn
from fake_server import run

from covt_rollout.client.http_transport import Transport
from covt_rollout.rollout_errors import RolloutError, ServerError, ServerRefusedError, WeightPushError
from covt_rollout.server import weight_upload
from covt_rollout.server.weight_root import FOLDER_VARIABLE
from covt_rollout.server.weight_upload import WeightUploads
from covt_rollout.upload_endpoints import UPLOADS, announce_upload, upload_file
from covt_rollout.vllm_plugin.placement_checks import reaches, sees_file
from covt_rollout.weights.http_loader import load_over_http, sha256
from covt_rollout.weights.weight_path import confirm_weight_path


class Server:
    """Stands in for vLLM behind the middleware: it answers /collective_rpc as `LatentWorker` does."""

    def __init__(self, root: Path = Path("/")) -> None:
        """root: of this server's file system, as the trainer sees it."""
        self.root = root
        self.loaded: list[tuple[dict[str, bytes], int]] = []
        self.reachable = True

    def covt_load_weights(self, folder: str, version: int) -> None:
        self.loaded.append(({path.name: path.read_bytes() for path in Path(folder).iterdir()}, version))

    def covt_see_file(self, path: str, text: str) -> dict[str, bool]:
        return {"can": sees_file(self.root / path.lstrip("/"), text)}

    def covt_reach_address(self, address: str, port: int) -> dict[str, bool]:
        return {"can": self.reachable and reaches(address, port)}

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                kind = (await receive())["type"]
                await send({"type": f"{kind}.complete"})
                if kind == "lifespan.shutdown":
                    return
        body = b"".join([piece async for piece in weight_upload.read_body(receive)])
        if scope["path"] != "/collective_rpc":
            await weight_upload.respond(send, 404, {"error": {"message": "Not Found"}})
            return
        call = msgspec.json.decode(body)
        answer = await asyncio.to_thread(getattr(self, call["method"]), *call["args"])
        # vLLM turns whatever is no dict, list or None into text.
        plain = answer if answer is None or isinstance(answer, dict | list) else str(answer)
        await weight_upload.respond(send, 200, {"results": [plain]})


@asynccontextmanager
async def serving(*apps: Any) -> AsyncIterator[Transport]:
    """A client of the apps, each behind a real HTTP server."""
    async with AsyncExitStack() as stack:
        urls = []
        for app in apps:
            listener = socket.create_server(("127.0.0.1", 0))
            server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
            task = asyncio.create_task(server.serve([listener]))

            async def stop(server: uvicorn.Server = server, task: asyncio.Task[None] = task) -> None:
                server.should_exit = True
                await task

            stack.push_async_callback(stop)
            urls.append(f"http://127.0.0.1:{listener.getsockname()[1]}")
        yield await stack.enter_async_context(Transport(urls, attempts=2, backoff=0.01))


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The servers' folder for uploads."""
    folder = tmp_path / "spool"
    folder.mkdir()
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    return folder


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A trainer's folder with two files, the first larger than what is written at once."""
    folder = tmp_path / "weights"
    folder.mkdir()
    for name, size in (("weights-00000", weight_upload.PIECE + 12_345), ("frozen", 777)):
        (folder / f"{name}.safetensors").write_bytes(os.urandom(size))
    (folder / "notes.txt").write_text("not sent")
    return folder


def contents(weights: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in weights.glob("*.safetensors")}


def test_every_replica_loads_exactly_the_trainers_files_and_keeps_none(weights: Path, spool: Path) -> None:
    servers = [Server(), Server()]

    async def work() -> None:
        async with serving(*map(WeightUploads, servers)) as transport:
            await load_over_http(transport, weights, 7)
            assert not list(spool.iterdir())

    run(work())
    assert [server.loaded for server in servers] == [[(contents(weights), 7)]] * 2


class Damaging:
    """Cuts off the bodies of the first `times` files."""

    def __init__(self, app: Any, times: int) -> None:
        self.app, self.times = app, times

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope.get("method") != "PUT" or not self.times:
            await self.app(scope, receive, send)
            return
        self.times -= 1
        body = b"".join([piece async for piece in weight_upload.read_body(receive)])

        async def damaged() -> dict[str, Any]:
            return {"type": "http.request", "body": body[:-1] + bytes([body[-1] ^ 1]), "more_body": False}

        await self.app(scope, damaged, send)


def test_a_file_that_arrives_damaged_is_sent_again(weights: Path, spool: Path) -> None:
    server = Server()

    async def work() -> None:
        async with serving(Damaging(WeightUploads(server), 2)) as transport:
            await load_over_http(transport, weights, 1)

    run(work())
    assert server.loaded == [(contents(weights), 1)]


def test_damaged_weights_are_never_loaded(weights: Path, spool: Path) -> None:
    server = Server()

    async def work() -> None:
        async with serving(Damaging(WeightUploads(server), 99)) as transport:
            with pytest.raises(ServerError, match="arrived"):
                await load_over_http(transport, weights, 1)
            assert not list(spool.iterdir())

    run(work())
    assert not server.loaded


def test_memory_holds_a_piece_of_a_file(tmp_path: Path, spool: Path) -> None:
    """64 MiB through client and server in one process."""
    file = tmp_path / "weights-00000.safetensors"
    file.write_bytes(bytes(64 << 20))

    async def work() -> int:
        async with serving(WeightUploads(Server())) as transport:
            await announce_upload(transport, "u", {file.name: (file.stat().st_size, sha256(file))})
            tracemalloc.start()
            try:
                await upload_file(transport, "u", file, 1)
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    assert run(work()) < 4 * weight_upload.PIECE


def test_a_server_without_room_says_so_before_anything_is_sent(
    weights: Path, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_upload.shutil, "disk_usage", lambda root: SimpleNamespace(free=100))
    server = Server()

    async def work() -> None:
        async with serving(WeightUploads(server)) as transport:
            with pytest.raises(ServerError, match=r"0\.00 are free; start the server with --weight-folder"):
                await load_over_http(transport, weights, 1)

    run(work())
    assert not list(spool.iterdir()) and not server.loaded


def test_a_new_upload_replaces_one_whose_trainer_died(weights: Path, spool: Path) -> None:
    file = weights / "frozen.safetensors"
    described = {file.name: (file.stat().st_size, sha256(file))}

    async def work() -> None:
        async with serving(WeightUploads(Server())) as transport:
            (first,) = await announce_upload(transport, "a", described)
            await upload_file(transport, "a", file, 1)
            (second,) = await announce_upload(transport, "b", described)
            assert [path.name for path in spool.iterdir()] == [Path(second).name] != [Path(first).name]
            with pytest.raises(ServerRefusedError, match="no upload 'a'"):
                await upload_file(transport, "a", file, 1)
        # A server that ends leaves nothing.
        assert not list(spool.iterdir())

    run(work())


@pytest.mark.parametrize("name", ["../x.safetensors", "x.bin", ".hidden.safetensors", "a/b.safetensors"])
def test_only_names_of_weight_files_are_taken(name: str, spool: Path) -> None:
    async def work() -> None:
        async with serving(WeightUploads(Server())) as transport:
            with pytest.raises(ServerRefusedError, match="no name of a weight file"):
                await announce_upload(transport, "u", {name: (1, "0")})
            with pytest.raises(ServerRefusedError, match="there is no upload"):
                await transport.call_each("DELETE", f"{UPLOADS}/u")

    run(work())


def test_a_server_that_takes_no_uploads_is_said(weights: Path) -> None:
    async def work() -> None:
        async with serving(Server()) as transport:
            with pytest.raises(WeightPushError, match="Not Found") as caught:
                await load_over_http(transport, weights, 1)
            assert "same release" in caught.value.remedy

    run(work())


def choose(servers: list[Server], *arguments: Any) -> tuple[str, list[str]]:
    notes: list[str] = []

    async def work() -> str:
        async with serving(*servers) as transport:
            return await confirm_weight_path(transport, *arguments, notes.append)

    return run(work()), notes


def test_a_server_that_sees_the_files_reads_them(tmp_path: Path) -> None:
    assert choose([Server(), Server()], "files", "auto", tmp_path) == ("files", [])
    assert not list(tmp_path.iterdir()), "the file that servers were asked for is removed"


def test_a_server_with_another_file_system_gets_its_weights_over_http(tmp_path: Path) -> None:
    """Behind a loopback address too: in a container, or at the other end of a tunnel."""
    path, notes = choose([Server(), Server(tmp_path / "container")], "files", "auto", tmp_path)
    assert path == "http"
    assert len(notes) == 1 and f"can't read files in {tmp_path}" in notes[0] and "over HTTP" in notes[0]


def test_a_folder_that_a_server_can_t_see_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RolloutError, match="it has another file system") as caught:
        choose([Server(tmp_path / "container")], "files", "files", tmp_path)
    assert "rollout.transfer=http" in caught.value.remedy and "rollout.weight_folder" in caught.value.remedy


def test_nccl_wants_a_server_that_reaches_the_trainer(tmp_path: Path) -> None:
    behind = Server()
    behind.reachable = False
    assert choose([Server()], "nccl", "nccl", tmp_path) == ("nccl", [])
    with pytest.raises(RolloutError, match=r"can't connect to this machine at 127\.0\.0\.1") as caught:
        choose([Server(), behind], "nccl", "nccl", tmp_path)
    assert "rollout.transfer=http" in caught.value.remedy
    path, (note,) = choose([behind], "nccl", "auto", tmp_path)
    assert path == "http" and "over HTTP" in note


def test_a_port_that_nothing_listens_on_isn_t_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert reaches("127.0.0.1", port)
    assert not reaches("127.0.0.1", port)


@pytest.mark.parametrize(
    ("url", "said"),
    [("http://127.0.0.1:1", "127.0.0.1 is always this one"), ("http://192.0.2.1:1", "--host 0.0.0.0")],
)
def test_an_address_that_nothing_answers_at_is_explained(url: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: Any, **__: Any) -> Any:
        raise ConnectionRefusedError("refused")

    async def work() -> None:
        async with Transport([url], attempts=1) as transport:
            monkeypatch.setattr(transport, "_send", refuse)
            await transport.call_each("GET", "/health")

    with pytest.raises(ServerError) as caught:
        run(work())
    assert said in caught.value.remedy
