"""Where each microsecond of a token and of a request goes: the tables of docs/performance.md.

    python -m benchmarks.budget [--write]

CPU time in one process without sockets (`benchmarks.paths`), and of a socket's write by itself. A token's
stages are timed by clocks around their functions, less what the clocks cost: in a second process, which runs
what is compiled as Python. A request's parts are the profiler's shares of its time. Says nothing of the
kernel's other work.
"""

import argparse
import asyncio
import cProfile
import gc
import platform
import pstats
import socket
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import paths
from benchmarks.paths import Calls, Front, Turn
from inferd.rest_bridge.event_writer import TextEventSink
from inferd.rest_bridge.exchange import Exchange
from inferd.services.generation.delta_sink import DeltaSink
from inferd.services.generation.text_deltas import TextDeltas
from inferd.services.net.http2.client_call import ClientCall
from inferd.services.net.http2.client_connection import ClientConnection
from inferd.services.net.http2.connection import Connection
from inferd.services.net.http2.server_writer import ServerTextSink, ServerWriter
from inferd.services.runtimes.scheduler_responses import SchedulerResponses

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
_BEGIN, _END = "<!-- budget:begin -->\n", "<!-- budget:end -->"
_ROUNDS = 30
#: Seconds between the steps of an engine, where the code is cold. (A turn of the loop follows each step:
#: what is put off to its end is a token's too.)
_PAUSE = 0.01
#: A token's stages, in their order: what, whose function.
_STAGES: list[tuple[str, Any, str]] = [
    ("HTTP/2 frames of the runtime", ClientConnection, "receive"),
    ("gRPC's message in its frame", ClientCall, "receive_data"),
    ("the new token of a response", SchedulerResponses, "receive"),
    ("its text, counted for the usage", TextDeltas, "push_token"),
    ("its choice", DeltaSink, "push_text"),
    ("JSON text in its event", TextEventSink, "push"),
    ("HTTP chunk", Exchange, "write_parts"),
    ("text in its message", ServerTextSink, "push"),
    ("protobuf encode, gRPC's message out", ServerWriter, "push"),
    ("HTTP/2 frame out", Connection, "send_now"),
]
#: A request's parts, by the beginning of a file's path in the project or the packages; the first that fits.
_PARTS = [
    ("HTTP/1.1 server (uvicorn)", ("uvicorn/", "rest_bridge/http_protocol", "starlette/", "fastapi/")),
    ("bridge: route, JSON, response", ("rest_bridge/",)),
    ("gRPC server", ("services/net/http2/server", "services/net/http2/request")),
    ("HTTP/2's headers and streams (h2, hpack)", ("h2/", "hpack/", "hyperframe/")),
    ("call to the runtime (HTTP/2)", ("services/net/http2/",)),
    ("scheduler protocol", ("services/runtimes/", "services/fleet/")),
    (
        "template and tokenizer",
        (
            "services/text/template",
            "services/text/tokenizer",
            "services/text/model_text",
            "services/text/word",
        ),
    ),
    ("text of the answer", ("services/text/", "services/generation/", "services/api/choice_reader")),
    ("RPC: checks, sampling, answer", ("services/",)),
]
_REST = "asyncio, templates' code, the rest"


class Clock:
    """CPU time of this thread, in ns, by part."""

    def __init__(self) -> None:
        self.spent: dict[str, int] = defaultdict(int)

    def start(self) -> None:
        self._begin = time.thread_time_ns()

    def stop(self, part: str) -> None:
        self.spent[part] += time.thread_time_ns() - self._begin


class Stopwatch:
    """Own time of functions, in ns: without that of others that are timed."""

    def __init__(self) -> None:
        self.own: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self.nested: dict[str, int] = defaultdict(int)
        #: Of what a clock costs, the part that is in its function's own time; the rest is in its caller's.
        self._inner = 0.5
        self._within = 0
        self._current = ""
        self._calibrate()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        clock = time.perf_counter_ns

        def call(*arguments: Any) -> Any:
            within, parent = self._within, self._current
            self._within, self._current = 0, name
            begin = clock()
            try:
                return function(*arguments)
            finally:
                spent = clock() - begin
                self.own[name] += spent - self._within
                self.calls[name] += 1
                self.nested[parent] += 1
                self._within, self._current = within + spent, parent

        return call

    def clear(self) -> None:
        for counts in (self.own, self.calls, self.nested):
            counts.clear()

    def net(self, whole: float, without: float) -> dict[str, float]:
        """Own times, less the clocks' cost: by how much `whole` is more than the time `without`."""
        each = max(whole - without, 0.0) / sum(self.calls.values())
        return {
            name: own - each * (self.calls[name] * self._inner + self.nested[name] * (1 - self._inner))
            for name, own in self.own.items()
        }

    def _calibrate(self) -> None:

        def nothing(_: object) -> None: ...

        inner, outer = [], []
        timed = self.timed("nothing", nothing)
        for _ in range(20):
            self.clear()
            begin = time.perf_counter_ns()
            for _ in range(2000):
                nothing(None)
            plain = (time.perf_counter_ns() - begin) / 2000
            begin = time.perf_counter_ns()
            for _ in range(2000):
                timed(None)
            whole = (time.perf_counter_ns() - begin) / 2000
            own = self.own["nothing"] / 2000
            inner.append(own - plain)
            outer.append(whole - own)
        self._inner = max(min(inner), 0.0) / (max(min(inner), 0.0) + min(outer))
        self.clear()


