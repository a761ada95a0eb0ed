"""Each accepted job is answered, whether inferd's processes are killed, frozen or told to stop."""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from inferd.services.queue import job_queue
from inferd.v1 import queue_pb2
from tests.queue.jobs import (
    CANCELLED,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    Front,
    Fronts,
    chunks_in,
    events_of,
    eventually,
    failure,
    text_of,
)
from tests.queue.processes import (
    DEADLINE,
    Engine,
    Load,
    Process,
    Rows,
    all_ended,
    answer_to,
    check_answer,
    check_succeeded,
    put,
    request_of,
)

Launch = Callable[..., Awaitable[Process]]


@pytest.fixture
def chance() -> random.Random:
    """If a test fails, the seed is shown."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.fixture
async def engine(small_text) -> AsyncIterator[Engine]:
    async with Engine(small_text) as engine:
        yield engine


@pytest.fixture
async def launch(tmp_path, make_config, engine) -> AsyncIterator[Launch]:
    """Launches inferd in a process of its own over `engine`; `queue` and `server` keys as given."""
    async with contextlib.AsyncExitStack() as stack:

        async def launch(name: str = "inferd", **settings) -> Process:
            config = make_config(engine.address, **settings)
            return await stack.enter_async_context(Process(config, tmp_path / name))

        yield launch


async def test_nothing_is_lost_or_done_twice_when_killed_under_load(launch, engine, queue_url, chance):
    engine.seconds = 0.3
    inferd = await launch(queue={"lease": 1})
    async with Load(inferd.queue) as load:
        for _ in range(12):
            if chance.random() < 0.7:
                await inferd.ready()
                await asyncio.sleep(chance.uniform(0, 0.8))
            else:
                # Perhaps while it starts.
                await asyncio.sleep(chance.uniform(1, 3.5))
            inferd.kill()
            inferd.launch()
        await inferd.ready()
        await load.more(5)
    found = await check_succeeded(inferd.queue, load.accepted)
    assert all(job.attempts == 1 for job in found)
    await Rows(queue_url).check()


async def test_killed_jobs_run_again_in_their_order(launch, engine, queue_url, chance):
    engine.seconds = 0.1
    engine.serving = False
    inferd = await launch(queue={"lease": 1, "running_limit": 1})
    await inferd.ready()
    accepted = {}
    for number in range(40):
        prompt = f"question {number}"
        accepted[prompt] = await put(inferd.queue, prompt, priority=chance.choice([-5, 0, 7]))
    assert not engine.times
    engine.serving = True
    for part in range(1, 5):
        await eventually(lambda part=part: len(engine.times) >= 8 * part)
        await asyncio.sleep(chance.uniform(0, 0.15))
        inferd.kill()
        inferd.launch()
    await inferd.ready()
    found = await check_succeeded(inferd.queue, accepted)
    in_order = sorted(found, key=lambda job: (-job.priority, job.id))
    assert list(engine.times) == [job.request_id for job in in_order]
    assert engine.peak == 1
    assert all(job.attempts == 1 for job in found)
    await Rows(queue_url).check()


async def test_workers_are_killed(launch, engine, queue_url, chance):
    engine.seconds = 0.3
    inferd = await launch(queue={"lease": 1}, workers=2)
    await inferd.ready()
    async with Load(inferd.queue) as load:
        for _ in range(4):
            await eventually(lambda: len(inferd.workers()) == 2)
            await load.more(5)
            await asyncio.sleep(chance.uniform(0, 1))
            os.kill(chance.choice(inferd.workers()), signal.SIGKILL)
        await load.more(5)
    found = await check_succeeded(inferd.queue, load.accepted)
    assert all(job.attempts == 1 for job in found)
    await Rows(queue_url).check()


async def test_another_process_takes_over(launch, engine, queue_url):
    rows = Rows(queue_url)
    a, b = await launch("a", queue={"lease": 1}), await launch("b", queue={"lease": 1})
    await asyncio.gather(a.ready(), b.ready())
    held = [engine.hold(f"held {number}") for number in range(8)]
    jobs = [await put(a.queue, f"held {number}") for number in range(8)]
    await eventually(lambda: engine.running == 8)
    in_a = await rows.run_by(a)
    # Both claim what they can; which is which does not matter, but a has some.
    while not in_a:
        held.append(engine.hold(f"held {len(jobs)}"))
        jobs.append(await put(a.queue, f"held {len(jobs)}"))
        await eventually(lambda: engine.running == len(jobs))
        in_a = await rows.run_by(a)

    waits = [
        asyncio.ensure_future(b.queue.WaitJob(queue_pb2.WaitJobRequest(id=job.id), timeout=60))
        for job in jobs
    ]
    a.kill()
    for event in held:
        event.set()
    for job in await asyncio.gather(*waits):
        taken_over = job.request_id in in_a
        check_answer(job, job.request_id, 2 if taken_over else 1)
        assert (job.attempts, job.lost_attempts) == (1, int(taken_over))
    await rows.check()


async def test_a_frozen_process_loses_its_jobs(launch, engine, queue_url, chance):
    rows = Rows(queue_url)
    a, b = await launch("a", queue={"lease": 1}), await launch("b", queue={"lease": 1})
    await asyncio.gather(a.ready(), b.ready())

    async def freeze_with_jobs(name: str) -> tuple[list[queue_pb2.Job], list[str], list[asyncio.Event]]:
        """Jobs that run in both, and are held; those of a, which is frozen; what holds them."""
        jobs: list[queue_pb2.Job] = []
        held: list[asyncio.Event] = []
        while len(jobs) < 8 or not await rows.run_by(a):
            held.append(engine.hold(f"{name} {len(jobs)}"))
            jobs.append(await put(a.queue, f"{name} {len(jobs)}"))
            await eventually(lambda: engine.running == len(jobs))
        a.freeze()
        while rows.is_locked():
            a.thaw()
            await asyncio.sleep(chance.uniform(0, 0.1))
            a.freeze()
        return jobs, await rows.run_by(a), held

    # It finds out, and ends the work in the engine.
    jobs, in_a, held = await freeze_with_jobs("aborted")
    again = [engine.hold(key, 2) for key in in_a]
    await eventually(lambda: engine.running == len(jobs) + len(in_a))
    cancelled = engine.cancelled
    a.thaw()
    await eventually(lambda: engine.cancelled == cancelled + len(in_a))
    assert engine.running == len(jobs)
    for event in (*held, *again):
        event.set()
    for job in await all_ended(b.queue):
        check_answer(job, job.request_id, 2 if job.request_id in in_a else 1)
        assert (job.attempts, job.lost_attempts) == (1, int(job.request_id in in_a))

    # Its answer, which comes when that of the next run is stored, is not.
    jobs, in_a, held = await freeze_with_jobs("late")
    ids = {job.request_id: job.id for job in jobs}
    for key in in_a:
        done = await b.queue.WaitJob(queue_pb2.WaitJobRequest(id=ids[key]), timeout=60)
        check_answer(done, key, 2)
        assert (done.attempts, done.lost_attempts) == (1, 1)
    for event in held:
        event.set()
    await eventually(lambda: engine.running == 0)
    await all_ended(b.queue)
    before = await rows("SELECT * FROM jobs ORDER BY seq")
    a.thaw()
    a.terminate()
    assert await a.ended() == 0
    assert await rows("SELECT * FROM jobs ORDER BY seq") == before
    for job in await all_ended(b.queue):
        check_answer(job, job.request_id)
    runs = dict(await rows("SELECT request_id, runs FROM jobs WHERE request_id LIKE 'late%'"))
    assert runs == {key: 2 if key in in_a else 1 for key in ids}
    await rows.check()


async def test_limits_hold_over_all_processes(fronts, small_text):
    async with Engine(small_text) as first, Engine(small_text) as second:
        engines = {"first": first, "second": second}
        limits = {"running_limit": 5, "running_limit_per_model": 3}
        all_fronts = [await fronts.start(runtimes=engines, queue=limits) for _ in range(2)]
        peak = 0

        def running() -> int:
            nonlocal peak
            peak = max(peak, first.running + second.running)
            return first.running + second.running

        for engine in engines.values():
            engine.gate.clear()
            engine.seconds = 0.02
        for number in range(60):
            model = "first" if number % 2 else "second"
            await put(all_fronts[number % 3 % 2].queue, f"question {number}", model=model)
        await eventually(lambda: running() == 5)
        for engine in engines.values():
            engine.gate.set()
        ended = asyncio.ensure_future(all_ended(all_fronts[0].queue))
        while not ended.done():
            running()
            await asyncio.sleep(0.001)
        for job in await ended:
            check_answer(job, job.request_id, 1)
        assert peak == 5
        assert first.peak <= 3
        assert second.peak <= 3


async def two_fronts(fronts: Fronts, engine: Engine) -> tuple[Front, Front]:
    """Two fronts on one database; jobs run in the first one only: the other one's engine is down."""
    one = await fronts.start(runtimes={"small": engine})
    other = await fronts.start()
    other.runtime.serving = False
    await eventually(lambda: unserved(other))
    return one, other


