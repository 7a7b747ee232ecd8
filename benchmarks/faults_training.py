"""SIGKILL of the server, of a trainer's rank, or of both at random moments of a running `covt rl`.

One run goes through one epoch. A killed server is started again by the run itself; after a killed rank the run is
resumed, as a person would. At the end every prompt must have been trained on exactly once, and every step that was done
twice must have been logged alike both times: it is done again from the journal.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leftovers import Leftovers

from covt_runtime.metrics.progress import Progress

PROMPTS, SAMPLES = 2, 4
# Steps within which a fault comes, and steps for each fault: two are done before them.
SPAN, EACH = 3.0, 6
# A random model is never right: this pays for what it does often enough to differ within a group.
REWARD = """
from covt_rewards import RewardResult

def evenness(group):
    return [RewardResult(float(sum(one.token_ids) % 2)) for one in group.rollouts]
"""
SERVER, RANK = "covt_rollout.server.vllm_main", "covt_runtime.launch.worker_process"
# Metrics that are of the clock and not of the training.
CLOCK = ("time", "perf/", "step_time")


@dataclass(frozen=True)
class Fault:
    """whom: server, rank 0, rank 1 or both (the server and a rank). at: the moment, as a share of SPAN steps."""

    whom: str
    at: float

    @classmethod
    def draw(cls, rng: random.Random) -> Fault:
        return cls(rng.choice(("server", "rank 0", "rank 1", "both")), round(rng.random(), 3))

    def strike(self, pids: Sequence[int]) -> None:
        """Kill those of the processes `pids` that are meant."""
        ranks = [pid for pid in pids if RANK in command_of(pid)]
        servers = [pid for pid in pids if SERVER in command_of(pid)]
        number = 1 if self.whom == "rank 1" else 0
        targets = servers[:1] * (self.whom in ("server", "both")) + ranks[number : number + 1] * (self.whom != "server")
        for pid in targets:
            # One that has just ended by itself is as good as killed.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@dataclass
class Counts:
    """What was seen over the whole run; `never_trained` and what follows should be 0.

    steps_compared: lines of the log at the time of a resume, each held against the final one of the same step.
    """

    rounds: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    prompts: int = 0
    trained_once: int = 0
    restarts: int = 0
    resumes: int = 0
    steps_compared: int = 0
    never_trained: int = 0
    trained_twice: int = 0
    steps_changed: int = 0
    left_processes: int = 0
    left_shared_memory: int = 0
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        wrong = self.never_trained + self.trained_twice + self.steps_changed
        return self.trained_once == self.prompts and wrong + self.left_processes + self.left_shared_memory == 0


class Striker(Progress):
    """Watches one run's progress and strikes: each fault once the one before has been overcome.

    A fault comes so many steps and a part of one later; at the latest when that step is over, however long it took.
    """

    def __init__(self, faults: Sequence[Fault], left: Leftovers, note: Callable[[str], None]) -> None:
        super().__init__(quiet=True)
        self.waiting, self.struck = list(faults), list[Fault]()
        self.restarts = 0
        self._left, self._tell = left, note
        self._others = set(below())
        self._lock = threading.Lock()
        self.begin_again()

    def begin_again(self) -> None:
        """The run is about to begin, or to be resumed."""
        self._timer: threading.Timer | None = None
        self._steps, self._last = 0, time.monotonic()

    def note(self, text: str) -> None:
        self.restarts += "starting it again" in text
        self._tell(text)

    def handle(self, event: Any) -> None:
        if event.get("event") != "advance":
            return
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        self._steps += 1
        if self._timer is not None:
            self._timer.cancel()
            self._strike()
        elif self.waiting:
            steps, part = divmod(self.waiting[0].at * SPAN, 1)
            # The first step of a run says nothing of how long a step takes.
            if self._steps >= 2 + steps:
                self._timer = threading.Timer(part * seconds, self._strike)
                self._timer.start()

    def _strike(self) -> None:
        with self._lock:
            if self._timer is None:
                return  # It came just now.
            self._timer, self._steps = None, 0
            fault = self.waiting.pop(0)
            pids = [pid for pid in below() if pid not in self._others]
            self._left.seen(pids)
            self._tell(f"{len(self.struck) + 1}: {fault}")
            self.struck.append(fault)
            fault.strike(pids)


def below() -> list[int]:
    from covt_rollout.server.supervisor import descendants

    return descendants(os.getpid())


def command_of(pid: int) -> str:
    """The command line; empty for a process that is gone, and for a supervisor, whose line names its child's."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""
    return "" if "supervisor" in line else line