class Profiler:
    """The profiler, in one part only."""

    def __init__(self) -> None:
        self.profile = cProfile.Profile()

    def start(self) -> None:
        self.profile.enable()

    def stop(self, part: str) -> None:
        self.profile.disable()

    def shares(self) -> dict[str, float]:
        """Of the time that was profiled, by part; a C function's is its caller's."""
        spent: dict[str, float] = defaultdict(float)
        stats: dict[Any, Any] = pstats.Stats(self.profile).stats  # type: ignore[attr-defined]
        for (file, _, _), (_, _, own, _, callers) in stats.items():
            if file == "~":
                for (caller, _, _), (_, _, of_caller, _) in callers.items():
                    spent[_part(caller)] += of_caller
            else:
                spent[_part(file)] += own
        spent.pop("", None)
        total = sum(spent.values())
        return {part: value / total for part, value in spent.items()}


def _part(file: str) -> str:
    """The part of a request that a source file belongs to; "" for what measures."""
    if "benchmarks/" in file:
        return ""
    project = str(PAGE.parents[1]) + "/"
    short = file.rsplit("site-packages/", 1)[-1] if "site-packages/" in file else file.removeprefix(project)
    return next((part for part, begins in _PARTS if short.startswith(begins)), _REST)


def _install(watch: Stopwatch) -> Callable[[], None]:
    """Put clocks around the stages; what takes them off."""
    kept = []
    for name, owner, attribute in _STAGES:
        # Those who change the path change the list above.
        function = vars(owner)[attribute]
        kept.append((owner, attribute, function))
        setattr(owner, attribute, watch.timed(name, function))

    def remove() -> None:
        for owner, attribute, function in kept:
            setattr(owner, attribute, function)

    return remove


async def _cost(
    calls: Calls, pause: Callable[[], None] | None = None, rounds: int = _ROUNDS
) -> tuple[float, float]:
    """µs of a token and of a request: the medians."""
    tokens, requests = [], []
    for number in range(rounds + 2):
        clock = Clock()
        await calls.round(clock, pause=pause, turns=1)
        if number < 2:
            continue
        token = clock.spent["token"] / calls.tokens if calls.tokens else 0.0
        tokens.append(token)
        requests.append((clock.spent["request"] - token * calls.other_tokens) / calls.streams)
    return statistics.median(tokens) / 1e3, statistics.median(requests) / 1e3


class _Tokens:
    """Has the stopwatch count what is a token's only: `without` ns where no clocks run."""

    def __init__(self, watch: Stopwatch, without: float) -> None:
        self._watch, self._without = watch, without
        self.net: dict[str, float] = {}

    def start(self) -> None:
        self._watch.clear()
        self._begin = time.thread_time_ns()

    def stop(self, part: str) -> None:
        if part == "token":
            self.net = self._watch.net(time.thread_time_ns() - self._begin, self._without)


async def _stages(front: Front, name: str) -> tuple[float, dict[str, float]]:
    """µs of a token of 32 streams: in all, and by stage."""
    kind = next(kind for kind in front.paths() if kind.name == name)
    total, _ = await _cost(front.calls(kind, 32))
    watch = Stopwatch()
    remove = _install(watch)
    try:
        calls, found = front.calls(kind, 32), list[dict[str, float]]()
        for _ in range(_ROUNDS + 2):
            meter = _Tokens(watch, total * 1e3 * calls.tokens)
            await calls.round(meter, turns=1)
            found.append({stage: spent / calls.tokens / 1e3 for stage, spent in meter.net.items()})
    finally:
        remove()
    stages = {stage: statistics.median(one.get(stage, 0.0) for one in found[2:]) for stage in found[-1]}
    return total, stages


async def _parts(front: Front, name: str) -> tuple[float, dict[str, float]]:
    """µs of a request, one at a time: in all, and by part."""
    kind = next(kind for kind in front.paths() if kind.name == name)
    calls = front.calls(kind, 8)
    _, total = await _cost(calls)
    profiler = Profiler()
    for _ in range(20):
        await calls.round(_RequestOnly(profiler), turns=1)
    return total, {part: share * total for part, share in profiler.shares().items()}


