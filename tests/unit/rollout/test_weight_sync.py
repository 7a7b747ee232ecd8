"""Names, buckets, folders, and the order of a push; a push to the real server is an integration test."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from recording_server import Recorder, with_server
from safetensors.torch import load_file, save_file

from covt_model.latents.heads import FILE, save_head
from covt_model.model_errors import CheckpointError
from covt_rollout.client.rollout_client import RolloutClient
from covt_rollout.rollout_errors import RolloutError, WeightPushError
from covt_rollout.weights import weight_sync
from covt_rollout.weights.weight_files import ServedNames, write_weights
from covt_rollout.weights.weight_sync import Publisher, publish, push_weights

SERVED = {"model.layers.0.w": torch.ones(4), "visual.v": torch.zeros(2), "model.norm.weight": torch.ones(3)}


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    save_file(SERVED, tmp_path / "model.safetensors")
    return tmp_path


@pytest.fixture
def names(checkpoint) -> ServedNames:
    return ServedNames.read(checkpoint)


@pytest.fixture
def out(tmp_path) -> Path:
    """An empty folder to write weights to."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def scaled(factor: float) -> list[tuple[str, torch.Tensor]]:
    """All served tensors times `factor`, as a trainer's gather gives them."""
    return [(name, factor * tensor) for name, tensor in SERVED.items()]


def with_publisher(
    servers: Recorder | list[Recorder], names: ServedNames, work: Callable[[Publisher], Awaitable[Any]]
) -> Any:
    """What `work(publisher)` returns, while the servers run."""

    async def run(client: RolloutClient) -> Any:
        with Publisher(client, names) as publisher:
            return await work(publisher)

    return with_server(servers, run)


def mend(server: Recorder, publisher: Publisher) -> None:
    """Have the client bring a failing server back: nothing fails any longer, and it gets the newest weights."""

    async def bring_back() -> None:
        server.fails = ""
        await publisher.restore()

    publisher.client.transport.on_down = bring_back


def test_trainers_names_find_the_served_ones(names) -> None:
    assert names.find("model.language_model.layers.0.w") == "model.layers.0.w"
    assert names.find("model.visual.v") == names.find("visual.v") == "visual.v"
    assert len(names) == 3
    with pytest.raises(RolloutError, match=r"no tensor 'model\.language_model\.layers\.1\.w'"):
        names.find("model.language_model.layers.1.w")


def test_a_folder_without_weights_is_named(tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"no \*\.safetensors"):
        ServedNames.read(tmp_path)


def test_tensors_are_written_in_buckets_and_all_of_them(names, out) -> None:
    given = [("model.language_model.layers.0.w", torch.arange(4.0)), ("model.visual.v", torch.ones(2))]
    assert write_weights(iter(given), out, names, bucket_bytes=16) == (2, 24)
    files = sorted(out.glob("*.safetensors"))
    assert [set(load_file(file)) for file in files] == [{"model.layers.0.w"}, {"visual.v"}]


def test_the_latent_heads_tensors_go_where_a_checkpoint_has_them(checkpoint, out) -> None:
    save_head(checkpoint, {"weight": torch.eye(4), "bias": torch.zeros(4)})
    names = ServedNames.read(checkpoint).without_vision()
    assert len(names) == 4
    given = [("policy.model.latent_head.weight", torch.ones(4, 4)), ("model.norm.weight", torch.ones(3))]
    assert write_weights(given, out, names) == (2, 76)
    assert load_file(out / FILE)["weight"].tolist() == torch.ones(4, 4).tolist()
    assert "weight" not in load_file(out / "model.safetensors")
    with pytest.raises(RolloutError, match=r"no tensor 'latent_head\.other'"):
        write_weights([("latent_head.other", torch.ones(1))], out, names)


def test_views_and_gradients_don_t_hinder_writing(names, out) -> None:
    whole = torch.arange(8.0, requires_grad=True)
    write_weights([("model.layers.0.w", whole[::2])], out, names)
    assert load_file(out / "model.safetensors")["model.layers.0.w"].tolist() == [0, 2, 4, 6]


