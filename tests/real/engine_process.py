"""The tests' side of `engine.py`: a real SGLang in a process of its own."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PROGRAM = Path(__file__).with_name("engine.py")


class Engine:
    """A running `engine.py`. `states` is what it told so far: (phase, detail)."""

    def __init__(self, process: subprocess.Popen[str], logs: Path) -> None:
        self.process = process
        self.logs = logs
        self.address = ""
        self.states: list[tuple[str, str]] = []

    def wait_for(self, phase: str, seconds: float = 240) -> str:
        """Wait until it next tells of `phase`; the detail."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + seconds
        for line in self.process.stdout:
            state = json.loads(line)
            self.address = state["address"]
            self.states.append((state["phase"], state["detail"]))
            if state["phase"] == phase:
                return str(state["detail"])
            assert state["phase"] != "failed", state["detail"]
            assert time.monotonic() < deadline, self.states
        raise AssertionError(f"the engine's process ended: {self.states}")


@contextmanager
def running_engine(model: Path, logs: Path, *args: str) -> Iterator[Engine]:
    """A real SGLang, starting. Ended at the end, however the test went."""
    command = [sys.executable, str(_PROGRAM), str(model), str(logs), *args]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield Engine(process, logs)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                # Its supervisor ends the engine.
                process.kill()
                raise