async def unserved(front: Front) -> bool:
    """Whether the front knows by now that a runtime of its does not serve."""
    async with front.channel() as channel:
        request = health_pb2.HealthCheckRequest(service="inferd.v1.ChatService")
        answer = await health_pb2_grpc.HealthStub(channel).Check(request)
    return answer.status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_watched_from_another_process(fronts, engine):
    one, other = await two_fronts(fronts, engine)
    end = engine.hold("watched", tokens=5)
    job = await put(one.queue, "watched")
    await one.reaches(job, RUNNING)

    streams = [one.watch(job), other.watch(job), other.watch(job)]
    watches = [asyncio.ensure_future(events_of(stream)) for stream in streams[1:]]
    here = aiter(streams[0])
    seen = []
    while len(chunks_in(seen)) < 5:
        seen.append(await anext(here))
    # One that comes later has all that was before.
    there = aiter(other.watch(job))
    late = []
    while len(chunks_in(late)) < 5:
        late.append(await anext(there))
    wait = asyncio.ensure_future(other.ended(job))
    end.set()
    seen += [event async for event in here]
    late += [event async for event in there]
    check_answer(await wait, "watched", 1)
    chunks = chunks_in(seen)
    assert len(chunks) > 5
    assert text_of(chunks) == answer_to("watched")
    for events in (late, *await asyncio.gather(*watches)):
        assert chunks_in(events) == chunks
        assert events[0].HasField("job")
        states = [event.job.state for event in events if event.HasField("job")]
        assert states == [RUNNING, SUCCEEDED]
    for front in (one, other):
        assert text_of(chunks_in(await events_of(front.watch(job)))) == answer_to("watched")


