"""vLLM's OpenAI-compatible server with a forked instead of a spawned engine process.

Start it with `python -m covt_rollout.server.vllm_main …`; it takes the flags of `vllm serve`.

Importing vLLM is most of a small server's start-up. A spawned engine process imports everything a second time; a forked
process has it already. Forking is safe on CPUs, where nothing has started threads or opened a device by then; on other
devices vLLM's own choice stands. This module calls vLLM's functions and replaces none.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PR_SET_PDEATHSIG = 1


def main(arguments: list[str] | None = None) -> None:
    """Serve until the process is told to stop; `arguments` are by default those of the command line."""
    # Imports make many objects and no garbage; looking for it takes a good part of the start-up.
    gc.disable()
    import uvloop
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    from vllm.logger import configure_logging_from_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    cli_env_setup()
    parser = make_arg_parser(FlexibleArgumentParser(description="vLLM server"))
    args: Any = parser.parse_args(arguments)
    configure_logging_from_args(args)
    validate_parsed_serve_args(args)
    uvloop.run(_serve(args))


async def _serve(args: Any) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.api_server.entry import build_and_serve
    from vllm.entrypoints.launchers.launcher import setup_server
    from vllm.platforms import current_platform
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    address, listener = setup_server(args, reuse_port=False)
    options = AsyncEngineArgs.from_cli_args(args)
    config = options.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
    # Imported objects stay out of later collections, which would also copy the pages that the engine shares.
    gc.freeze()
    gc.enable()
    if current_platform.is_cpu() and config.parallel_config.world_size == 1:
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
    with forks_die_with_us():
        engine = AsyncLLM.from_vllm_config(
            vllm_config=config,
            usage_context=UsageContext.OPENAI_API_SERVER,
            enable_log_requests=options.enable_log_requests,
            disable_log_stats=options.disable_log_stats,
        )
    try:
        await engine.reset_mm_cache()
        stopped = await build_and_serve(engine, address, listener, args)
    finally:
        # build_and_serve returns when the server has been told to stop; the engine ends before the sockets close.
        engine.shutdown(timeout=config.shutdown_timeout)
    try:
        await stopped
    finally:
        listener.close()


@contextmanager
def forks_die_with_us() -> Iterator[None]:
    """Within the block, processes that the main thread forks are killed when this process dies in any way.

    vLLM's engine process doesn't check whether its parent is alive, and would wait for it forever.
    """
    libc = ctypes.CDLL(None)
    inside = True

    def in_child() -> None:
        nonlocal inside
        if inside:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        inside = False

    os.register_at_fork(after_in_child=in_child)
    try:
        yield
    finally:
        inside = False


if __name__ == "__main__":
    main()