def run(
    checkpoint: Path, faults: Sequence[Fault], folder: Path, note: Callable[[str], None], steps: int | None = None
) -> Counts:
    """One epoch of `steps` steps with these faults; the run lies in `folder`/rl."""
    from covt_data.ingest.prepare import prepare
    from covt_rl.training.train import plan, train
    from covt_runtime.runtime_errors import LaunchError

    begun, left = time.monotonic(), Leftovers()
    counts = Counts(steps=steps or EACH * len(faults) + 2)
    counts.prompts = PROMPTS * counts.steps
    data = prepare_data(prepare, folder / "data", counts.prompts)
    config = recipe(checkpoint, data, folder)
    planned, striker = plan(config), Striker(faults, left, note)
    logged: list[dict[str, Any]] = []
    while True:
        try:
            train(config, planned, progress=striker, resume=counts.resumes > 0)
            break
        except LaunchError:
            striker.begin_again()
            logged += metrics(folder / "rl")
            counts.resumes += 1
    counts.rounds, counts.restarts = len(striker.struck), striker.restarts
    counts.faults = dict(Counter(f"kill {fault.whom}" for fault in striker.struck))
    count_prompts(counts, folder / "rl")
    final = {line["step"]: line for line in metrics(folder / "rl")}
    counts.steps_compared = len(logged)
    counts.steps_changed = sum(of_training(line) != of_training(final[line["step"]]) for line in logged)
    counts.left_processes, counts.left_shared_memory = left.count()
    counts.seconds = round(time.monotonic() - begun, 1)
    return counts


def prepare_data(prepare: Callable[..., Any], folder: Path, prompts: int) -> Path:
    prepare("trace", folder, options={"n_train": 1, "n_prompts": prompts, "n_test": 1})
    return folder


def recipe(checkpoint: Path, data: Path, folder: Path) -> Any:
    from covt_rl.rl_recipe import RlConfig

    reward = folder / "reward.py"
    reward.write_text(REWARD)
    return RlConfig.model_validate(
        {
            "run": {"out": str(folder), "name": "rl"},
            "model": {"path": str(checkpoint)},
            "data": {"path": str(data), "split": "prompts", "micro_batch": 4},
            "optim": {"lr": 1e-3, "schedule": "constant", "warmup_steps": 0},
            "zero": {"dtype": "fp32", "gather": "step", "persistence_threshold": 0},
            "rollout": {"prompts": PROMPTS, "samples": SAMPLES, "max_tokens": 20, "timeout": 300},
            "rewards": {"use": f"{reward}:evenness,format=0.1,necessity=0"},
            "server": {"max_model_len": 512},
            "log": {"wandb": "disabled", "every": 1, "save_every": 2, "completions_every": 1, "completions": 64},
        }
    )


def count_prompts(counts: Counts, run_folder: Path) -> None:
    """How often each prompt was trained on, by the tables of the steps that count."""
    times: Counter[str] = Counter()
    for table in (run_folder / "completions").glob("step_*.jsonl"):
        times.update({json.loads(line)["id"] for line in table.read_text().splitlines()})
    counts.trained_once = sum(number == 1 for number in times.values())
    counts.trained_twice = sum(number > 1 for number in times.values())
    counts.never_trained = counts.prompts - len(times)


def metrics(run_folder: Path) -> list[dict[str, Any]]:
    """The lines of the log, in the order of their steps."""
    path = run_folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def of_training(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if not name.startswith(CLOCK)}
