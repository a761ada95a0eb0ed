"""inferd in processes that a test kills, freezes or stops, and an engine with an answer for each prompt."""

import asyncio
import collections
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import asyncpg
import grpc
import yaml

from inferd.services.config import Config
from inferd.services.launch.supervisor import descendants, supervised
from inferd.services.text.model_text import ModelText
from inferd.v1 import queue_pb2, queue_pb2_grpc
from tests.doubles.simulated_scheduler import Reply
from tests.queue.jobs import PATIENCE, SUCCEEDED, HeldRuntime, enqueue, eventually
from tests.support.ports import free_ports

#: How long a client waits for one answer: longer than any of the server's own limits.
DEADLINE = 30.0
_MAX_TOKENS = 64
_END = 2


class Engine(HeldRuntime):
    """Answers each prompt with a text of its own, and remembers which came when.

    `seconds` is how long an answer takes. What is held waits before its first token; or after so many.
    """

    def __init__(self, text: ModelText, seconds: float = 0.0) -> None:
        super().__init__(self._reply, text)
        self.seconds = seconds
        #: How often each prompt came, in the order in which they came first.
        self.times: collections.Counter[str] = collections.Counter()
        #: The most that ran at once.
        self.peak = 0
        self._held: dict[tuple[str, int], tuple[asyncio.Event, int]] = {}

    def hold(self, prompt: str, time: int = 1, tokens: int = 0) -> asyncio.Event:
        """Hold that prompt when it comes that time, after so many tokens, until the event is set."""
        event = asyncio.Event()
        self._held[prompt, time] = event, tokens
        return event

    def _reply(self, request: Any) -> Reply:
        self.peak = max(self.peak, self.running)
        prompt = self._prompt(request)
        self.times[prompt] += 1
        tokenizer = self._text.tokenizer
        ids = [*tokenizer.encode(answer_to(prompt, self.times[prompt]), add_special_tokens=False), _END]
        return Reply(ids, tokens_per_second=len(ids) / self.seconds if self.seconds else 0)

    def _prompt(self, request: Any) -> str:
        self.requests.append(request)
        prompt = self.prompts()[-1]
        self.requests.pop()
        return prompt

    async def _generate(self, request: Any, reply: Reply, context: Any) -> None:
        prompt = self._prompt(request)
        held = self._held.get((prompt, self.times[prompt]))
        await super()._generate(request, reply, _Holding(context, *held) if held else context)


class _Holding:
    """A call's context that holds its messages after the first few."""

    def __init__(self, context: Any, event: asyncio.Event, messages: int) -> None:
        self._context = context
        self._event = event
        self._messages = messages

    async def write(self, message: Any) -> None:
        if self._messages <= 0:
            await self._event.wait()
        self._messages -= 1
        await self._context.write(message)


def answer_to(prompt: str, time: int = 1) -> str:
    """The engine's answer to a prompt that comes that time."""
    return f"{prompt} answered {time}"


class Process:
    """`inferd serve` with this configuration; may be launched again after its end, on the same ports.

    It is on a supervisor: nothing of it is left when the context is, or when the tests' process dies.
    """

    def __init__(self, config: Config, folder: Path) -> None:
        self.grpc_port, rest_port = free_ports(2)
        self._folder = folder
        folder.mkdir()
        self._file = folder / "config.yaml"
        self.log = folder / "log"
        document = config.model_dump(mode="json", exclude_unset=True)
        document["server"] |= {"grpc": f"127.0.0.1:{self.grpc_port}", "rest": f"127.0.0.1:{rest_port}"}
        self._file.write_text(yaml.safe_dump(document))
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._channel = client_channel(self.grpc_port)
        self.queue = queue_pb2_grpc.QueueServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        self.launch()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._channel.close()
        self._let_go()
        text = self.log.read_text(errors="replace")
        if kind is not None:
            print(f"{self.log}:\n{text[-5000:]}")
        else:
            assert "Traceback" not in text, text

    def launch(self) -> None:
        """Start inferd. A process that was started before must have ended."""
        self._let_go()
        with self.log.open("ab") as log:
            self._supervisor = subprocess.Popen(
                supervised(
                    [sys.executable, "-m", "inferd.services.app.cli", "serve", "--config", str(self._file)]
                ),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def ready(self) -> None:
        """Wait until its queue works."""

        async def works() -> bool:
            assert self._supervisor is not None
            assert self._supervisor.poll() is None, self.log.read_text(errors="replace")
            with contextlib.suppress(grpc.aio.AioRpcError):
                await self.queue.GetQueueStats(queue_pb2.GetQueueStatsRequest(), timeout=DEADLINE)
                return True
            return False

        await eventually(works)

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._supervisor is not None
        while not (found := descendants(self._supervisor.pid)):
            assert self._supervisor.poll() is None, self.log.read_text(errors="replace")
            time.sleep(0.01)
        return found[0]

    def workers(self) -> list[int]:
        """The process ids of its workers."""
        return descendants(self.pid)

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        os.kill(self.pid, signal.SIGKILL)
        assert self._supervisor is not None
        self._supervisor.wait(60)

    def _let_go(self) -> None:
        """Close the supervisor's standard input, which ends whatever still runs on the supervisor."""
        if self._supervisor is not None:
            assert self._supervisor.stdin is not None
            self._supervisor.stdin.close()
            self._supervisor.wait(60)

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    async def ended(self) -> int:
        """Wait for its end. Its exit code."""
        assert self._supervisor is not None
        return await asyncio.to_thread(self._supervisor.wait, PATIENCE)


def client_channel(port: int) -> grpc.aio.Channel:
    """A channel that finds a server soon after it has come back."""
    options = [
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.max_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 200),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options)


