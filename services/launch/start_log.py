"""What a runtime that we start writes: kept in files of bounded size, and read for how far it is."""

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

#: How far SGLang is, by what it logs; its percentages where it gives them.
_STAGES = (
    (re.compile(r"Launching scheduler"), "starting the scheduler"),
    (re.compile(r"Load weight begin"), "loading weights"),
    (re.compile(r"(?:Multi-thread l|L)oading .*?shards: +(\d+)%"), "loading weights: {}%"),
    (re.compile(r"KV Cache is allocated|Memory pool end"), "allocated the KV cache"),
    (re.compile(r"Capturing batches.*?(\d+)%"), "capturing CUDA graphs: {}%"),
    (re.compile(r"Capture .*graph begin"), "capturing CUDA graphs"),
    (re.compile(r"gRPC server listening|Uvicorn running"), "warming up"),
)
#: Not worth showing to somebody who wants to know why it failed.
_NOISE = re.compile(r"\d+%\||it/s\]|% Completed|UserWarning|warnings\.warn|^\s*\^+\s*$|server_args=")


class StartLog:
    """`current.log` of a folder of its own, and the logs before it as `.1` to `.4`.

    A new one begins with each start and at 8 MiB. The folder is `name`, or `name-2` where that is in use
    by another process, and so on.
    """

    def __init__(self, parent: Path, name: str) -> None:
        self._lock, folder = _claim(parent, name)
        self.path = folder / "current.log"
        self._file: IO[bytes] | None = None
        self._written = 0
        self._pending = b""
        self._lines: deque[str] = deque(maxlen=_REMEMBERED_LINES)

    def begin(self) -> None:
        """Put the current log aside."""
        self._lines.clear()
        self._pending = b""
        self._rotate()

    def write(self, chunk: bytes) -> str | None:
        """Keep a piece of output. Returns the stage that it tells of, where it does."""
        if self._file is None or self._written + len(chunk) > _MAX_BYTES:
            self._rotate()
        if self._file is not None:
            # A full disk must not end what works.
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
        """The last lines that may say why it ended, indented."""
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
    """The first folder of that name that no living process has, and the lock that says so."""
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
