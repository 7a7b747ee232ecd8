"""The key is asked for on every path but the health checks and the page, which holds nothing of the model."""

from __future__ import annotations

from typing import Any

import pytest
from fake_server import run

from covt_rollout.server.api_key_check import RequireKey
from covt_rollout.server.server_options import is_loopback


def ask(path: str, header: bytes | None, monkeypatch) -> tuple[int, bool]:
    """HTTP status (200 from the application behind the guard) and whether the application was reached."""
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    sent: list[dict[str, Any]] = []

    async def application(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [] if header is None else [(b"authorization", header)]
    run(RequireKey(application)({"type": "http", "path": path, "headers": headers}, None, send))
    return sent[0]["status"], sent[0]["status"] == 200


@pytest.mark.parametrize("path", ["/collective_rpc", "/pause", "/v1/models", "/inference/v1/generate", "/metrics", "/"])
@pytest.mark.parametrize("header", [None, b"Bearer wrong", b"secret", b"Bearer secret ", b"bearer secret", b""])
def test_no_path_without_the_key(path, header, monkeypatch) -> None:
    assert ask(path, header, monkeypatch) == (401, False)


@pytest.mark.parametrize("path", ["/collective_rpc", "/v1/models"])
def test_the_key_opens_every_path(path, monkeypatch) -> None:
    assert ask(path, b"Bearer secret", monkeypatch) == (200, True)


@pytest.mark.parametrize("path", ["/health", "/covt/page"])
def test_health_and_the_empty_page_are_open(path, monkeypatch) -> None:
    assert ask(path, None, monkeypatch) == (200, True)


@pytest.mark.parametrize("path", ["/covt/inspect", "/covt/rows/0", "/covt/page/", "/covt/weights/a"])
def test_what_the_page_shows_is_not(path, monkeypatch) -> None:
    assert ask(path, None, monkeypatch) == (401, False)


def test_loopback_addresses() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.0.1.1", "localhost", "::1"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "10.0.0.1", "example.org"]))
