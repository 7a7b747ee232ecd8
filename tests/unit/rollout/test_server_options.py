"""The environment of a rollout server that rank 0 of a training starts."""

import pytest

from covt_rollout.server.server_options import server_environment


def test_a_server_does_not_join_the_group_of_the_ranks_beside_it(monkeypatch: pytest.MonkeyPatch):
    ours = {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "a",
        "MASTER_PORT": "1",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("KEPT", "yes")
    found = server_environment(None)
    assert not ours.keys() & found.keys()
    assert found["KEPT"] == "yes"