async def test_watched_from_another_process_since_before_it_runs(fronts, engine):
    one, other = await two_fronts(fronts, engine)
    engine.serving = False
    await eventually(lambda: unserved(one))
    job = await put(other.queue, "watched")
    stream = aiter(other.watch(job))
    first = await anext(stream)
    assert first.job.state == QUEUED
    engine.seconds = 1
    engine.serving = True
    events = [first, *[event async for event in stream]]
    assert text_of(chunks_in(events)) == answer_to("watched")
    states = [event.job.state for event in events if event.HasField("job")]
    assert states[0] == QUEUED
    assert states[-1] == SUCCEEDED


async def test_cancelled_from_another_process(fronts, engine):
    one, other = await two_fronts(fronts, engine)
    engine.hold("cancelled", tokens=3)
    job = await put(one.queue, "cancelled")
    await eventually(lambda: engine.running == 1)
    watches = [asyncio.ensure_future(events_of(front.watch(job))) for front in (one, other)]
    waits = [asyncio.ensure_future(front.ended(job)) for front in (one, other)]
    assert (await other.cancel(job)).state == CANCELLED
    await eventually(lambda: engine.running == 0)
    assert engine.cancelled == 1
    for events in await asyncio.gather(*watches):
        assert events[-1].error.code == grpc.StatusCode.CANCELLED.value[0]
    for ended in await asyncio.gather(*waits):
        assert ended.state == CANCELLED