def test_a_push_pauses_names_loads_names_and_resumes(names) -> None:
    server = Recorder()
    given = [("model.language_model.layers.0.w", torch.full((4,), 2.0)), ("model.norm.weight", torch.ones(3))]

    async def work(client: RolloutClient) -> Any:
        report = await publish(client, given, 17, names.without_vision())
        return report, client.version

    report, version = with_server(server, work)
    assert server.calls == [
        "/weight_info",
        "/pause abort",
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


def test_a_replica_that_has_loaded_already_is_given_the_old_weights_again(names) -> None:
    fine, failing = Recorder(), Recorder()

    async def work(publisher: Publisher) -> Any:
        await publisher.publish(scaled(2), 1)
        failing.fails = "covt_load_weights"
        with pytest.raises(WeightPushError, match="and no version is served"):
            await publisher.publish(scaled(3), 2)
        return fine.loaded["model.layers.0.w"].tolist()

    # The failing one can't be asked to load anything, so nothing but the other's weights can be put right.
    assert with_publisher([fine, failing], names, work) == [2, 2, 2, 2]
    assert fine.version == failing.version == "loading 2"


def test_a_push_that_one_replica_refused_leaves_the_old_version_on_all(names) -> None:
    replicas = [Recorder(), Recorder(fails="covt_load_weights")]
    replicas[1].fails_once = True

    async def work(publisher: Publisher) -> Any:
        with pytest.raises(WeightPushError, match="version 0 stays"):
            await publisher.publish(scaled(3), 5)
        return await publisher.client.weight_version()

    assert with_publisher(replicas, names, work) == 0
    assert [one.worker_version for one in replicas] == [0, 0]
    assert replicas[0].loaded["model.layers.0.w"].tolist() == [1, 1, 1, 1]
    assert [one.calls.count("/resume") for one in replicas] == [1, 1]


def test_a_push_that_failed_is_repeated_once_the_server_is_back(names) -> None:
    server = Recorder("4", 4, fails="covt_load_weights")

    async def work(publisher: Publisher) -> None:
        mend(server, publisher)
        await publisher.publish(scaled(1), 5)

    with_publisher(server, names, work)
    assert server.version == "5"
    assert server.calls.count("covt_load_weights") == 2


def test_a_server_that_ends_while_it_is_restored_is_restored_when_it_is_back(names, monkeypatch) -> None:
    monkeypatch.setattr(weight_sync, "PUSH_PAUSE", 0.001)
    server = Recorder()

    async def work(publisher: Publisher) -> None:
        await publisher.publish(scaled(1), 1)
        server.version, server.fails, server.fails_once = "default", "covt_load_weights", True
        await publisher.restore()

    with_publisher(server, names, work)
    assert server.version == "1"


def test_restoring_gives_up_on_a_server_that_answers_and_takes_nothing(names, monkeypatch) -> None:
    monkeypatch.setattr(weight_sync, "PUSH_PAUSE", 0.001)
    server = Recorder()

    async def work(publisher: Publisher) -> None:
        await publisher.publish(scaled(1), 1)
        server.version, server.fails = "default", "covt_load_weights"
        server.calls.clear()
        with pytest.raises(WeightPushError):
            await publisher.restore()

    with_publisher(server, names, work)
    assert server.calls.count("covt_load_weights") >= weight_sync.MAX_PUSHES


def test_a_push_that_was_cut_short_at_its_end_is_ended(names) -> None:
    """The server has the weights and their name, and still pauses."""
    server = Recorder(fails="/resume")

    async def work(publisher: Publisher) -> int | None:
        mend(server, publisher)
        await publisher.publish(scaled(1), 5)
        return publisher.client.version

    assert with_publisher(server, names, work) == 5
    assert server.calls[-1] == "/resume"
    assert server.calls.count("covt_load_weights") == 1


def test_each_replica_may_be_told_something_of_its_own() -> None:
    servers = [Recorder(), Recorder()]
    bodies = [{"new_version": name} for name in ("left", "right")]
    with_server(servers, lambda client: client.transport.call_each("POST", "/update_weight_version", bodies=bodies))
    assert [server.version for server in servers] == ["left", "right"]


def test_weights_that_were_refused_are_not_restored(names) -> None:
    server = Recorder()

    async def work(publisher: Publisher) -> None:
        await publisher.publish(scaled(1), 1)
        server.fails = "covt_load_weights"
        with pytest.raises(WeightPushError):
            await publisher.publish(scaled(2), 2)
        server.fails, server.version = "", "default"
        await publisher.restore()

    with_publisher(server, names, work)
    assert server.version == "1"
    assert server.loaded["model.layers.0.w"].tolist() == [1, 1, 1, 1]


def test_missing_tensors_are_noticed_before_the_push_and_the_gather_is_finished(names) -> None:
    server, gathered = Recorder(), []

    def gather():
        for name in ("model.language_model.layers.0.w", "model.visual.v"):
            gathered.append(name)
            yield name, torch.ones(2)

    with pytest.raises(RolloutError, match="2 tensors were given, the server expects 3"):
        with_server(server, lambda client: publish(client, gather(), 1, names))
    with pytest.raises(RolloutError, match="no tensor"):
        with_server(server, lambda client: publish(client, gather(), 1, ServedNames({"visual.v": names.folder})))
    assert gathered == 2 * ["model.language_model.layers.0.w", "model.visual.v"]
    assert server.calls == []
