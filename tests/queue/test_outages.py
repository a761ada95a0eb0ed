"""The queue while its database, its disk or its runtime fails. Accepted jobs are kept."""

import asyncio
import contextlib
import random
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import asyncpg
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from inferd.v1 import queue_pb2
from tests.doubles.simulated_scheduler import Fault, Reply
from tests.queue.jobs import FAILED, RUNNING, SUCCEEDED, Front, Fronts, eventually, failure, failure_of
from tests.queue.processes import (
    DEADLINE,
    Engine,
    Load,
    Process,
    Rows,
    all_jobs,
    check_answer,
    check_succeeded,
    fill,
    put,
    request_of,
    tmpfs,
)
from tests.support.postgres import Postgres

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

on_postgres = pytest.mark.parametrize("queue_url", ["postgresql"], indirect=True)
on_sqlite = pytest.mark.parametrize("queue_url", ["sqlite"], indirect=True)

Start = Callable[..., Awaitable[Front]]


@pytest.fixture
async def engine(small_text) -> AsyncIterator[Engine]:
    async with Engine(small_text, seconds=0.2) as engine:
        yield engine


@pytest.fixture
async def start(small_model, small_text, queue_url, engine) -> AsyncIterator[Start]:
    """Starts a front over `engine`, in this process."""
    async with Fronts(small_model, small_text, queue_url) as fronts:

        async def start(*, opened: bool = True, **queue: object) -> Front:
            queue = {"lease": 1, **queue}
            return await fronts.start(runtimes={"small": engine}, queue=queue, opened=opened)

        yield start


@pytest.fixture
def outage(postgres: Postgres) -> AsyncIterator[Postgres]:
    """A PostgreSQL that the test may stop. It is started again for the next test."""
    yield postgres
    postgres.thaw()
    if not postgres.running:
        postgres.start()


async def health_is(front: Front, service: str, status: int) -> bool:
    channel = front.channel()
    async with channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE)
        return answer.status == status


async def queue_health(front: Front, status: int) -> None:
    """Wait until the queue has that health; all else serves."""
    await eventually(lambda: health_is(front, "inferd.v1.QueueService", status))
    assert await health_is(front, "", SERVING)
    assert await health_is(front, "inferd.v1.ChatService", SERVING)


async def queue_is_unavailable(front: Front) -> None:
    """That no call of the queue hangs, and each says what is wrong; and that others do their work."""
    stub, some_id = front.queue, "chatcmpl-" + "0" * 32
    calls = [
        stub.Enqueue(request_of("in an outage"), timeout=DEADLINE),
        stub.GetJob(queue_pb2.GetJobRequest(id=some_id), timeout=DEADLINE),
        stub.WaitJob(queue_pb2.WaitJobRequest(id=some_id), timeout=DEADLINE),
        stub.ListJobs(queue_pb2.ListJobsRequest(), timeout=DEADLINE),
        stub.CancelJob(queue_pb2.CancelJobRequest(id=some_id), timeout=DEADLINE),
        stub.GetQueueStats(queue_pb2.GetQueueStatsRequest(), timeout=DEADLINE),
    ]
    failures = [asyncio.ensure_future(failure(call)) for call in calls]
    request = request_of("Hello").request
    await front.chat.CreateChatCompletion(request, timeout=DEADLINE)
    async with front.http() as http:
        messages = [{"role": "user", "content": "Hello"}]
        body = {"model": "small", "messages": messages, "max_tokens": 8}
        answer = await http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
    for found in await asyncio.gather(*failures):
        assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "QUEUE_UNAVAILABLE"), found
        assert found.retry_after


@on_postgres
async def test_database_is_killed_under_load(start, engine, outage, queue_url):
    front = await start()
    ends = [engine.hold(f"ends in outage {number}", tokens=2) for number in range(2)]
    accepted = {prompt: await put(front.queue, prompt) for prompt in ("ends in outage 0", "ends in outage 1")}
    await eventually(lambda: engine.running == 2)
    async with Load(front.queue) as load:
        load.accepted |= accepted
        for end in ends:
            await load.more(20)
            await asyncio.to_thread(outage.kill)
            await queue_is_unavailable(front)
            await queue_health(front, NOT_SERVING)
            end.set()
            # All leases run out.
            await asyncio.sleep(1.2)
            await asyncio.to_thread(outage.start)
            await queue_health(front, SERVING)
        await load.more(20)
    found = await check_succeeded(front.queue, load.accepted)
    assert all(job.attempts == 1 for job in found)
    # Finished work is not repeated.
    kept = {job.request_id: job for job in found if job.request_id in accepted}
    for prompt, job in kept.items():
        check_answer(job, prompt, 1)
        assert job.lost_attempts == 0
    await Rows(queue_url).check()


