"""The floor (`benchmarks.floor`), which only reads the runtime and writes to the clients."""

import sys
from pathlib import Path

from benchmarks.suite.front import Context, Front
from benchmarks.suite.processes import Process, answers, free_port

_ROOT = Path(__file__).parents[3]
_NOTE = "no front: the event loop and the kernel alone, with ready bytes; no server can cost less in Python"


def start_floor(context: Context) -> Front:
    """Start the floor. Raises NotStarted."""
    port = free_port()
    command: list[str | Path] = [sys.executable, "-m", "benchmarks.floor"]
    command += ["--runtime-port", str(context.runtime_port), "--rest-port", str(port)]
    process = context.stack.enter_context(Process(command, context.out / "floor.log", folder=_ROOT))
    process.wait_until(lambda: answers(f"http://127.0.0.1:{port}/health"), 30, "the floor")
    return Front("floor", "floor", process, port, note=_NOTE)
