"""Faults at random moments: the server is killed, stopped or ended in the middle of generations and weight pushes.

    python benchmarks/faults.py [--moments 20] [--seed 0] [--skip N] [--training] [--json]

Each moment is one round: all prompts are sampled, or new weights are pushed and then all prompts are sampled, and the
fault comes somewhere in between. Afterwards every prompt must have been answered exactly once, with the tokens that the
same weights give without a fault, and under their version. At the end no process, port or shared memory may be left.
`--training` does the same to a running `covt rl` (see `faults_training`). This is no comparison, so there is no base;
what is printed are counts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import harness
from leftovers import Leftovers
from rollout_work import QUICKSTART, build

SCALES = (1.2, 0.9)
# Seconds without an answer after which the server counts as hung, and after which a pause is over before that. What is
# only slow may be restarted needlessly, which costs time and changes no count.
PATIENCE, PAUSE = 6.0, 2.0
# Seconds that an answer may take. Ends nothing here, since a hung server is killed long before, on a slow machine too.
ANSWER = 300.0


@dataclass(frozen=True)
class Fault:
    """kind: kill, stop (for good), pause (stop and go on) or end (SIGTERM). whom: the process. during: what it hits.

    at: the moment, as a share of the time that the work takes without a fault.
    """

    kind: str
    whom: str
    during: str
    at: float

    @classmethod
    def draw(cls, rng: random.Random) -> Fault:
        whom = rng.choice(("api server", "engine", "supervisor"))
        kind = rng.choice(("kill", "stop", "pause") if whom != "supervisor" else ("kill", "end"))
        return cls(kind, whom, rng.choice(("generation", "push")), round(rng.random(), 3))

    def strike(self, server: Any) -> Callable[[], None]:
        """Do it; the result undoes it, where it can be undone."""
        from covt_rollout.server.supervisor import descendants

        supervised = server.pid
        below = descendants(supervised) if supervised is not None else []
        if supervised is None or not below:
            return lambda: None  # It is just being started again.
        target = {"supervisor": supervised, "api server": below[0], "engine": below[-1]}[self.whom]
        sent = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "pause": signal.SIGSTOP, "end": signal.SIGTERM}
        # A server that is being started again may end just now.
        with contextlib.suppress(ProcessLookupError):
            os.kill(target, sent[self.kind])
        return (lambda: os.kill(target, signal.SIGCONT)) if self.kind == "pause" else lambda: None


@dataclass
class Counts:
    """What was seen over all rounds; everything but `rounds`, `prompts`, `answered` and `restarts` should be 0."""

    rounds: int = 0
    prompts: int = 0
    answered: int = 0
    answered_twice: int = 0
    wrong_tokens: int = 0
    wrong_version: int = 0
    restarts: int = 0
    left_processes: int = 0
    left_ports: int = 0
    left_shared_memory: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        wrong = self.answered_twice + self.wrong_tokens + self.wrong_version
        left = self.left_processes + self.left_ports + self.left_shared_memory
        return self.answered == self.prompts and wrong == left == 0


class Rounds:
    """One server, one client, and two sets of weights whose answers are known."""

    def __init__(self, server: Any, client: Any, publisher: Any, samples: int = 2, prompts: int = 24) -> None:
        from safetensors.torch import load_file

        from covt_rollout.client.rollout_requests import PromptRequest, Sampling

        self.server, self.client, self.publisher = server, client, publisher
        self.weights = load_file(server.checkpoint / "model.safetensors")
        start = client.latent.start_id
        self.prompts = [PromptRequest((5 + n, 9, 14, 21, start), group_id=str(n)) for n in range(prompts)]
        self.sampling = Sampling(max_tokens=200, n=samples, seed=3)
        self.expected: dict[float, list[Any]] = {}
        self.usual: dict[str, float] = {}
        self.version = 0
        self.scale = 1.0
        self.counts = Counts()

    async def prepare(self) -> None:
        """Answers and durations without faults."""
        for scale in SCALES:
            begun = time.monotonic()
            await self.push(scale)
            self.usual["push"] = time.monotonic() - begun
            begun = time.monotonic()
            self.expected[scale] = token_ids(await self.client.generate(self.prompts, self.sampling))
            self.usual["generation"] = time.monotonic() - begun
        assert self.expected[SCALES[0]] != self.expected[SCALES[1]], "the two sets of weights answer alike"

    async def push(self, scale: float) -> None:
        self.version, self.scale = self.version + 1, scale
        await self.publisher.publish(((name, scale * tensor) for name, tensor in self.weights.items()), self.version)

    async def round(self, fault: Fault) -> None:
        """One fault, and what came of it."""
        answers = 0

        def answer(_done: int) -> None:
            nonlocal answers
            answers += 1

        striking = asyncio.create_task(self.strike(fault))
        if fault.during == "push":
            await self.push(SCALES[self.version % len(SCALES)])
        groups = await self.client.generate(self.prompts, self.sampling, on_done=answer)
        await striking
        counts = self.counts
        counts.rounds += 1
        counts.prompts += len(self.prompts)
        counts.answered += sum(
            whole(group, prompt, self.sampling.n) for group, prompt in zip(groups, self.prompts, strict=True)
        )
        counts.answered_twice += max(0, answers - len(self.prompts))
        expected = self.expected[self.scale]
        counts.wrong_tokens += sum(a != b for a, b in zip(token_ids(groups), expected, strict=True))
        counts.wrong_version += sum(one.weight_version != self.version for group in groups for one in group)
        name = f"{fault.kind} {fault.whom} during {fault.during}"
        counts.faults[name] = counts.faults.get(name, 0) + 1

    async def strike(self, fault: Fault) -> None:
        await asyncio.sleep(fault.at * self.usual[fault.during])
        undo = await asyncio.to_thread(fault.strike, self.server)
        if fault.kind == "pause":
            await asyncio.sleep(PAUSE)
            try:
                undo()
            except ProcessLookupError:
                return  # the server was started again meanwhile


def whole(group: Sequence[Any], prompt: Any, samples: int) -> bool:
    """Whether these are the prompt's samples, each once."""
    return [(one.group_id, one.sample_index) for one in group] == [(prompt.group_id, n) for n in range(samples)]


