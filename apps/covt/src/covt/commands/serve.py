"""`covt serve`: a latent model behind an OpenAI-compatible HTTP server."""

import json
import os
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from covt.output import emit, note


def serve(
    checkpoint: Annotated[Path, typer.Argument(help="A folder that `covt sft`, `covt rl` or `covt export` wrote.")],
    host: Annotated[str, typer.Option(help="Address to listen on; anything but loopback needs COVT_API_KEY.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int | None, typer.Option(help="Port; a free one is chosen without it.")] = None,
    tensor_parallel: Annotated[int, typer.Option(help="Devices that one copy of the model is split over.")] = 1,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or auto.")] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Print the address as JSON.")] = False,
) -> None:
    """Start an unmodified vLLM with the latent plugin and wait until it is stopped (Ctrl-C)."""
    from covt_rl.serving.options import ServerOptions
    from covt_rl.serving.process import LatentServer
    from covt_runtime.progress import Progress

    options = ServerOptions(dtype=dtype, tensor_parallel=tensor_parallel)
    with Progress() as progress, progress.phase("start vLLM", unit="s") as phase:
        server = LatentServer.start(
            checkpoint,
            host=host,
            port=port,
            api_key=os.environ.get("COVT_API_KEY"),
            options=options,
            on_progress=lambda stage, seconds: phase.update(round(seconds), stage=stage),
        )
    with server:
        request = {"model": str(checkpoint), "messages": [{"role": "user", "content": "Hello"}]}
        body = json.dumps(request)
        curl = f"curl {server.url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'"
        emit({"url": server.url, "pid": server.pid, "log": str(server.log_path)}, as_json=as_json, text=server.url)
        note(f"try: {curl}\nlog: {server.log_path}\nCtrl-C stops the server")
        stopped = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopped.set())
        while not stopped.wait(1.0):
            server.check()
