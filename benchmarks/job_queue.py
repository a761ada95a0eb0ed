"""Measures the queue: how many jobs a second it takes and runs, and how soon a job starts.

    python benchmarks/job_queue.py MODEL_FOLDER [DATABASE_URL]

The queue runs in this process, on a runtime that answers at once. MODEL_FOLDER has the tokenizer. Without a
URL, the queue is a SQLite file in the working folder, and the figures then depend on the folder's disk. The
time of an fsync is therefore printed, too.
"""

import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import uvloop

from inferd.services.api.chat_request import prepare_chat
from inferd.services.config import MediaConfig, ModelConfig, QueueConfig, RuntimeConfig
from inferd.services.fleet.catalog import Catalog, ServedModel
from inferd.services.fleet.replicas import Replicas
from inferd.services.prompt.media import MediaReader
from inferd.services.prompt.media_fetch import MediaFetcher
from inferd.services.queue.job_queue import JobQueue
from inferd.services.queue.submission import Submission
from inferd.services.runtimes.base import Delta, Finish, GenerateRequest, RuntimeInfo
from inferd.services.runtimes.token_sink import TokenSink
from inferd.services.text.model_text import ModelText
from inferd.services.text.output.format_choice import choose_format
from inferd.v1 import chat_pb2, message_pb2

#: Jobs of one measurement, each of about 2 kB, and the number of clients that submit them.
JOBS, CLIENTS = 2000, 16
#: Jobs that wait while the last measurement is repeated.
BACKLOG = 25_000


class Instant:
    """A runtime that answers at once, and keeps the time at which each generation began."""

    name = "instant"
    unsupported: frozenset[str] = frozenset()
    media: frozenset[str] = frozenset()
    serving = True

    def __init__(self) -> None:
        self.started: list[float] = []
        self.news = asyncio.Event()

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def info(self) -> RuntimeInfo:
        return RuntimeInfo()

    async def waiting(self) -> int:
        return 0

    async def fetch_tokenizer(self, folder: Path) -> None: ...

    async def generate(self, request: GenerateRequest, sink: TokenSink) -> None:
        self.started.append(time.perf_counter())
        self.news.set()
        sink.push(Delta((request.token_ids[0],), finish=Finish("stop")))


class Bench:
    """A queue, its runtime, and jobs to submit to it."""

    def __init__(self, queue: JobQueue, runtime: Instant, catalog: Catalog) -> None:
        self.queue = queue
        self.runtime = runtime
        self.request = chat_pb2.CreateChatCompletionRequest(
            model="m",
            messages=[
                message_pb2.Message(
                    role=message_pb2.ROLE_USER, content=[message_pb2.ContentPart(text="lazy dog " * 220)]
                )
            ],
        )
        self.catalog = catalog

    def submission(self, run_after: int | None = None) -> Submission:
        return Submission(
            caller="",
            request_id=None,
            digest=b"",
            model="m",
            requested_model="m",
            request=self.request.SerializeToString(),
            priority=0,
            run_after=run_after,
            expires_after=None,
            max_attempts=3,
            webhook_url=None,
            webhook_secret=None,
        )

    async def submit(self, count: int, run_after: int | None = None) -> float:
        """Submit so many jobs from all clients. Returns the seconds that it took."""
        left = iter(range(count))

        async def client() -> None:
            for _ in left:
                await self.queue.submit(self.submission(run_after))

        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        return time.perf_counter() - began

    async def ran(self, count: int) -> None:
        """Wait until so many jobs have started."""
        while len(self.runtime.started) < count:
            self.runtime.news.clear()
            await self.runtime.news.wait()

    async def latencies(self, count: int) -> list[float]:
        """The milliseconds from the submission of a job to its start, at about 45 jobs a second."""
        found = []
        for _ in range(count):
            self.runtime.started.clear()
            began = time.perf_counter()
            await self.queue.submit(self.submission())
            await self.ran(1)
            found.append((self.runtime.started[0] - began) * 1e3)
            await asyncio.sleep(0.015)
        return found


@contextlib.asynccontextmanager
async def running(model: str, url: str, *, serving: bool) -> AsyncIterator[Bench]:
    runtime = Instant()
    runtime.serving = serving
    text = ModelText.load(Path(model))
    defaults = ModelConfig(id="m", path=model, runtimes=[RuntimeConfig(grpc="127.0.0.1:1")])
    media = MediaReader(frozenset, MediaFetcher(MediaConfig()))
    format = choose_format(defaults.tool_call_parser, defaults.reasoning_parser, text.template_source)
    catalog = Catalog(
        [ServedModel("m", (), 0, "", text, format, media, Replicas("m", [runtime]), root=Path(model).name)]
    )
    queue = JobQueue(
        QueueConfig(url=url, max_queued=10**6, max_queued_per_caller=10**6),
        catalog,
        run_seconds=60,
        encode=lambda job: b"{}",
        on_available=lambda available: None,
    )
    await queue.start()
    yield Bench(queue, runtime, catalog)
    await queue.close(5)


def quantiles(values: list[float]) -> str:
    ordered = sorted(values)
    return f"p50 {statistics.median(ordered):.1f} ms, p99 {ordered[int(len(ordered) * 0.99)]:.1f} ms"


def fsync_milliseconds(folder: str) -> float:
    with tempfile.TemporaryFile(dir=folder) as file:
        began = time.perf_counter()
        for _ in range(50):
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
        return (time.perf_counter() - began) / 50 * 1e3


async def measure(model: str, url: str) -> None:
    async with running(model, url, serving=False) as bench:
        cpu = time.process_time()
        seconds = await bench.submit(JOBS)
        cpu = time.process_time() - cpu
        print(
            f"enqueue, {CLIENTS} clients    {JOBS / seconds:6.0f} /s   {cpu / JOBS * 1e6:4.0f} µs of CPU each"
        )
        await prepare_chat(bench.catalog, bench.request, stream=True)
        bench.runtime.serving = True
        cpu, began = time.process_time(), time.perf_counter()
        bench.queue._runner.wake()
        await bench.ran(JOBS)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        print(f"drain, 16 at once       {JOBS / seconds:6.0f} /s   {cpu / JOBS * 1e6:4.0f} µs of CPU each")
        await asyncio.sleep(0.5)
        print(f"enqueue to start        {quantiles(await bench.latencies(400))}")
        await bench.submit(BACKLOG, run_after=int((time.time() + 3600) * 1e6))
        seconds = await bench.submit(JOBS)
        print(f"with {BACKLOG} jobs that wait for their time:")
        print(f"enqueue and drain       {JOBS / seconds:6.0f} /s")
        await asyncio.sleep(2)
        print(f"enqueue to start        {quantiles(await bench.latencies(400))}")


async def main(model: str, url: str | None) -> None:
    with tempfile.TemporaryDirectory(dir=".") as folder:
        if url is None:
            url = f"sqlite:///{folder}/queue.db"
            print(f"fsync of 4 kB           {fsync_milliseconds(folder):6.2f} ms")
        await measure(model, url)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))
