"""`covt serve`: a latent model behind an OpenAI-compatible HTTP server."""

import os
import signal
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from covt.output import emit, note

KEY = "COVT_API_KEY"


def serve(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CKPT", help="A folder that `covt sft`, `covt rl` or `covt export` wrote.")
    ],
    host: Annotated[str, typer.Option(help=f"Address to listen on; anything but loopback needs {KEY}.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(help="Port (of the first replica); a free one is chosen without it.")
    ] = None,
    replicas: Annotated[int, typer.Option(help="Servers with a copy of the model each.")] = 1,
    tensor_parallel: Annotated[int, typer.Option(help="Devices that one copy of the model is split over.")] = 1,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or auto; without it float32 on CPUs and auto on GPUs.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of a server on a CPU; for small models 1 is fastest.")] = 1,
    max_model_len: Annotated[int | None, typer.Option(help="Longest prompt and completion, in tokens.")] = None,
    sleep: Annotated[
        bool, typer.Option("--sleep", help="GPUs: give the memory back while a trainer on them asks for it.")
    ] = False,
    runner: Annotated[
        Literal["v1", "v2"] | None,
        typer.Option(help="vLLM's model runner; without it v2 on GPUs with Triton, v1 elsewhere."),
    ] = None,
    weight_folder: Annotated[
        str, typer.Option(help="Folder for weights that a trainer elsewhere uploads; without it /dev/shm.")
    ] = "",
    images: Annotated[int, typer.Option(help="Most pictures in one prompt.")] = 8,
    page: Annotated[
        bool, typer.Option("--page", help="Serve a page beside the API that looks into latents; on loopback only.")
    ] = False,
    data: Annotated[str, typer.Option(metavar="SET", help="With --page: a prepared set whose rows it offers.")] = "",
    split: Annotated[str, typer.Option(help="Which split of it.")] = "test",
    as_json: Annotated[bool, typer.Option("--json", help="Print the addresses as JSON.")] = False,
) -> None:
    """Serve a latent model with an OpenAI-compatible API.

    An unmodified vLLM with the latent plugin, until Ctrl-C or SIGTERM.
    """
    from covt_rollout.reading_endpoints import PAGE
    from covt_rollout.server.replicas import run_replicas, wait_until_stopped
    from covt_rollout.server.server_options import ServerOptions
    from covt_runtime.metrics.progress import Progress

    options = ServerOptions(
        dtype=dtype,
        tensor_parallel=tensor_parallel,
        threads=threads,
        max_model_len=max_model_len,
        sleep=sleep,
        runner=runner,
        weight_folder=weight_folder,
        images_per_prompt=images,
        **(page_options(host, data, split) if page else {}),
    )
    stopped = threading.Event()
    begun = time.monotonic()
    with ExitStack() as stack:
        with Progress() as progress, progress.phase("start vLLM", unit="s") as phase:
            starting = run_replicas(
                checkpoint,
                replicas,
                host=host,
                port=port,
                api_key=os.environ.get(KEY),
                options=options,
                on_progress=lambda stage, seconds: phase.update(round(seconds), stage=stage),
            )
            servers = stack.enter_context(starting)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopped.set())
        started = {
            "url": ",".join(server.url for server in servers),
            "model": str(checkpoint),
            "page": f"{servers[0].url}{PAGE}" if page else None,
            "seconds": round(time.monotonic() - begun, 1),
            "replicas": [{"url": one.url, "pid": one.pid, "log": str(one.log_path)} for one in servers],
        }
        emit(started, as_json=as_json, text="\n".join(server.url for server in servers))
        sys.stdout.flush()
        logs = ", ".join(str(server.log_path) for server in servers)
        if page:
            note(f"page: {servers[0].url}{PAGE}")
        note(f"try:\n{example(servers[0].url, str(checkpoint))}\nlog: {logs}\nCtrl-C stops the server")
        wait_until_stopped(servers, stopped)


def page_options(host: str, data: str, split: str) -> dict[str, Any]:
    """The options of servers that look into latents; the set is read here once, to refuse one that can't be read."""
    from covt_eval.inspection.inspect_app import DATA_VARIABLE, MIDDLEWARE, SPLIT_VARIABLE
    from covt_eval.inspection.offered_rows import OfferedRows
    from covt_rollout.rollout_errors import ServerError
    from covt_rollout.server.server_options import is_loopback

    if not is_loopback(host):
        remedy = "serve on loopback, and reach it from elsewhere with `ssh -L 8000:localhost:8000 HOST`"
        raise ServerError(f"--page is for people on this machine, not for {host}", remedy)
    folder = str(Path(data).resolve()) if data else ""
    OfferedRows(folder, split)
    return {"middleware": (MIDDLEWARE,), "variables": ((DATA_VARIABLE, folder), (SPLIT_VARIABLE, split))}


def example(url: str, model: str) -> str:
    """A shell command that asks about PICTURE.png."""
    picture = '{"type": "image_url", "image_url": {"url": "data:image/png;base64,\'$(base64 -w0 PICTURE.png)\'"}}'
    content = f'[{picture}, {{"type": "text", "text": "What is shown?"}}]'
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": {content}}}]}}'
    key = f' -H "Authorization: Bearer ${KEY}"' if os.environ.get(KEY) else ""
    return f"curl {url}/v1/chat/completions -H 'Content-Type: application/json'{key} -d '{body}'"