class _RequestOnly:
    """Has the profiler run in the request's part only, in one round."""

    def __init__(self, profiler: Profiler) -> None:
        self._profiler = profiler
        self._segment = 0

    def start(self) -> None:
        # The third part is the tokens' between the first and the last. A meter learns that only at its end.
        self._segment += 1
        if self._segment != 3:
            self._profiler.start()

    def stop(self, part: str) -> None:
        self._profiler.stop(part)


async def _socket_write(sockets: int = 32, size: int = 256, rounds: int = 200) -> tuple[float, float]:
    """µs of a write to one of that many TCP sockets, and of a turn of the loop alone."""
    loop = asyncio.get_running_loop()
    transports, readers = [], []
    with socket.create_server(("127.0.0.1", 0)) as server:
        for _ in range(sockets):
            reader = socket.create_connection(server.getsockname())
            accepted, _ = server.accept()
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, accepted)
            transports.append(transport)
            readers.append(reader)
    data = b"x" * size
    writes, turns = [], []
    for _ in range(rounds):
        begin = time.thread_time_ns()
        for transport in transports:
            transport.write(data)
        await Turn()
        await Turn()
        between = time.thread_time_ns()
        await Turn()
        await Turn()
        turn = (time.thread_time_ns() - between) / 2
        writes.append((between - begin - 2 * turn) / sockets)
        turns.append(turn)
        for reader in readers:
            reader.recv(1 << 16)
    for transport, reader in zip(transports, readers, strict=True):
        transport.abort()
        reader.close()
    return statistics.median(writes) / 1e3, statistics.median(turns) / 1e3


async def stage_tables(front: Front) -> str:
    """Where a token's time goes, as Python."""
    write, turn = await _socket_write()
    lines = []
    for name in ("REST text stream", "gRPC text stream"):
        total, stages = await _stages(front, name)
        lines += [f"A token of a {name}, 32 at once, in a hot loop, not compiled:", ""]
        lines += ["| stage | µs |", "|---|---|"]
        lines += [f"| {stage} | {stages[stage]:.2f} |" for stage, *_ in _STAGES if stage in stages]
        rest = total - sum(stages.values())
        lines.append(f"| between them, and writing to a list in a socket's place | {rest:+.2f} |")
        lines += [f"| **the front's code** | **{total:.2f}** |"]
        if name.startswith("REST"):
            lines.append(f"| the kernel's send of 256 bytes to one client, by the event loop | {write:.2f} |")
            what = f"in the code above: a turn of the loop, {turn:.2f}, over the streams of a step"
            lines.append(f"| {what} | {turn / 32:.2f} |")
        lines.append("")
    return "\n".join(lines)


async def tables(front: Front) -> str:
    """The page's tables."""
    where = f"{platform.machine()}, Python {platform.python_version()}"
    lines = [f"{datetime.now(UTC):%Y-%m-%d}, {where}; µs of CPU.", "", _interpreted_stages()]
    for name in ("REST text stream", "REST chat stream", "REST unary", "REST chat unary", "gRPC unary"):
        total, parts = await _parts(front, name)
        lines += [f"A request, {name}, its tokens apart, 8 at once:", "", "| part | µs |", "|---|---|"]
        order = [*(part for part, _ in _PARTS), _REST]
        lines += [f"| {part} | {parts[part]:.0f} |" for part in order if part in parts]
        lines += [f"| **the front's code** | **{total:.0f}** |", ""]
    lines += [
        "A token, compiled, hot and with 10 ms of sleep before each step (cold); each step with a turn of the"
        " loop:",
        "",
    ]
    lines += ["| path | streams | hot | cold | cold / hot |", "|---|---|---|---|---|"]
    for kind in front.paths():
        if kind.is_streamed:
            for streams in (1, 32):
                calls = front.calls(kind, streams)
                hot, _ = await _cost(calls)
                cold, _ = await _cost(calls, lambda: time.sleep(_PAUSE), rounds=2)
                lines.append(f"| {kind.name} | {streams} | {hot:.1f} | {cold:.1f} | {cold / hot:.1f} |")
    return "\n".join(lines) + "\n"


def _interpreted_stages() -> str:
    """`stage_tables` of a process whose functions can have clocks put around them."""
    program = "import benchmarks.interpreted; from benchmarks.budget import main; main()"
    command = [sys.executable, "-c", program, "--stages"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=PAGE.parents[1]).stdout


def main() -> None:
    """Print the tables, or write them into the page."""
    parser = argparse.ArgumentParser(prog="benchmarks.budget", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.name}")
    parser.add_argument("--stages", action="store_true", help="a token's stages only")
    options = parser.parse_args()

    async def measure(front: Front) -> None:
        # As a front does once it has started: a look at all of that would be some request's.
        gc.collect()
        gc.freeze()
        text = await (stage_tables(front) if options.stages else tables(front))
        print(text)
        if options.write:
            before, _, rest = PAGE.read_text().partition(_BEGIN)
            PAGE.write_text(before + _BEGIN + text + _END + rest.partition(_END)[2])

    paths.run(measure)


if __name__ == "__main__":
    main()
