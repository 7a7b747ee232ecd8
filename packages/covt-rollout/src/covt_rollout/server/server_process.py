"""One rollout server as a child of this process: start it, wait until it is ready, check it, stop it."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from covt_rollout.endpoints import HEALTH, WEIGHT_INFO
from covt_rollout.rollout_errors import ServerError
from covt_rollout.server import supervisor
from covt_rollout.server.server_options import (
    ServerOptions,
    is_loopback,
    require_vllm,
    server_command,
    server_environment,
)

OnStage = Callable[[str, float], None]
"""Called with a stage's name and the seconds since the start."""
# Lines of vLLM's log that tell how far it is.
STAGES = (
    ("Initializing a V1 LLM engine", "starting the engine"),
    ("Starting to load model", "loading weights"),
    ("KV cache size", "opening the port"),
)
FIRST_STAGE, LAST_STAGE = "importing vLLM", "ready"
STAGE_NAMES = (FIRST_STAGE, *(name for _, name in STAGES), LAST_STAGE)
POLL = 0.1
# Killed processes must be gone within this time, even on a busy machine.
KILL_SECONDS = 30.0


class LatentServer:
    """A running vLLM server that decodes latents; use it as a context manager.

    Its processes end on `stop()`, on leaving the `with` block, and when this process dies in any way.
    """

    def __init__(
        self,
        checkpoint: Path,
        host: str,
        port: int,
        api_key: str | None,
        log_path: Path,
        line: list[str],
        options: ServerOptions | None = None,
    ) -> None:
        self.checkpoint, self.host, self.port, self.api_key = checkpoint, host, port, api_key
        self.log_path = log_path
        self._command, self._options = line, options
        self._process: subprocess.Popen[bytes] | None = None
        self._lease: int | None = None
        self._sessions: set[int] = set()

    @classmethod
    def start(
        cls,
        checkpoint: Path | str,
        *,
        port: int | None = None,
        host: str = "127.0.0.1",
        api_key: str | None = None,
        log_path: Path | str | None = None,
        options: ServerOptions | None = None,
        on_progress: OnStage | None = None,
        timeout: float = 600.0,
        abandon: Callable[[], bool] = lambda: False,
    ) -> Self:
        """Start a server for `checkpoint` and return once it answers.

        Args:
            checkpoint: folder to serve.
            port: to listen on; None chooses a free one.
            host: address to listen on.
            api_key: required on any address but loopback.
            log_path: file for vLLM's output; None makes a temporary one.
            options: further settings.
            on_progress: called at the beginning of each stage.
            timeout: seconds after which a server that is not ready is stopped.
            abandon: polled while waiting; True ends the start.

        Raises:
            ServerError: vLLM is missing, the port is in use, or the server died or was not ready in time. Nothing is
                left running then.
            ModelError: the checkpoint has no latent settings.
        """
        folder = Path(checkpoint)
        if not is_loopback(host) and not api_key:
            raise ServerError(f"serving on {host} without an API key", "set an API key, or serve on 127.0.0.1")
        require_vllm()
        chosen = free_port(host) if port is None else port
        if port is not None:
            check_port(host, port)
        line = server_command(folder, host, chosen, options or ServerOptions(), guarded=bool(api_key))
        if log_path is None:
            log_path = Path(tempfile.gettempdir()) / f"covt-server-{os.getpid()}-{chosen}.log"
        server = cls(folder, host, chosen, api_key, Path(log_path), line, options)
        server.launch(on_progress, timeout, abandon)
        return server

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def pid(self) -> int | None:
        """The supervisor's process id while it runs; safe to read while another thread restarts the server."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def launch(
        self,
        on_progress: OnStage | None = None,
        timeout: float = 600.0,
        abandon: Callable[[], bool] = lambda: False,
    ) -> None:
        """Start the processes and wait until the server answers; arguments and errors are those of `start`."""
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        held, self._lease = os.pipe()
        arguments = [sys.executable, "-P", "-S", "-E", supervisor.__file__, str(held), *self._command]
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=server_environment(self.api_key, self._options),
                pass_fds=(held,),
                # Ctrl-C in the terminal goes to the trainer, which then stops the server in order.
                start_new_session=True,
            )
        os.close(held)
        try:
            self._wait_until_ready(on_progress or (lambda _stage, _seconds: None), timeout, abandon)
        except BaseException:
            self.stop()
            raise

    def restart(self, timeout: float = 600.0, abandon: Callable[[], bool] = lambda: False) -> None:
        """Stop what is left of the server and start it again on the same port, with the checkpoint's weights."""
        self.stop()
        self.launch(None, timeout, abandon)

    def stop(self) -> None:
        """End all processes of the server and wait for them; does nothing when there are none."""
        if self._lease is not None:
            os.close(self._lease)
            self._lease = None
        if self._process is None:
            return
        try:
            self._process.wait(supervisor.GRACE + KILL_SECONDS)
        except subprocess.TimeoutExpired:
            # A stopped (SIGSTOP) supervisor doesn't see the end of its lease, but its children die with it.
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        if self._process.returncode < 0:
            self._end_orphans()
        self._process = None

    def _end_orphans(self) -> None:
        """End the server of a killed supervisor: the kernel has asked it to end, but it may hang in a request."""
        begun = time.monotonic()
        while orphans := supervisor.session_members(self._sessions):
            waited = time.monotonic() - begun
            if waited > supervisor.GRACE + KILL_SECONDS:
                raise ServerError(f"processes {orphans} of the rollout server can't be ended", "end them by hand")
            if waited > supervisor.GRACE:
                for pid in orphans:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(POLL)

    def check(self) -> None:
        """Raise ServerError with the end of the log when the server has died."""
        if self.pid is None:
            raise ServerError(f"the rollout server has died{self._reason()}", f"see its log: {self.log_path}")

    def _wait_until_ready(self, on_progress: OnStage, timeout: float, abandon: Callable[[], bool]) -> None:
        began = time.monotonic()
        stage = FIRST_STAGE
        on_progress(stage, 0.0)
        while not self._answers(HEALTH):
            seconds = time.monotonic() - began
            if self.pid is None:
                raise ServerError(
                    f"the rollout server ended while {stage}{self._reason()}", f"see its log: {self.log_path}"
                )
            if abandon():
                raise ServerError(f"the start was given up while {stage}", "start the server again")
            if seconds > timeout:
                raise ServerError(
                    f"the rollout server was not ready after {timeout:.0f} s, still {stage}",
                    f"see its log: {self.log_path}; on a busy machine allow more time",
                )
            if (now := self._stage()) not in (None, stage):
                self._note_sessions()
                stage = str(now)
                on_progress(stage, seconds)
            time.sleep(POLL)
        self._note_sessions()
        on_progress(LAST_STAGE, time.monotonic() - began)

    def _note_sessions(self) -> None:
        if self._process is not None:
            below = supervisor.descendants(self._process.pid)
            with contextlib.suppress(ProcessLookupError):
                self._sessions = {os.getsid(pid) for pid in below}

    def responds(self, timeout: float = 10.0) -> bool:
        """Whether the engine itself, not only the HTTP server before it, answers within `timeout` seconds."""
        return self._answers(WEIGHT_INFO, timeout)

    def _answers(self, path: str, timeout: float = 5.0) -> bool:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {self.api_key}"} if self.api_key else {})
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _stage(self) -> str | None:
        text = self.log_path.read_text(errors="replace")
        return next((name for marker, name in reversed(STAGES) if marker in text), None)

    def _reason(self) -> str:
        """The last error that the log names, or its last lines."""
        lines = [line for line in self.log_path.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if re.search(r"(?:^|\s)[\w.]*(?:Error|Exception)\b: \S", line)]
        # The first error is the cause, later ones are its consequences in other processes.
        shown = errors[:1] or lines[-3:]
        return ": " + " | ".join(re.sub(r"^\(.*?\) (?:\w+ [\d:. -]+\[.*?\] )?", "", line).strip() for line in shown)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def free_port(host: str) -> int:
    """A port on `host` that nothing listens on right now."""
    return free_ports(host, 1)[0]


def free_ports(host: str, count: int) -> list[int]:
    """Different ports on `host` that nothing listens on right now."""
    with contextlib.ExitStack() as stack:
        return [stack.enter_context(listen_on(host, 0)).getsockname()[1] for _ in range(count)]


def check_port(host: str, port: int) -> None:
    """Raise ServerError naming the port when it can't be listened on."""
    try:
        listen_on(host, port).close()
    except OSError as error:
        raise ServerError(
            f"port {port} on {host} can't be used: {error.strerror or error}", "choose another with --port"
        ) from error


def listen_on(host: str, port: int) -> socket.socket:
    """A socket bound to the address; raises OSError where it can't be used."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    with contextlib.ExitStack() as undo:
        undo.callback(listener.close)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        undo.pop_all()
    return listener
