"""Keeps the output of a launched SGLang in log files of bounded size, and finds the stage of its start in it.

Does not read the output from the process: `local_sglang` does.
"""

import contextlib
import fcntl
import re
from collections import deque
from pathlib import Path
from typing import IO

_MAX_BYTES = 8 << 20
_KEPT = 4
_REMEMBERED_LINES = 200
_MAX_LINE = 4096

#: Lines that SGLang logs, and the stage of the start that each shows; {} is a percentage in the line.
_STAGES = (
    (re.compile(r"Launching scheduler"), "starting the scheduler"),
    (re.compile(r"Load weight begin"), "loading weights"),
    (re.compile(r"(?:Multi-thread l|L)oading .*?shards: +(\d+)%"), "loading weights: {}%"),
    (re.compile(r"KV Cache is allocated|Memory pool end"), "allocated the KV cache"),
    (re.compile(r"Capturing batches.*?(\d+)%"), "capturing CUDA graphs: {}%"),
    (re.compile(r"Capture .*graph begin"), "capturing CUDA graphs"),
    (re.compile(r"gRPC server listening|Uvicorn running"), "warming up"),
)
#: Lines that do not help to find out why a start failed.
_NOISE = re.compile(r"\d+%\||it/s\]|% Completed|UserWarning|warnings\.warn|^\s*\^+\s*$|server_args=")


class SGLangLog:
    """The file `current.log` in a folder of its own; earlier logs are `.1` to `.4`.

    A new log begins with each start, and after 8 MiB. The folder is `name`, or `name-2` if another process
    uses that one, and so on.
    """

    def __init__(self, parent: Path, name: str) -> None:
        self._lock, folder = _claim(parent, name)
        self.path = folder / "current.log"
        self._file: IO[bytes] | None = None
        self._written = 0
        self._pending = b""
        self._lines: deque[str] = deque(maxlen=_REMEMBERED_LINES)

    def begin(self) -> None:
        """Begin a new log, for a new start of SGLang."""
        self._lines.clear()
        self._pending = b""
        self._rotate()

    def write(self, chunk: bytes) -> str | None:
        """Write a piece of output. Returns the last stage that the piece shows; None: it shows none."""
        if self._file is None or self._written + len(chunk) > _MAX_BYTES:
            self._rotate()
        if self._file is not None:
            # A full disk must not stop a runtime that works.
            with contextlib.suppress(OSError):
                self._written += self._file.write(chunk)
        *lines, self._pending = re.split(rb"[\r\n]+", self._pending + chunk)
        self._pending = self._pending[-_MAX_LINE:]
        stage = None
        for line in lines:
            text = line[:_MAX_LINE].decode(errors="replace").rstrip()
            self._lines.append(text)
            stage = _stage(text) or stage
        return stage

    def tail(self, count: int = 12) -> str:
        """The last `count` lines that may explain an end of SGLang, indented, as one text."""
        lines = [line for line in self._lines if line.strip() and not _NOISE.search(line)]
        return "\n".join("  " + line[:300] for line in lines[-count:])

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        self._lock.close()

    def _rotate(self) -> None:
        self._written = 0
        if self._file is not None:
            self._file.close()
            self._file = None
        with contextlib.suppress(OSError):
            for number in range(_KEPT - 1, -1, -1):
                older = self._numbered(number)
                if older.exists():
                    older.replace(self._numbered(number + 1))
            self._file = self.path.open("wb", buffering=0)

    def _numbered(self, number: int) -> Path:
        return self.path if number == 0 else self.path.with_name(f"{self.path.name}.{number}")


def _claim(parent: Path, name: str) -> tuple[IO[str], Path]:
    """The first folder of that name that no other process uses, and the lock that reserves it."""
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}-{number}")
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            number += 1
        else:
            return lock, folder


def _stage(line: str) -> str | None:
    for pattern, stage in _STAGES:
        if found := pattern.search(line):
            return stage.format(*found.groups())
    return None
