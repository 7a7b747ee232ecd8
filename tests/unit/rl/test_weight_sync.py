"""Names, buckets, folders, and the order of a push; a push to the real server is an integration test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from aiohttp import web
from fake_server import run
from safetensors.torch import load_file, save_file

from covt_model.config import LatentConfig
from covt_model.errors import CheckpointError
from covt_model.heads import FILE, save_head
from covt_rl import weight_sync
from covt_rl.client import RolloutClient
from covt_rl.errors import RolloutError, WeightPushError
from covt_rl.weight_sync import PREFIX, Publisher, ServedNames, publish, push_weights, scratch, write_weights

LATENT = LatentConfig(start_id=100, pad_id=101, end_id=102, size=2)
SERVED = {"model.layers.0.w": torch.ones(4), "visual.v": torch.zeros(2), "model.norm.weight": torch.ones(3)}


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    save_file(SERVED, tmp_path / "model.safetensors")
    return tmp_path


class Recorder:
    """A server that records calls; `fails` names the call that answers HTTP 500, each time or once."""

    def __init__(self, version: str = "default", worker_version: int = 0, fails: str = "") -> None:
        self.version, self.worker_version, self.fails = version, worker_version, fails
        self.fails_once = False
        self.calls: list[str] = []
        self.loaded: dict[str, torch.Tensor] = {}

    async def handle(self, request: web.Request) -> web.Response:
        path, body = request.path, await request.json() if request.can_read_body else {}
        call = body.get("method", path)
        self.calls.append(f"{call} {body.get('new_version', '')}".strip())
        if call == self.fails:
            self.fails = "" if self.fails_once else call
            return web.json_response({"error": {"message": "tensors don't fit"}}, status=500)
        if path == "/update_weight_version":
            self.version = body["new_version"]
        if call == "covt_load_weights":
            self.worker_version = body["args"][1]
            for file in Path(body["args"][0]).glob("*.safetensors"):
                self.loaded |= load_file(file)
        if call == "covt_status":
            return web.json_response({"results": [{"weight_version": self.worker_version}]})
        return web.json_response({"weight_version": self.version})


def with_server(servers: Recorder | list[Recorder], work: Any) -> Any:
    """What `work(client)` returns, the client having one replica or several."""

    async def main() -> Any:
        runners = []
        for server in servers if isinstance(servers, list) else [servers]:
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", server.handle)
            runners.append(web.AppRunner(app))
            await runners[-1].setup()
            await web.TCPSite(runners[-1], "127.0.0.1", 0).start()
        urls = [f"http://127.0.0.1:{runner.addresses[0][1]}" for runner in runners]
        try:
            async with RolloutClient(urls, latent=LATENT, decode=str, attempts=2, backoff=0.001) as client:
                return await work(client)
        finally:
            for runner in runners:
                await runner.cleanup()

    return run(main())


def test_trainers_names_find_the_served_ones(checkpoint) -> None:
    names = ServedNames.read(checkpoint)
    assert names.find("model.language_model.layers.0.w") == "model.layers.0.w"
    assert names.find("model.visual.v") == names.find("visual.v") == "visual.v"
    assert len(names) == 3
    with pytest.raises(RolloutError, match=r"no tensor 'model\.language_model\.layers\.1\.w'"):
        names.find("model.language_model.layers.1.w")


def test_a_folder_without_weights_is_named(tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"no \*\.safetensors"):
        ServedNames.read(tmp_path)


def test_tensors_are_written_in_buckets_and_all_of_them(checkpoint, tmp_path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    given = [("model.language_model.layers.0.w", torch.arange(4.0)), ("model.visual.v", torch.ones(2))]
    assert write_weights(iter(given), folder, ServedNames.read(checkpoint), bucket_bytes=16) == (2, 24)
    files = sorted(folder.glob("*.safetensors"))
    assert [set(load_file(file)) for file in files] == [{"model.layers.0.w"}, {"visual.v"}]


def test_the_latent_heads_tensors_go_where_a_checkpoint_has_them(checkpoint, tmp_path) -> None:
    save_head(checkpoint, {"weight": torch.eye(4), "bias": torch.zeros(4)})
    names = ServedNames.read(checkpoint).without_vision()
    assert len(names) == 4
    given = [("policy.model.latent_head.weight", torch.ones(4, 4)), ("model.norm.weight", torch.ones(3))]
    folder = tmp_path / "out"
    folder.mkdir()
    assert write_weights(given, folder, names) == (2, 76)
    assert load_file(folder / FILE)["weight"].tolist() == torch.ones(4, 4).tolist()
    assert "weight" not in load_file(folder / "weights-00000.safetensors")
    with pytest.raises(RolloutError, match=r"no tensor 'latent_head\.other'"):
        write_weights([("latent_head.other", torch.ones(1))], folder, names)


def test_views_and_gradients_don_t_hinder_writing(checkpoint, tmp_path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    whole = torch.arange(8.0, requires_grad=True)
    write_weights([("model.layers.0.w", whole[::2])], folder, ServedNames.read(checkpoint))
    assert load_file(folder / "weights-00000.safetensors")["model.layers.0.w"].tolist() == [0, 2, 4, 6]


def test_a_push_pauses_names_loads_names_and_resumes(checkpoint) -> None:
    server = Recorder()
    given = [("model.language_model.layers.0.w", torch.full((4,), 2.0)), ("model.norm.weight", torch.ones(3))]

    async def work(client: RolloutClient) -> Any:
        report = await publish(client, given, 17, ServedNames.read(checkpoint).without_vision())
        return report, client.version

    report, version = with_server(server, work)
    assert server.calls == [
        "/weight_info",
        "/pause",
        "/update_weight_version loading 17",
        "covt_load_weights",
        "/update_weight_version 17",
        "/resume",
    ]
    assert (version, report.version, report.tensors, report.bytes) == (17, 17, 2, 28)
    assert set(server.loaded) == set(SERVED), "frozen tensors are pushed from the checkpoint"
    assert server.loaded["model.layers.0.w"].tolist() == [2, 2, 2, 2]


def test_a_refused_push_gives_the_old_version_its_name_back(tmp_path) -> None:
    server = Recorder("4", 4, fails="covt_load_weights")
    with pytest.raises(WeightPushError, match=r"version 4 stays.*tensors don't fit"):
        with_server(server, lambda client: push_weights(client, tmp_path, 5))
    assert server.version == "4"
    assert server.calls[-1] == "/resume"


def test_a_half_done_load_keeps_a_name_that_is_no_version(tmp_path) -> None:
    server = Recorder("4", worker_version=-1, fails="covt_load_weights")
    with pytest.raises(WeightPushError):
        with_server(server, lambda client: push_weights(client, tmp_path, 5))
    assert server.version == "loading 5"
    server.fails = ""
    with_server(server, lambda client: push_weights(client, tmp_path, 6))
    assert server.version == "6"


def test_a_replica_that_has_loaded_already_is_given_the_old_weights_again(checkpoint) -> None:
    fine, failing = Recorder(), Recorder()
    twice = {name: 2 * tensor for name, tensor in SERVED.items()}

    async def work(client: RolloutClient) -> Any:
        with Publisher(client, ServedNames.read(checkpoint)) as publisher:
            await publisher.publish(twice.items(), 1)
            failing.fails = "covt_load_weights"
            with pytest.raises(WeightPushError, match="and no version is served"):
                await publisher.publish(((name, 3 * tensor) for name, tensor in SERVED.items()), 2)
            return fine.loaded["model.layers.0.w"].tolist()

    # The failing one can't be asked to load anything, so nothing but the other's weights can be put right.
    assert with_server([fine, failing], work) == [2, 2, 2, 2]
    assert fine.version == failing.version == "loading 2"


def test_a_push_that_one_replica_refused_leaves_the_old_version_on_all(checkpoint) -> None:
    replicas = [Recorder(), Recorder(fails="covt_load_weights")]

    async def work(client: RolloutClient) -> Any:
        with Publisher(client, ServedNames.read(checkpoint)) as publisher:
            replicas[1].fails_once = True
            with pytest.raises(WeightPushError, match="version 0 stays"):
                await publisher.publish(((name, 3 * tensor) for name, tensor in SERVED.items()), 5)
            return await client.weight_version()

    assert with_server(replicas, work) == 0
    assert [one.worker_version for one in replicas] == [0, 0]
    assert replicas[0].loaded["model.layers.0.w"].tolist() == [1, 1, 1, 1]
    assert [one.calls.count("/resume") for one in replicas] == [1, 1]


def test_a_push_that_failed_is_repeated_once_the_server_is_back(checkpoint) -> None:
    server = Recorder("4", 4, fails="covt_load_weights")

    async def work(client: RolloutClient) -> Any:
        with Publisher(client, ServedNames.read(checkpoint)) as publisher:

            async def mend() -> None:
                server.fails = ""
                await publisher.restore()

            client.transport.on_down = mend
            await publisher.publish(SERVED.items(), 5)

    with_server(server, work)
    assert server.version == "5"
    assert server.calls.count("covt_load_weights") == 2


def test_a_server_that_ends_while_it_is_restored_is_restored_when_it_is_back(checkpoint, monkeypatch) -> None:
    monkeypatch.setattr(weight_sync, "REST", 0.001)
    server = Recorder()

    async def work(client: RolloutClient) -> None:
        with Publisher(client, ServedNames.read(checkpoint)) as publisher:
            await publisher.publish(SERVED.items(), 1)
            server.version, server.fails, server.fails_once = "default", "covt_load_weights", True
            await publisher.restore()

    with_server(server, work)
    assert server.version == "1"


def test_restoring_gives_up_on_a_server_that_answers_and_takes_nothing(checkpoint, monkeypatch) -> None:
    monkeypatch.setattr(weight_sync, "REST", 0.001)
    server = Recorder()

    async def work(client: RolloutClient) -> None:
        with Publisher(client, ServedNames.read(checkpoint)) as publisher:
            await publisher.publish(SERVED.items(), 1)
            server.version, server.fails = "default", "covt_load_weights"
            server.calls.clear()
            with pytest.raises(WeightPushError):
                await publisher.restore()

    with_server(server, work)
    assert server.calls.count("covt_load_weights") >= weight_sync.PUSHES


def test_a_push_that_was_cut_short_at_its_end_is_ended(checkpoint) -> None:
    """The server has the weights and their name, and still pauses."""
    server = Recorder(fails="/resume")

    async def work(client: RolloutClient) -> int | None:
        with Publisher(client, ServedNames.read(checkpoint)) as publisher:

            async def mend() -> None:
                server.fails = ""
                await publisher.restore()

            client.transport.on_down = mend
            await publisher.publish(SERVED.items(), 5)
            return client.version

    assert with_server(server, work) == 5
    assert server.calls[-1] == "/resume"
    assert server.calls.count("covt_load_weights") == 1


def test_each_replica_may_be_told_something_of_its_own() -> None:
    servers = [Recorder(), Recorder()]
    bodies = [{"new_version": name} for name in ("left", "right")]
    with_server(servers, lambda client: client.transport.each("POST", "/update_weight_version", bodies=bodies))
    assert [server.version for server in servers] == ["left", "right"]


def test_weights_that_were_refused_are_not_restored(checkpoint) -> None:
    server = Recorder()

    async def work(client: RolloutClient) -> Any:
        with Publisher(client, ServedNames.read(checkpoint)) as publisher:
            await publisher.publish(SERVED.items(), 1)
            server.fails = "covt_load_weights"
            with pytest.raises(WeightPushError):
                await publisher.publish(((name, 2 * tensor) for name, tensor in SERVED.items()), 2)
            server.fails, server.version = "", "default"
            await publisher.restore()

    with_server(server, work)
    assert server.version == "1"
    assert server.loaded["model.layers.0.w"].tolist() == [1, 1, 1, 1]


def test_missing_tensors_are_noticed_before_the_push_and_the_gather_is_finished(checkpoint) -> None:
    server, gathered = Recorder(), []

    def gather():
        for name in ("model.language_model.layers.0.w", "model.visual.v"):
            gathered.append(name)
            yield name, torch.ones(2)

    with pytest.raises(RolloutError, match="2 tensors were given, the server expects 3"):
        with_server(server, lambda client: publish(client, gather(), 1, ServedNames.read(checkpoint)))
    with pytest.raises(RolloutError, match="no tensor"):
        with_server(server, lambda client: publish(client, gather(), 1, ServedNames({"visual.v": checkpoint})))
    assert gathered == 2 * ["model.language_model.layers.0.w", "model.visual.v"]
    assert "/pause" not in server.calls


def test_folders_of_dead_publishers_are_removed_and_those_of_living_ones_kept(tmp_path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead, living = tmp_path / f"{PREFIX}{ended.pid}-x", tmp_path / f"{PREFIX}1-x"
    dead.mkdir()
    living.mkdir()
    with scratch(tmp_path) as folder:
        assert folder.is_dir()
        assert not dead.exists()
        assert living.exists()
    assert not folder.exists()


def test_a_folder_that_can_t_be_written_is_named() -> None:
    with pytest.raises(WeightPushError, match="/proc/nowhere") as caught, scratch(Path("/proc/nowhere")):
        pass
    assert caught.value.remedy
