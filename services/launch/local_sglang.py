"""Runs SGLang as a child process: starts it, reports the progress of the start, restarts it, and ends it.

Sends no requests to SGLang: the runtimes do, to `address` by gRPC or to `url` by HTTP. The child runs under a
supervisor (`supervisor.py`), so that no process of SGLang outlives inferd.
"""

import asyncio
import contextlib
import importlib.util
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NoReturn

import grpc
import httpx
import platformdirs
from grpc_health.v1 import health_pb2, health_pb2_grpc

from inferd.services.launch.sglang_command import Command, sglang_command
from inferd.services.launch.sglang_log import SGLangLog
from inferd.services.launch.supervisor import supervised

#: The beginning of the command lines of SGLang's worker processes. SGLang is useless without its scheduler.
_WORKER_PREFIX = "sglang::"
#: Seconds that SGLang has to end by itself. It frees its resources within one second, and then takes five to
#: ten to leave the interpreter. No call is running, because `close` is called after all calls have ended.
_GRACE = 3.0
_HEALTH_INTERVAL = 0.25
#: Arguments of SGLang that inferd sets itself.
_RESERVED_ARGS = frozenset(
    {
        "--model-path",
        "--model",
        "--host",
        "--port",
        "--grpc-port",
        "--smg-grpc-mode",
        "--smg-http-sidecar-port",
    }
)


Phase = Literal["starting", "ready", "restarting", "failed", "stopped"]


class LaunchError(Exception):
    """SGLang cannot be started. The text says why, where its log is, and what to do."""


