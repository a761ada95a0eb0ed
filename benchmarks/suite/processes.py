"""Starts and ends the processes of a run. Each has a process group, and a file for its output."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from benchmarks.suite.usage import process_tree

_GRACE = 10.0


class NotStarted(Exception):
    """A process did not start, or ended too soon. The message says which one, and where its log is."""


def free_port() -> int:
    """A port of loopback on which nobody listens now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Process:
    """A running program. At the end of its `with` block, it and all of its descendants are ended."""

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path,
        environment: Mapping[str, str] | None = None,
        *,
        piped: bool = False,
        folder: Path | None = None,
    ) -> None:
        self.log = log
        self._output = log.open("ab")
        pipe = subprocess.PIPE if piped else None
        self.popen = subprocess.Popen(
            [str(part) for part in command],
            stdin=pipe or subprocess.DEVNULL,
            stdout=pipe or self._output,
            stderr=self._output,
            env={**os.environ, **(environment or {})},
            cwd=folder,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self.popen.pid

    def tree(self) -> list[int]:
        """The ids of the process and of its descendants."""
        return process_tree(self.pid)

    def check(self) -> None:
        """Raise NotStarted if the process has ended."""
        if self.popen.poll() is not None:
            raise NotStarted(f"ended with {self.popen.returncode}: {self.log}{self._last_line()}")

    def wait_until(self, ready: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait until `ready` is true. Raises NotStarted after `seconds`, or if the process ends first."""
        deadline = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise NotStarted(f"{what} was not ready after {seconds:.0f} s: {self.log}{self._last_line()}")
            time.sleep(0.1)

    def _last_line(self) -> str:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return f": {lines[-1][:300]}" if lines else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        tree = self.tree()
        self.popen.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(_GRACE)
        # The processes of its group are killed first, and then those that made groups of their own.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        for pid in tree[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.popen.wait(_GRACE)
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._output.close()


class Controlled(Process):
    """One of the suite's own processes, which answers a line of JSON with a line of JSON."""

    def __init__(self, command: Sequence[str | Path], log: Path, folder: Path) -> None:
        super().__init__(command, log, piped=True, folder=folder)
        self._buffer = b""

    def ask(self, message: Mapping[str, Any], seconds: float = 30) -> dict[str, Any]:
        """Send a line, and read its answer. Raises NotStarted if none comes within `seconds`."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(json.dumps(message).encode() + b"\n")
        self.popen.stdin.flush()
        return self.read(seconds)

    def read(self, seconds: float) -> dict[str, Any]:
        """Read the next line. Raises NotStarted if none comes within `seconds`."""
        assert self.popen.stdout is not None
        deadline = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self.popen.stdout], [], [], max(deadline - time.monotonic(), 0))
            data = os.read(self.popen.stdout.fileno(), 1 << 20) if ready else b""
            if not data:
                self.check()
                raise NotStarted(f"said nothing for {seconds:.0f} s: {self.log}{self._last_line()}")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return dict(json.loads(line))


def answers(url: str, body: bytes | None = None) -> bool:
    """Whether the URL answers with status 200 now."""
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return bool(response.status == 200)
    except (OSError, ValueError):
        return False
