"""The load generator: a process of its own that sends requests to a server and reads the answers' bytes.

    python -m benchmarks.suite.load

Each line in is a `Job`, and each line out is its `Outcome`. The load generator parses no answer. It finds the
first event and the end, and looks into the last bytes for the end of a good answer.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

import uvloop

from benchmarks.suite.control import serve_control
from benchmarks.suite.job import Job, Outcome
from benchmarks.suite.load_grpc import open_grpc
from benchmarks.suite.load_rest import open_rest
from benchmarks.suite.usage import cpu_seconds, machine_seconds


class Call(Protocol):
    """A request under way, as the connections see it."""

    def received(self, size: int, events: int, first: bool) -> None:
        """So many bytes came, with so many events. `first` is true once the first token is among them."""
        ...

    def ended(self, tail: bytes, error: str = "") -> None:
        """The answer is complete, and these are its last bytes. It failed if `error` is not empty."""
        ...


class Client(Protocol):
    """A connection to the server. Several calls may share one."""

    async def ask(self, call: Call) -> None:
        """Send the request, and wait for the end of its answer."""
        ...

    def close(self) -> None:
        """Cut the connection."""
        ...


async def _clients(job: Job) -> Sequence[Client]:
    """A client for each of the job's streams."""
    return await open_grpc(job) if job.grpc else await open_rest(job)


class Slot:
    """One of the job's streams: one call after another."""

    def __init__(self, watch: "Watch") -> None:
        self._watch = watch
        self.busy = False
        self._size = 0
        self._before = 0

    def begin(self) -> None:
        """A call starts now."""
        self.busy = True
        self._begun = time.perf_counter()
        self._size = self._before = 0
        self._watched = self._watch.on
        self._awaiting_first = True

    def mark(self) -> None:
        """Watching begins or ends during this call."""
        if self._watch.on:
            self._before = self._size
        else:
            self._after = self._size
            self._was_cut = True

    _after = 0
    _was_cut = False

    def received(self, size: int, events: int, first: bool) -> None:
        self._size += size
        watch = self._watch
        if watch.on:
            watch.events += events
        if first and self._awaiting_first:
            self._awaiting_first = False
            if self._watched:
                watch.ttft.append((time.perf_counter() - self._begun) * 1e3)

    def ended(self, tail: bytes, error: str = "") -> None:
        watch = self._watch
        self.busy = False
        if not error:
            missing = [end for end in watch.ends if end not in tail]
            if missing:
                error = f"no {missing[0].decode()} at the end: {tail[-160:]!r}"
        if error:
            watch.errors[error[:300]] += 1
        else:
            watch.answer = tail[-700:].decode(errors="replace")
            if watch.on or self._was_cut:
                end = self._after if self._was_cut else self._size
                share = (end - self._before) / max(self._size, 1)
                watch.tokens += share * watch.job.tokens
                if watch.job.streamed:
                    watch.requests += share
                elif not self._was_cut:
                    watch.requests += 1
                if self._watched and not self._was_cut:
                    watch.latency.append((time.perf_counter() - self._begun) * 1e3)
            watch.finished += 1
        self._was_cut = False


class Watch:
    """The counts of one job."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.ends = [end.encode() for end in job.ends]
        self.on = False
        self.events = 0
        self.tokens = 0.0
        self.requests = 0.0
        self.finished = 0
        self.ttft: list[float] = []
        self.latency: list[float] = []
        self.errors: Counter[str] = Counter()
        self.answer = ""

    def cpu(self) -> dict[str, float]:
        groups = {name: cpu_seconds(pids) for name, pids in self.job.groups.items()}
        return {**groups, "load": time.process_time(), "machine": machine_seconds()}


async def run(job: Job) -> Outcome:
    """Do one job. Raises OSError if the server cannot be reached."""
    watch = Watch(job)
    slots = [Slot(watch) for _ in range(job.streams)]
    clients = await _clients(job)
    stopping = False

    async def drive(slot: Slot, number: int) -> None:
        await asyncio.sleep(job.spread * number / job.streams)
        while not stopping:
            slot.begin()
            await clients[number].ask(slot)
            if watch.errors:
                # A server that refuses requests is not sent more of them at once.
                await asyncio.sleep(0.05)

    tasks = [asyncio.create_task(drive(slot, number)) for number, slot in enumerate(slots)]
    await asyncio.sleep(job.spread + job.settle)
    watch.on = True
    for slot in slots:
        slot.mark()
    begin, before = time.perf_counter(), watch.cpu()
    finished_before = watch.finished
    while time.perf_counter() - begin < job.seconds:
        await asyncio.sleep(min(0.05, job.seconds) if job.requests else job.seconds)
        if job.requests and watch.finished - finished_before >= job.requests:
            break
    after, seconds = watch.cpu(), time.perf_counter() - begin
    watch.on = False
    for slot in slots:
        if slot.busy:
            slot.mark()
    stopping = True
    _, late = await asyncio.wait(tasks, timeout=job.drain)
    if late:
        watch.errors[f"not over {job.drain:.0f} s after the end"] += len(late)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
    for task in tasks:
        if not task.cancelled() and (error := task.exception()):
            watch.errors[f"{type(error).__name__}: {error}"[:300]] += 1
    for client in set(clients):
        client.close()
    return Outcome(
        seconds=seconds,
        tokens=watch.tokens,
        requests=watch.requests,
        events=watch.events,
        ttft=sorted(watch.ttft),
        latency=sorted(watch.latency),
        cpu={name: after[name] - before[name] for name in after},
        errors=dict(watch.errors),
        answer=watch.answer,
    )


async def _answer(line: dict[str, Any]) -> dict[str, Any]:
    try:
        return asdict(await run(Job(**line)))
    except OSError as error:
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    uvloop.run(serve_control(_answer))