@dataclass(frozen=True, slots=True)
class LaunchState:
    """The state of a launched runtime. `detail` is for people: the stage of the start, or the problem."""

    phase: Phase
    detail: str


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When SGLang is restarted. Times are in seconds. After `attempts` failed starts in a row it is given
    up."""

    start_timeout: float = 1800.0
    first_backoff: float = 1.0
    longest_backoff: float = 30.0
    #: After this time up, the next crash is followed by `first_backoff` again.
    stable: float = 60.0
    attempts: int = 3


class LocalSGLang:
    """One SGLang serving one model at a loopback address, kept running until `close`.

    If SGLang dies, it is restarted after a pause that doubles each time. If it dies or hangs before it is
    ready, `policy.attempts` times in a row, it is given up.

    `model` is a local folder or a Hugging Face id, as `model_store.resolve` returns it. `adapters` are the
    folders or ids of LoRA adapters, by name. `args` are extra arguments for SGLang, which override inferd's.
    `on_state` is called in the event loop at each change of `state`, and must not block. `command` makes
    another command for a port and a side-car port, for tests. Raises LaunchError if SGLang is not installed,
    or if `args` has an argument that inferd sets itself.
    """

    def __init__(
        self,
        model: Path | str,
        args: Sequence[str] = (),
        *,
        adapters: Mapping[str, str] = MappingProxyType({}),
        on_state: Callable[[LaunchState], None] = lambda _: None,
        name: str | None = None,
        policy: RestartPolicy = RestartPolicy(),
        logs: Path | None = None,
        command: Callable[[int, int], Command] | None = None,
    ) -> None:
        if command is None and importlib.util.find_spec("sglang") is None:
            raise LaunchError(
                "SGLang is not installed beside inferd: `pip install 'inferd[sglang]'`, or name a runtime "
                "that runs elsewhere (`grpc: HOST:PORT`)."
            )
        for argument in args:
            if argument.partition("=")[0] in _RESERVED_ARGS:
                raise LaunchError(f"{argument} is not for the configuration to set: inferd chooses it.")
        self.name = name or Path(str(model)).name
        self.state = LaunchState("stopped", "not started")
        self._on_state = on_state
        self._http = bool(adapters)
        self._policy = policy
        self._reserved, self.port = _reserve_port(http=self._http)
        self._sidecar_port = _free_port()
        self._command = command or (
            lambda port, sidecar: sglang_command(model, args, port, sidecar, os.environ, adapters)
        )
        folder = re.sub(r"[^\w.-]+", "-", self.name)
        self._log = SGLangLog(logs or platformdirs.user_log_path("inferd"), folder)
        self._running: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    @property
    def address(self) -> str:
        """HOST:PORT of SGLang's gRPC or HTTP server; the same after every restart."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str | None:
        """The URL of SGLang's HTTP server, which it has with adapters; None: it has the scheduler
        protocol."""
        return f"http://{self.address}" if self._http else None

    @property
    def log_path(self) -> Path:
        return self._log.path

    def start(self) -> None:
        """Start SGLang. Returns at once; `state` and `on_state` report the progress."""
        self._running = asyncio.create_task(self._run(), name=f"launch {self.name}")
        self._running.add_done_callback(lambda _: self._changed.set())

    async def ready(self) -> None:
        """Wait until SGLang serves. Raises LaunchError if it is given up or closed."""
        while self.state.phase != "ready":
            if self._running is None or self._running.done():
                raise LaunchError(self.state.detail)
            await self._changed.wait()

    async def given_up(self) -> NoReturn:
        """Wait until SGLang is given up, and raise LaunchError then."""
        while self.state.phase != "failed":
            changed = self._changed
            await changed.wait()
        raise LaunchError(self.state.detail)

    async def close(self) -> None:
        """End SGLang. When this returns, none of its processes is left."""
        if self._running is not None:
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running
        self._reserved.close()
        self._log.close()
        if self.state.phase != "failed":
            self._set_state("stopped", "closed")

    def _set_state(self, phase: Phase, detail: str) -> None:
        state = LaunchState(phase, detail)
        if state == self.state:
            return
        self.state = state
        self._changed.set()
        self._changed = asyncio.Event()
        self._on_state(state)

    async def _run(self) -> None:
        """Start SGLang again and again. Returns when it is given up."""
        failed_starts = 0
        backoff = self._policy.first_backoff
        while True:
            up, ending = await self._run_once()
            if up is None:
                failed_starts += 1
                if failed_starts >= self._policy.attempts:
                    self._set_state("failed", self._failure(failed_starts, ending))
                    return
            else:
                failed_starts = 0
                if up >= self._policy.stable:
                    backoff = self._policy.first_backoff
            self._set_state(
                "restarting", f"SGLang {ending}; starting again in {backoff:g} s; log: {self.log_path}"
            )
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, self._policy.longest_backoff)

    async def _run_once(self) -> tuple[float | None, str]:
        """Start SGLang, and wait for its end.

        Returns for how many seconds it was ready (None: it never was), and how it ended, as text.
        """
        self._set_state("starting", "starting SGLang")
        self._log.begin()
        command = self._command(self.port, self._sidecar_port)
        try:
            process = await asyncio.create_subprocess_exec(
                *supervised(command.args, grace=_GRACE, vital=_WORKER_PREFIX),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=dict(command.environment),
                start_new_session=True,
            )
        except OSError as error:
            return None, f"could not be run ({error})"
        output = asyncio.create_task(self._read(process))
        serves = _until_serving if self.url is None else _until_http_serving
        serving = asyncio.create_task(serves(self.address))
        ended = asyncio.create_task(process.wait())
        try:
            await asyncio.wait(
                (serving, ended), timeout=self._policy.start_timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if not ended.done() and not serving.done():
                return None, f"was not ready in {self._policy.start_timeout:g} s"
            if ended.done():
                await output
                return None, f"ended while it started, {_describe_exit(ended.result())}"
            self._set_state("ready", f"ready at {self.address}")
            since = time.monotonic()
            await asyncio.wait((ended,))  # not awaited directly: a cancellation must not cancel `ended`
            await output
            return time.monotonic() - since, f"ended, {_describe_exit(ended.result())}"
        finally:
            serving.cancel()
            await _end(process, ended)
            await asyncio.gather(output, serving, return_exceptions=True)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while chunk := await process.stdout.read(1 << 16):
            stage = self._log.write(chunk)
            if stage is not None and self.state.phase == "starting":
                self._set_state("starting", stage)

    def _failure(self, times: int, ending: str) -> str:
        tail = self._log.tail() or "  (it wrote nothing)"
        return (
            f"SGLang could not be started for {self.name}: it {ending}, {times} times in a row. "
            f"Its last lines:\n{tail}\n"
            f"The whole log: {self.log_path}. SGLang's arguments are set in the configuration, in the "
            f"runtime's `launch: {{args: [...]}}`. `pip install 'inferd[sglang]'` installs the SGLang that "
            f"inferd was tested with."
        )


async def _until_serving(address: str) -> None:
    """Wait until the server at `address` is healthy (grpc.health.v1)."""
    options = [
        # A connection of its own, that reconnects quickly and ignores http_proxy.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 250),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.enable_http_proxy", 0),
    ]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                reply = await health.Check(health_pb2.HealthCheckRequest(), timeout=2)
                if reply.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            await asyncio.sleep(_HEALTH_INTERVAL)


async def _until_http_serving(address: str) -> None:
    """Wait until the HTTP server at `address` is ready."""
    async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as client:
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get("/ready", timeout=2)).status_code == 200:
                    return
            await asyncio.sleep(_HEALTH_INTERVAL)


async def _end(process: asyncio.subprocess.Process, ended: asyncio.Task[int]) -> None:
    """End the supervisor and all processes below it: with SIGTERM first, then by closing its pipe, which
    kills."""
    assert process.stdin is not None
    if not ended.done():
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await asyncio.wait((ended,), timeout=_GRACE + 5)
    process.stdin.close()
    await ended


def _describe_exit(code: int) -> str:
    """A supervisor's exit code as text for people; codes above 128 are 128 plus a signal."""
    number = -code if code < 0 else code - 128
    if number <= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        name = signal.Signals(number).name
        return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"exit code {code}"


def _reserve_port(*, http: bool) -> tuple[socket.socket, int]:
    """A loopback port that stays reserved while the runtime restarts, and the socket that reserves it.

    The socket never listens. gRPC servers set SO_REUSEPORT, and HTTP servers set SO_REUSEADDR, so the runtime
    can still bind the port. A program without that option cannot.
    """
    reserved = socket.socket()
    option = socket.SO_REUSEADDR if http else socket.SO_REUSEPORT
    reserved.setsockopt(socket.SOL_SOCKET, option, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved, reserved.getsockname()[1]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
