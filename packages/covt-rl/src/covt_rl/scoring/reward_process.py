"""A reward of the user's own, in a process that can be ended: code that hangs costs only the group it hangs on."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from covt_rewards import ConfiguredReward, Group, RewardResult
from covt_rewards.registry import BUILTIN, make


class RewardTimeoutError(RuntimeError):
    """The reward gave no answer in time, or its process has died."""


class ProcessReward:
    """A reward that runs in a child process, started when it is first asked and again after a timeout.

    Threads that score groups side by side ask it one after the other.

    Args:
        name: as on the command line.
        settings: of the reward.
        time_limit: seconds that a group may take.
        start_limit: further seconds for the first answer of a process, in which Python starts.
    """

    def __init__(self, name: str, settings: Mapping[str, object], time_limit: float, start_limit: float = 60.0) -> None:
        self.name, self.settings, self.time_limit, self.start_limit = name, dict(settings), time_limit, start_limit
        self._child: subprocess.Popen[bytes] | None = None
        self._answers = -1
        self._rest = b""
        self._asking = threading.Lock()

    def __call__(self, group: Group) -> Sequence[RewardResult]:
        """One result per rollout; raises RewardTimeoutError, or RuntimeError with what the reward raised."""
        with self._asking:
            return self._score(group)

    def _score(self, group: Group) -> Sequence[RewardResult]:
        limit = self.time_limit
        if self._child is None:
            self._start()
            limit += self.start_limit
        try:
            answer = self._ask(json.dumps(group.to_json()).encode() + b"\n", limit)
        except RewardTimeoutError:
            self.close()
            raise
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return [RewardResult.from_json(one) for one in answer["results"]]

    def _start(self) -> None:
        # In the group of the rank that asks, so that it is killed with it even while it hangs.
        self._answers, write = os.pipe()
        arguments = [
            sys.executable,
            "-m",
            "covt_rl.scoring.reward_process",
            str(write),
            self.name,
            json.dumps(self.settings),
        ]
        self._child = subprocess.Popen(arguments, stdin=subprocess.PIPE, pass_fds=(write,))
        os.close(write)
        self._rest = b""

    def _ask(self, line: bytes, limit: float) -> dict[str, Any]:
        assert self._child is not None and self._child.stdin is not None
        try:
            self._child.stdin.write(line)
            self._child.stdin.flush()
        except BrokenPipeError as error:
            raise RewardTimeoutError(f"the process of reward {self.name!r} has died") from error
        end = time.monotonic() + limit
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise RewardTimeoutError(f"reward {self.name!r} gave no answer within {limit:g} s")
            data = os.read(self._answers, 1 << 16)
            if not data:
                raise RewardTimeoutError(f"the process of reward {self.name!r} has died")
            self._rest += data
        first, _, self._rest = self._rest.partition(b"\n")
        return json.loads(first)

    def close(self) -> None:
        """End the process; the next group starts another."""
        if self._child is None:
            return
        self._child.kill()
        self._child.wait()
        if self._child.stdin is not None:
            self._child.stdin.close()
        os.close(self._answers)
        self._child = None


def guard(
    reward: ConfiguredReward, settings: Mapping[str, object], names: Sequence[str], time_limit: float
) -> ConfiguredReward:
    """Run a reward in a process of its own, unless it is built in and so has limits of its own.

    Args:
        reward: the configured reward.
        settings: its settings.
        names: the rewards as the recipe names them: `path/to/file.py:function` is called `function` in the log.
        time_limit: seconds that a group may take.
    """
    spec = next((name for name in names if name.rpartition(":")[2] == reward.name), reward.name)
    if spec in BUILTIN:
        return reward
    return replace(reward, reward=ProcessReward(spec, settings, time_limit))


def main(answers: int, name: str, settings: dict[str, object]) -> None:
    """The child: groups as JSON lines on stdin, answers as JSON lines on the pipe; it ends with its parent."""
    sys.stdout = sys.stderr
    with os.fdopen(answers, "w") as out:
        reward = make(name, settings)
        for line in sys.stdin:
            try:
                results = reward(Group.from_json(json.loads(line)))
                answer: dict[str, object] = {"results": [one.to_json() for one in results]}
            except Exception as error:  # Reported to the parent, which counts it.
                answer = {"error": f"{type(error).__name__}: {error}"}
            out.write(json.dumps(answer) + "\n")
            out.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]))
