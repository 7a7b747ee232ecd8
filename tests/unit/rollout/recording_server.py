"""A server that records what it is told and answers as vLLM's control endpoints do; it samples nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from aiohttp import web
from fake_server import run
from safetensors.torch import load_file

from covt_model.latent_config import LatentConfig
from covt_rollout.client.rollout_client import RolloutClient

LATENT = LatentConfig(start_id=100, pad_id=101, end_id=102, size=2)


class Recorder:
    """A server that records calls; `fails` names the call that answers HTTP 500, each time or once.

    text: what it says all token ids mean.
    """

    def __init__(self, version: str = "default", worker_version: int = 0, fails: str = "") -> None:
        self.version, self.worker_version, self.fails = version, worker_version, fails
        self.fails_once = False
        self.sleep_mode, self.sleeping = True, False
        self.text = ""
        self.calls: list[str] = []
        self.loaded: dict[str, torch.Tensor] = {}

    async def handle(self, request: web.Request) -> web.Response:
        path, body = request.path, await request.json() if request.can_read_body else {}
        call = body.get("method", path)
        details = [body.get("new_version", ""), *request.query.values()]
        self.calls.append(" ".join([call, *filter(None, details)]))
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
            status = {"weight_version": self.worker_version, "sleep_mode": self.sleep_mode}
            return web.json_response({"results": [status]})
        answer = {"weight_version": self.version, "is_sleeping": self.sleeping, "prompt": self.text}
        return web.json_response(answer)


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
