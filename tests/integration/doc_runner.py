"""Runs the documentation's blocks in a scratch folder that has what the pages take for granted, in small."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from doc_pages import Snippet
from layouts import numbered, picture, write_comt, write_virl, write_zebra
from typer.testing import CliRunner

import covt_rewards.command_line.cli
from covt.main import app

STAND_INS = {"comt": "downloads/comt", "virl39k": "downloads/ViRL39K"}
# What makes a documented training or evaluation one of seconds.
SMALL_SET = ["n_train=64", "n_prompts=32", "n_test=16"]
SMALL_SFT = ["stage1.steps=2", "stage2.steps=2", "data.batch_size=4", "data.micro_batch=4", "eval.rows=4"]
SMALL_RL = ["algorithm.steps=1", "rollout.prompts=2", "rollout.samples=2"]
QUICK_IMPORTS = {"covt_data", "covt_rewards", "pathlib"}


def make_downloads(folder: Path) -> None:
    """The files that commands read: published layouts, one's own rows, recorded rollouts."""
    downloads = folder / "downloads"
    write_comt(downloads / "comt", train=72)
    write_virl(downloads / "ViRL39K", rows=40, irregular=False)
    write_zebra(downloads / "Zebra-CoT", irregular=False)
    maps = downloads / "vsp-maps"
    levels = {
        3: [[1, 0, 0], [-1, 0, 0], [0, 0, 2]],
        4: [[1, 0, 0, 0], [-1, 0, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0]],
    }
    lines: list[str] = []
    for level, cells in levels.items():
        image = f"level{level}/1.png"
        (maps / image).parent.mkdir(parents=True)
        (maps / image).write_bytes(picture(size=(64 * level, 64 * level)))
        lines.append(json.dumps({"id": image.removesuffix(".png"), "level": level, "image": image, "map_desc": cells}))
    (maps / "rows.jsonl").write_text("".join(line + "\n" for line in lines))
    (folder / "own.png").write_bytes(picture(numbered(1)))
    own = {"problem": "Which color?", "image": "own.png", "gold": "red"}
    (folder / "mine.jsonl").write_text(json.dumps(own) + "\n")
    rollout = {"id": "a", "answer": "4", "completions": [r"\boxed{4}", {"text": "5", "ablated": [{"text": "4"}]}]}
    (folder / "rollouts.jsonl").write_text(json.dumps(rollout) + "\n")


class DocRunner:
    """Executes a page's blocks in order in `folder`; `quick` leaves out what starts processes or loads models."""

    def __init__(self, folder: Path, *, quick: bool, port: int = 8000) -> None:
        self.folder, self.quick, self.port = folder, quick, port
        self.ran = 0
        self._servers: list[subprocess.Popen[str]] = []
        binaries = Path(sys.executable).parent
        self._env = os.environ | {
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(folder / ".hf"),
        }

    def run(self, snippet: Snippet) -> None:
        body = snippet.body.replace("8000", str(self.port))
        if snippet.file:
            path = self.folder / snippet.file
            path.parent.mkdir(exist_ok=True)
            path.write_text(body)
        elif snippet.language == "python":
            self._python(snippet, body)
        else:
            for line in snippet.commands:
                self.command(line.replace("8000", str(self.port)), snippet)

    def command(self, line: str, snippet: Snippet) -> None:
        """One command line, changed as the block's needs say."""
        words = shlex.split(line)
        if "cluster" in snippet.needs:
            covt = next((number for number, word in enumerate(words) if word.strip(")").endswith("covt")), None)
            if covt is None:
                return  # an assignment for the launcher
            words = ["covt", *words[covt + 1 :]]
        if words[:2] == ["uv", "run"]:
            words = words[2:]
        if words[0] == "pip":
            return
        if words[:2] == ["uv", "sync"]:
            words += ["--frozen", "--dry-run", "--offline", "--directory", str(snippet.page.parents[1])]
        if words[0] == "covt":
            words = small([self._existing_step(word) for word in words], snippet)
        where = f"{snippet.place}: {shlex.join(words)}"
        if self.quick:
            self._quickly(words, where)
        else:
            self._process(words, where)

    def _existing_step(self, word: str) -> str:
        """`RUN/checkpoints/step_400` → the run's own newest step: a small run has fewer."""
        folder, mark, _ = word.partition("/step_")
        steps = sorted((self.folder / folder).glob("step_*")) if mark else []
        return f"{folder}/{steps[-1].name}" if steps else word

    def _quickly(self, words: list[str], where: str) -> None:
        if words[0] == "covt-rewards":
            assert covt_rewards.command_line.cli.main(words[1:]) == 0, where
        elif words[0] == "covt" and (words[1] in ("data", "doctor") or "--dry-run" in words):
            result = CliRunner().invoke(app, words[1:])
            # The doctor's verdict on this machine is not the documentation's.
            assert result.exit_code == 0 or words[1] == "doctor", f"{where}\n{result.output}\n{result.exception!r}"
        else:
            return
        self.ran += 1

    def _process(self, words: list[str], where: str) -> None:
        self.ran += 1
        if words[:2] == ["covt", "serve"]:
            self._serve(words, where)
            return
        done = subprocess.run(words, cwd=self.folder, env=self._env, capture_output=True, text=True, check=False)
        assert done.returncode == 0 or words[1] == "doctor", f"{where}\n{done.stdout}\n{done.stderr}"

    def _serve(self, words: list[str], where: str) -> None:
        """Start a server and keep it for the rest of the page."""
        process = subprocess.Popen(words, cwd=self.folder, env=self._env, stdout=subprocess.PIPE, text=True)
        self._servers.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://"), where

    def _python(self, snippet: Snippet, body: str) -> None:
        imported = set(re.findall(r"^(?:from|import) (\w+)", body, re.MULTILINE))
        if self.quick:
            if imported <= QUICK_IMPORTS:
                self.ran += 1
                exec(compile(body, snippet.place, "exec"), {"__name__": "__main__"})
            return
        line = [sys.executable, "-c", body]
        self.ran += 1
        done = subprocess.run(line, cwd=self.folder, env=self._env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{snippet.place}\n{done.stdout}\n{done.stderr}"

    def close(self) -> None:
        """End the servers that the page started."""
        for process in self._servers:
            process.send_signal(signal.SIGINT)
            with process:  # closes its pipe
                assert process.wait(60) == 0


def small(words: list[str], snippet: Snippet) -> list[str]:
    """A `covt` command with tiny settings, and with what its block needs replaced."""
    name = words[1]
    if name == "data" and words[2] == "prepare":
        source = words[3] if len(words) > 3 else "trace"
        if source in ("trace", "vsp"):
            return [*words, *([] if len(words) > 3 else [source]), *SMALL_SET]
        if "hub" in snippet.needs and source in STAND_INS:
            words = [*words, "--source", STAND_INS[source]]  # the last one counts
        return [*words, "--processes", "1"]
    if name in ("sft", "rl") and "--dry-run" not in words:
        if snippet.needs & {"gpu", "cluster"}:
            return [*words, "--dry-run"]
        return words + (SMALL_SFT if name == "sft" else SMALL_RL)
    if name == "eval":
        return [*words, "--rows", "3"]
    return words