@on_postgres
async def test_database_is_restarted_under_load(start, outage, queue_url):
    front = await start()
    async with Load(front.queue) as load:
        for _ in range(4):
            await load.more(20)
            await asyncio.to_thread(outage.restart_immediate)
        await load.more(20)
    found = await check_succeeded(front.queue, load.accepted)
    assert all(job.attempts == 1 for job in found)
    await Rows(queue_url).check()


@on_postgres
async def test_database_freezes_under_load(start, outage, queue_url):
    front = await start()
    async with Load(front.queue) as load:
        await load.more(20)
        outage.freeze()
        await queue_is_unavailable(front)
        await queue_health(front, NOT_SERVING)
        outage.thaw()
        await queue_health(front, SERVING)
        await load.more(20)
    await check_succeeded(front.queue, load.accepted)
    await Rows(queue_url).check()


@on_postgres
async def test_database_comes_after_inferd(start, outage):
    await asyncio.to_thread(outage.kill)
    front = await start(opened=False)
    await queue_is_unavailable(front)
    await queue_health(front, NOT_SERVING)
    await asyncio.to_thread(outage.start)
    await queue_health(front, SERVING)
    check_answer(await front.ended(await put(front.queue, "question")), "question", 1)


class LossyProxy:
    """A proxy in front of PostgreSQL that can lose the answers to commits, which are made all the same."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self.losing = False
        self.lost = 0
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._relay(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            writer.close()
            return
        lose = False

        async def answers() -> None:
            while data := await there_reader.read(65536):
                if lose:
                    self.lost += 1
                    return
                writer.write(data)

        async def questions() -> None:
            nonlocal lose
            while data := await reader.read(65536):
                lose = lose or (self.losing and b"COMMIT" in data)
                there_writer.write(data)

        halves = [asyncio.create_task(answers()), asyncio.create_task(questions())]
        try:
            await asyncio.wait(halves, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for half in halves:
                half.cancel()
            await asyncio.gather(*halves, return_exceptions=True)
            writer.transport.abort()
            there_writer.transport.abort()


@on_postgres
async def test_answers_to_commits_are_lost_under_load(start, engine, postgres, queue_url):
    proxy = LossyProxy(postgres.port)
    async with proxy.serving():
        front = await start(url=queue_url.replace(f":{postgres.port}/", f":{proxy.port}/"))
        # Something always runs: so its process is always one that lives and holds what it has.
        held = engine.hold("held")
        job = await put(front.queue, "held")
        await front.reaches(job, RUNNING)
        async with Load(front.queue, clients=8, pause=0.1) as load:
            load.accepted["held"] = job
            for number in range(1, 9):
                await load.more(10)
                proxy.losing = True
                await eventually(lambda number=number: proxy.lost >= 4 * number)
                proxy.losing = False

        async def only_held() -> bool:
            stats = await front.stats()
            return (stats.queued, stats.running) == (0, 1)

        await eventually(only_held)
        held.set()
        found = await check_succeeded(front.queue, load.accepted)
        assert all(job.attempts == 1 for job in found)
        await Rows(queue_url).check()


@on_postgres
async def test_a_process_frozen_in_a_transaction_does_not_stop_the_others(
    start, make_config, engine, tmp_path, queue_url
):
    rows = Rows(queue_url)
    front = await start()
    async with Process(make_config(engine.address), tmp_path / "frozen") as frozen:
        await frozen.ready()
        async with Load(frozen.queue, clients=8, pause=0) as load:
            await load.more(50)
            while True:
                await asyncio.sleep(random.uniform(0, 0.05))
                frozen.freeze()
                # Ours are quick: what is still in a transaction after this long is the frozen one's.
                await asyncio.sleep(0.3)
                locks = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE"
                locks += " locktype = 'advisory' AND granted AND state = 'idle in transaction'"
                locks += " AND datname = current_database()"
                locks += " AND state_change < clock_timestamp() - interval '250 ms'"
                if (await rows(locks))[0][0]:
                    break
                frozen.thaw()
                await load.more(1)
            for number in range(5):
                job = await put(front.queue, f"other {number}")
                load.accepted[f"other {number}"] = job
                check_answer(await front.ended(job), f"other {number}")
            frozen.thaw()
        await check_succeeded(front.queue, load.accepted)


async def test_runtime_dies(start, engine):
    front = await start(lease=3600)
    for number in range(4):
        engine.hold(f"question {number}", tokens=3)
    jobs = [await put(front.queue, f"question {number}") for number in range(5)]
    await eventually(lambda: engine.running == 4)
    await front.ended(jobs[4])
    await engine.stop()
    later = await put(front.queue, "later")
    await engine.start()
    for number, job in enumerate(jobs):
        done = await front.ended(job)
        check_answer(done, f"question {number}", 1 if number == 4 else 2)
        assert done.attempts == 1
        assert done.lost_attempts == (0 if number == 4 else 1)
    check_answer(await front.ended(later), "later")


async def test_runtime_goes_and_comes_under_load(start, engine, queue_url):
    front = await start()
    async with Load(front.queue) as load:
        for _ in range(2):
            await load.more(15)
            await engine.stop()
            await load.more(15)
            await engine.start()
        await load.more(5)
    found = await check_succeeded(front.queue, load.accepted)
    assert all(job.attempts == 1 for job in found)
    await Rows(queue_url).check()


async def test_runtime_fails(start, engine):
    front = await start()
    answer, faults = (
        engine.script,
        {"refused": grpc.StatusCode.INVALID_ARGUMENT, "fails": grpc.StatusCode.INTERNAL},
    )

    def script(request) -> Reply:
        reply = answer(request)
        prompt = next(reversed(engine.prompts()))
        code = faults.get(prompt)
        if prompt == "fails once" and engine.times[prompt] == 1:
            code = grpc.StatusCode.INTERNAL
        fault = Fault("status", after=2, code=code) if code else None
        return Reply(reply.token_ids, fault=fault)

    engine.script = script
    # One after the other: the script looks at the latest prompt.
    refused = await front.ended(await put(front.queue, "refused"))
    assert (refused.state, refused.attempts, refused.lost_attempts) == (FAILED, 1, 0)
    assert failure_of(refused.error).code is grpc.StatusCode.INVALID_ARGUMENT
    failed = await front.ended(await put(front.queue, "fails", max_attempts=2))
    assert (failed.state, failed.attempts, failed.lost_attempts) == (FAILED, 2, 0)
    assert failure_of(failed.error).reason == "RUNTIME_ERROR"
    assert not failed.HasField("completion")
    once = await front.ended(await put(front.queue, "fails once", max_attempts=2))
    assert (once.state, once.attempts, once.lost_attempts) == (SUCCEEDED, 2, 0)
    check_answer(once, "fails once", 2)


async def check_full_disk(front: Front, engine: Engine, disk: Path, words: str) -> None:
    """Queue jobs until the disk is full, and then have it emptied."""
    held = engine.hold("held")
    accepted = {"held": await put(front.queue, "held")}
    await front.reaches(accepted["held"], RUNNING)
    filler = fill(disk)
    for number in range(5000):
        prompt = f"question {number} {'x' * 40}"
        request = request_of(prompt, request_id=prompt)
        try:
            accepted[prompt] = await front.queue.Enqueue(request, timeout=DEADLINE)
        except grpc.aio.AioRpcError as error:
            found = failure_of(rpc_status.from_call(error))
            break
    else:
        pytest.fail("the disk was not full")
    assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "QUEUE_UNAVAILABLE")
    assert words in found.message
    # What is there can be read, and others do their work.
    assert (await front.get(accepted["held"])).state == RUNNING
    stored = {job.request_id for job in await all_jobs(front.queue)}
    assert stored == set(accepted)
    await front.chat.CreateChatCompletion(request_of("Hello").request, timeout=DEADLINE)
    held.set()
    await eventually(lambda: engine.running == 0)

    filler.unlink()
    accepted[prompt] = await put(front.queue, prompt)
    await check_succeeded(front.queue, accepted)
    await queue_health(front, SERVING)


@on_sqlite
async def test_disk_is_full_on_sqlite(start, engine, tmp_path):
    engine.seconds = 0
    try:
        async with tmpfs(tmp_path / "disk", 2) as disk:
            url = f"sqlite:///{disk}/queue.db"
            front = await start(url=url)
            await check_full_disk(front, engine, disk, "disk is full")
            await Rows(url).check()
    except OSError as error:
        pytest.skip(f"no disk of a given size can be had: {error}")


@on_postgres
async def test_disk_is_full_on_postgresql(start, engine, postgres, queue_url):
    """Only the tables': the server's own log of writes stays where there is room, else it would stop."""
    engine.seconds = 0
    try:
        async with tmpfs(postgres.folder / "disk", 32) as disk:
            place = disk / "tablespace"
            place.mkdir()
            owner = (postgres.folder / "data").stat()
            shutil.chown(place, owner.st_uid, owner.st_gid)
            connection = await asyncpg.connect(queue_url)
            try:
                await connection.execute(f"CREATE TABLESPACE small LOCATION '{place}'")
                await connection.execute("CREATE DATABASE full_disk TABLESPACE small")
                try:
                    front = await start(url=postgres.url("full_disk"))
                    await check_full_disk(front, engine, disk, "No space left on device")
                    await Rows(postgres.url("full_disk")).check()
                finally:
                    await connection.execute("DROP DATABASE full_disk WITH (FORCE)")
                    await connection.execute("DROP TABLESPACE small")
            finally:
                await connection.close()
    except OSError as error:
        pytest.skip(f"no disk of a given size can be had: {error}")
