"""A real SGLang behind its own HTTP server, as an operator starts it: a child of the tests."""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from inferd.services.launch.sglang_command import sglang_command
from inferd.services.launch.supervisor import supervised
from tests.support.ports import free_ports


@dataclass
class HttpEngine:
    """A running one. `process` is its supervisor: SGLang is below it."""

    url: str
    process: subprocess.Popen[bytes]


@contextlib.contextmanager
def running_http_engine(model: Path, log: Path, *args: str, seconds: float = 240) -> Iterator[HttpEngine]:
    """A real, ready SGLang serving `model` over HTTP. Ended at the end, however the test went."""
    [port] = free_ports(1)
    ours = sglang_command(model, args, port, port, os.environ)
    # What makes it speak the scheduler protocol, each with the value that follows it.
    command = [argument for argument in ours.args if argument != "--smg-grpc-mode"]
    for option in ("--smg-http-sidecar-port", "--grpc-port"):
        place = command.index(option)
        del command[place : place + 2]
    with log.open("wb") as output:
        process = subprocess.Popen(
            supervised(command, grace=1.0),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(ours.environment),
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/ready").status_code == 200:
                    break
            assert process.poll() is None, log.read_text(errors="replace")[-2000:]
            assert time.monotonic() < deadline, log.read_text(errors="replace")[-2000:]
            time.sleep(0.5)
        yield HttpEngine(url, process)
    finally:
        # The end of its input is the supervisor's order to end all.
        assert process.stdin is not None
        process.stdin.close()
        process.wait(40)