def request_of(prompt: str, **fields: Any) -> queue_pb2.EnqueueRequest:
    """A job that asks the engine that."""
    return enqueue(prompt, max_tokens=_MAX_TOKENS, **fields)


async def put(queue: Any, prompt: str, **fields: Any) -> queue_pb2.Job:
    """Queue a job as a client that does not give up: with a key, again while the queue is unavailable."""
    while True:
        try:
            return await queue.Enqueue(request_of(prompt, request_id=prompt, **fields), timeout=DEADLINE)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
        await asyncio.sleep(0.05)


class Load:
    """Clients that queue jobs all the time, each with a prompt of its own, until the context is left."""

    def __init__(self, queue: Any, clients: int = 5, pause: float = 0.3) -> None:
        self._queue = queue
        self._pause = pause
        self._clients = clients
        self._tasks: list[asyncio.Task[None]] = []
        self._stop = False
        #: What was acknowledged, by the prompts.
        self.accepted: dict[str, queue_pb2.Job] = {}

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._work(number)) for number in range(self._clients)]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._stop = True
        try:
            if exc_info[0] is None:
                await asyncio.gather(*self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def more(self, count: int) -> None:
        """Wait until so many more were accepted."""
        target = len(self.accepted) + count

        def reached() -> bool:
            for task in self._tasks:
                if task.done():
                    task.result()
            return len(self.accepted) >= target

        await eventually(reached)

    async def _work(self, client: int) -> None:
        number = 0
        while not self._stop:
            prompt = f"question {client} {number}"
            self.accepted[prompt] = await put(self._queue, prompt)
            number += 1
            await asyncio.sleep(random.uniform(0, self._pause))


async def all_jobs(queue: Any) -> list[queue_pb2.Job]:
    """All jobs, oldest first."""
    found: list[queue_pb2.Job] = []
    token = ""
    while True:
        request = queue_pb2.ListJobsRequest(page_size=100, page_token=token, order=queue_pb2.JOB_ORDER_ASC)
        page = await queue.ListJobs(request, timeout=DEADLINE)
        found += page.jobs
        if not page.has_more:
            return found
        token = page.next_page_token


async def all_ended(queue: Any, seconds: float = PATIENCE) -> list[queue_pb2.Job]:
    """All jobs, once none waits or runs."""

    async def empty() -> bool:
        stats = await queue.GetQueueStats(queue_pb2.GetQueueStatsRequest(), timeout=DEADLINE)
        return stats.queued + stats.running == 0

    await eventually(empty, seconds)
    return await all_jobs(queue)


async def check_succeeded(queue: Any, accepted: dict[str, queue_pb2.Job]) -> list[queue_pb2.Job]:
    """That what was accepted, and nothing else, is there once and has its own answer, once all has ended."""
    found = await all_ended(queue)
    assert collections.Counter(job.request_id for job in found) == collections.Counter(accepted.keys())
    for job in found:
        assert job.id == accepted[job.request_id].id
        check_answer(job, job.request_id)
    return found


def check_answer(job: queue_pb2.Job, prompt: str, time: int | None = None) -> None:
    """That it succeeded, with the engine's answer to the prompt; that of the given time, if any."""
    assert job.state == SUCCEEDED, job
    [choice] = job.completion.choices
    start, answered, number = choice.message.content.rpartition(" answered ")
    assert (start, answered) == (prompt, " answered "), job
    assert time is None or int(number) == time, job
    assert job.completion.id == job.id
    assert 1 <= job.attempts <= job.max_attempts, job


class Rows:
    """What a database holds, past inferd."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def __call__(self, query: str) -> list[tuple[Any, ...]]:
        """The rows that a query finds."""
        if self._url.startswith("sqlite"):
            with contextlib.closing(self._sqlite()) as connection:
                return connection.execute(query).fetchall()
        connection = await asyncpg.connect(self._url)
        try:
            return [tuple(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()

    def _sqlite(self) -> sqlite3.Connection:
        return sqlite3.connect(self._url.removeprefix("sqlite:///"), timeout=10)

    async def run_by(self, process: Process) -> list[str]:
        """The keys of the jobs that the process runs, as the database knows it."""
        found = await self(
            f"SELECT request_id FROM jobs WHERE state = 'running' AND worker LIKE '%-{process.pid}-%'"
        )
        return sorted(key for (key,) in found)

    async def check(self) -> None:
        """That the database is sound, and that no table has what belongs to no job."""
        if self._url.startswith("sqlite"):
            assert await self("PRAGMA integrity_check") == [("ok",)]
        for table in ("job_requests", "job_completions"):
            assert not await self(f"SELECT seq FROM {table} WHERE seq NOT IN (SELECT seq FROM jobs)")
        assert not await self("SELECT seq FROM jobs WHERE seq NOT IN (SELECT seq FROM job_requests)")

    def is_locked(self) -> bool:
        """Whether a process that is frozen holds the lock of a SQLite file."""
        if not self._url.startswith("sqlite"):
            return False
        with contextlib.closing(self._sqlite()) as connection:
            connection.execute("PRAGMA busy_timeout = 500")
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
            return False


@contextlib.asynccontextmanager
async def tmpfs(folder: Path, megabytes: int) -> AsyncIterator[Path]:
    """A disk of that size at `folder`, which is made; raises OSError where that is not allowed."""
    folder.mkdir()  # noqa: ASYNC240
    await _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=777", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        await _run("umount", "--lazy", str(folder))


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE)
    _, output = await process.communicate()
    if process.returncode:
        raise OSError(output.decode())


def fill(disk: Path) -> Path:
    """Fill a disk; deleting the file makes room."""
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            if not file.write(bytes(4096)):
                break
    return filler
