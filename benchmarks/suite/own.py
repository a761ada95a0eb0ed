"""Starts the suite's own processes: simulated runtimes and the load generator."""

import sys
from contextlib import ExitStack
from pathlib import Path

from benchmarks.suite.processes import Controlled

_ROOT = Path(__file__).parents[2]


def start_runtime(stack: ExitStack, model: Path, log: Path) -> tuple[Controlled, int]:
    """Start a simulated runtime. Returns its process and its port. Raises NotStarted."""
    runtime = _start(stack, "benchmarks.suite.runtime", log, str(model))
    return runtime, int(runtime.read(30)["port"])


def start_upstream(stack: ExitStack, model: Path, log: Path) -> tuple[Controlled, int]:
    """Start a simulated OpenAI-style server. Returns its process and its port. Raises NotStarted."""
    upstream = _start(stack, "benchmarks.suite.upstream", log, str(model / "tokenizer.json"))
    return upstream, int(upstream.read(30)["port"])


def start_load(stack: ExitStack, log: Path) -> Controlled:
    """Start the load generator."""
    return _start(stack, "benchmarks.suite.load", log)


def _start(stack: ExitStack, module: str, log: Path, *arguments: str) -> Controlled:
    return stack.enter_context(Controlled([sys.executable, "-m", module, *arguments], log, _ROOT))
