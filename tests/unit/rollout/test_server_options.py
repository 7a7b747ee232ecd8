"""The environment of a rollout server, and the options of one with a page."""

from pathlib import Path

import pytest

from covt.commands.serve import page_options
from covt_data.data_errors import DataError
from covt_rollout.rollout_errors import ServerError
from covt_rollout.server.server_options import ServerOptions, server_environment


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


def test_variables_of_the_options_reach_the_server():
    assert server_environment(None, ServerOptions(variables=(("COVT_X", "1"),)))["COVT_X"] == "1"


def test_a_page_is_for_loopback_and_its_set_is_read_at_once(tmp_path: Path):
    found = ServerOptions(**page_options("127.0.0.1", "", "test"))
    assert [name.rpartition(".")[2] for name in found.middleware] == ["InspectLatents"]
    with pytest.raises(ServerError, match=r"for people on this machine, not for 0\.0\.0\.0") as caught:
        page_options("0.0.0.0", "", "test")
    assert "ssh -L" in caught.value.remedy
    with pytest.raises((DataError, OSError), match="nowhere"):
        page_options("localhost", str(tmp_path / "nowhere"), "test")