async def test_told_to_stop_it_hands_its_jobs_back(launch, engine, queue_url):
    rows = Rows(queue_url)
    # No job may wait until a lease runs out.
    inferd = await launch(queue={"lease": 3600, "running_limit": 3}, grace=2)
    await inferd.ready()
    ends = engine.hold("ends")
    for prompt in ("handed back 0", "handed back 1"):
        engine.hold(prompt)
    jobs = [await put(inferd.queue, prompt) for prompt in ("ends", "handed back 0", "handed back 1", "waits")]
    await eventually(lambda: engine.running == 3)

    calls = [inferd.queue.WaitJob(queue_pb2.WaitJobRequest(id=job.id), timeout=DEADLINE) for job in jobs[1:]]
    calls.append(
        inferd.queue.Enqueue(request_of("waits", request_id="waits", wait={"seconds": 60}), timeout=DEADLINE)
    )
    watches = [
        events_of(inferd.queue.WatchJob(queue_pb2.GetJobRequest(id=job.id), timeout=DEADLINE))
        for job in jobs[1:]
    ]
    failures = [asyncio.ensure_future(failure(call)) for call in (*calls, *watches)]
    watch = aiter(inferd.queue.WatchJob(queue_pb2.GetJobRequest(id=jobs[0].id), timeout=DEADLINE))
    assert (await anext(watch)).job.state == RUNNING
    inferd.terminate()
    ends.set()
    # What still ends is told to its end.
    assert text_of(chunks_in([event async for event in watch])) == answer_to("ends")
    for found in await asyncio.gather(*failures):
        assert found.code is grpc.StatusCode.UNAVAILABLE, found
    assert await inferd.ended() == 0
    assert engine.running == 0
    assert await rows("SELECT request_id, state, attempts, lost_attempts, worker FROM jobs ORDER BY seq") == [
        ("ends", "succeeded", 1, 0, None),
        ("handed back 0", "queued", 0, 0, None),
        ("handed back 1", "queued", 0, 0, None),
        ("waits", "queued", 0, 0, None),
    ]

    inferd.launch()
    await inferd.ready()
    found = await check_succeeded(inferd.queue, {job.request_id: job for job in jobs})
    assert [(job.attempts, job.lost_attempts) for job in found] == [(1, 0)] * 4


async def test_results_are_purged(fronts, engine, queue_url, monkeypatch):
    monkeypatch.setattr(job_queue, "_PURGE_INTERVAL", 0.1)
    front = await fronts.start(runtimes={"small": engine}, queue={"result_ttl": 0.5})
    held = engine.hold("held")
    running = await put(front.queue, "held")
    job = await put(front.queue, "purged")

    async def purged() -> bool:
        request = queue_pb2.GetJobRequest(id=job.id)
        try:
            await front.queue.GetJob(request, timeout=DEADLINE)
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.NOT_FOUND
        return False

    await eventually(purged)
    found = await failure(front.queue.GetJob(queue_pb2.GetJobRequest(id=job.id)))
    assert (found.code, found.reason) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")
    # The key is free again, and what has not ended is kept.
    assert (await put(front.queue, "purged")).id > job.id
    assert (await front.get(running)).state == RUNNING
    held.set()
    rows = Rows(queue_url)

    async def empty() -> bool:
        tables = ("jobs", "job_requests", "job_completions")
        return not any([await rows(f"SELECT seq FROM {table}") for table in tables])

    await eventually(empty)