def token_ids(groups: Sequence[Sequence[Any]]) -> list[list[tuple[int, ...]]]:
    return [[one.token_ids for one in group] for group in groups]


def run(checkpoint: Path, faults: Sequence[Fault], log: Path, note: Callable[[str], None]) -> Counts:
    """All rounds on one server that is watched and restarted, and the count of what it leaves behind."""
    from covt_rollout.client.rollout_client import RolloutClient
    from covt_rollout.rollout_errors import ServerError
    from covt_rollout.server.server_options import ServerOptions
    from covt_rollout.server.server_process import LatentServer, check_port
    from covt_rollout.server.supervisor import descendants
    from covt_rollout.server.watchdog import ServerWatchdog
    from covt_rollout.weights.weight_files import ServedNames
    from covt_rollout.weights.weight_sync import Publisher

    begun = time.monotonic()
    left = Leftovers()
    options = ServerOptions(max_model_len=512, kv_cache_bytes=64 * 2**20)

    async def work(server: LatentServer) -> Counts:
        client = RolloutClient.for_checkpoint(server.url, checkpoint, timeout=ANSWER, attempts=3)
        async with client:
            with Publisher(client, ServedNames.read(checkpoint)) as publisher:
                client.transport.on_down = publisher.restore
                rounds = Rounds(server, client, publisher)
                await rounds.prepare()
                for number, fault in enumerate(faults):
                    note(f"{number + 1}/{len(faults)}: {fault}")
                    if (pid := server.pid) is not None:
                        left.seen([pid, *descendants(pid)])
                    await rounds.round(fault)
                return rounds.counts

    with LatentServer.start(checkpoint, options=options, log_path=log) as server:
        with ServerWatchdog(server, interval=0.5, patience=PATIENCE, limit=10 * len(faults), on_note=note) as watch:
            counts = asyncio.run(work(server))
        counts.restarts = watch.restarts
    counts.left_processes, counts.left_shared_memory = left.count()
    try:
        check_port(server.host, server.port)
    except ServerError:
        counts.left_ports = 1
    counts.seconds = round(time.monotonic() - begun, 1)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill, stop and end the rollout server at random moments.")
    parser.add_argument("--moments", type=int, default=20, help="how many faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip", type=int, default=0, help="leave out the first of the seed's moments")
    parser.add_argument("--training", action="store_true", help="in a running `covt rl`, its ranks included")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as temporary:
        counts = trained(rng, options, Path(temporary)) if options.training else served(rng, options, Path(temporary))
    result = {"name": "faults", "device": harness.device(), "versions": harness.versions(), **asdict(counts)}
    print(json.dumps(result, indent=2) if options.json else "\n".join(f"{k}: {v}" for k, v in result.items()))
    sys.exit(0 if counts.clean else 1)


def served(rng: random.Random, options: argparse.Namespace, folder: Path) -> Counts:
    faults = [Fault.draw(rng) for _ in range(options.moments)][options.skip :]
    return run(build(folder / "checkpoint", QUICKSTART), faults, folder / "vllm.log", note)


def trained(rng: random.Random, options: argparse.Namespace, folder: Path) -> Any:
    import faults_training

    faults = [faults_training.Fault.draw(rng) for _ in range(options.moments)][options.skip :]
    return faults_training.run(build(folder / "checkpoint", QUICKSTART), faults, folder, note)


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
