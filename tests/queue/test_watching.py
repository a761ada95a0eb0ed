"""Clients watch a job, wait for a job, and leave before the job ends."""

import asyncio
import contextlib
import itertools
import time

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from inferd.v1 import queue_pb2
from tests.doubles.simulated_scheduler import echo
from tests.queue.jobs import (
    CANCELLED,
    EXPIRED,
    FAILED,
    ONE_AT_A_TIME,
    PATIENCE,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    chunks_in,
    enqueue,
    events_of,
    eventually,
    failure,
    failure_of,
    jobs_in,
    kinds,
    one_of_each_state,
    refuses,
    text_of,
)

Code = grpc.StatusCode


async def test_a_watch_tells_states_and_positions_then_chunks(fronts):
    front = await fronts.start(echo(chunk_sizes=(1,)), queue=ONE_AT_A_TIME)
    holder = await front.held()
    ahead = await front.enqueue("ahead")
    job = await front.enqueue("watched", max_tokens=12)
    events: list[queue_pb2.JobEvent] = []

    async def watch() -> None:
        async for event in front.watch(job):
            events.append(event)

    watching = asyncio.create_task(watch())
    await eventually(lambda: events)
    assert (events[0].job.id, events[0].job.state, events[0].job.queue_position) == (job.id, QUEUED, 2)
    urgent = await front.enqueue("urgent", priority=9)
    await eventually(lambda: events[-1].job.queue_position == 3)
    await front.cancel(ahead)
    await eventually(lambda: events[-1].job.queue_position == 2)
    await front.delete(urgent)
    await eventually(lambda: events[-1].job.queue_position == 1)
    await front.cancel(holder)
    await eventually(lambda: events[-1].job.state == RUNNING)
    front.runtime.gate.set()
    await asyncio.wait_for(watching, PATIENCE)

    assert kinds(events) == ["job", "chunk", "job"]
    states = [told.state for told in jobs_in(events)]
    assert states == sorted(states) and set(states) == {QUEUED, RUNNING, SUCCEEDED}
    told = jobs_in(events)
    assert all(before != after for before, after in itertools.pairwise(told))
    assert not any(each.HasField("completion") for each in told)
    chunks = chunks_in(events)
    # Tokens that came together are one chunk, so the number of chunks depends on the machine's load.
    assert len(chunks) > 1
    first, *others = chunks
    assert (first.id, first.model) == (job.id, "small")
    assert first.create_time.seconds == job.create_time.seconds
    assert not any(chunk.id or chunk.model or chunk.HasField("create_time") for chunk in others)
    answer = (await front.get(job)).completion
    assert text_of(chunks) == answer.choices[0].message.content


async def test_an_ended_job_is_told_again_whenever_it_is_watched(fronts):
    front = await fronts.start()
    done = await front.ended(await front.enqueue(stream_options={"include_usage": True}))
    watches = [await events_of(front.watch(done)) for _ in range(2)]
    assert watches[0] == watches[1]
    [first, *rest] = watches[0]
    assert first.job.state == SUCCEEDED and not first.job.HasField("completion")
    assert kinds(rest)[0] == "chunk"
    chunks = chunks_in(rest)
    assert chunks[0].id == done.id
    assert chunks[0].create_time.seconds == done.create_time.seconds
    assert text_of(chunks) == done.completion.choices[0].message.content
    assert chunks[0].choices[0].delta.role
    assert (chunks[-1].usage, len(chunks[-1].choices)) == (done.completion.usage, 0)


async def test_the_error_is_the_last_event_of_a_job_without_an_answer(fronts):
    front = await fronts.start(queue=ONE_AT_A_TIME)
    jobs = await one_of_each_state(front)
    expected = {
        FAILED: (Code.INVALID_ARGUMENT, "RUNTIME_REFUSED"),
        CANCELLED: (Code.CANCELLED, "JOB_CANCELLED"),
        EXPIRED: (Code.DEADLINE_EXCEEDED, "JOB_EXPIRED"),
    }
    for state, (code, reason) in expected.items():
        job = jobs[state]
        error = failure_of(job.error)
        assert (error.code, error.reason) == (code, reason)
        assert not job.HasField("completion")
        [first, last] = await events_of(front.watch(job))
        assert first.job == job
        assert last.error == job.error


async def test_a_watch_of_a_running_job_ends_with_the_error_of_its_cancelling(fronts):
    front = await fronts.start(echo(tokens_per_second=5))
    job = await front.enqueue(max_tokens=400, ignore_eos=True)
    events: list[queue_pb2.JobEvent] = []

    async def watch() -> None:
        async for event in front.watch(job):
            events.append(event)

    watching = asyncio.create_task(watch())
    await eventually(lambda: chunks_in(events))
    cancelled = await front.cancel(job)
    assert cancelled.state == CANCELLED
    await asyncio.wait_for(watching, PATIENCE)
    assert kinds(events) == ["job", "chunk", "job", "error"]
    assert jobs_in(events)[-1] == cancelled
    assert events[-1].error == cancelled.error
    await eventually(lambda: front.runtime.running == 0)
    # Watched again it has no chunks: it has no answer.
    assert kinds(await events_of(front.watch(job))) == ["job", "error"]


async def test_many_may_watch_and_leave_and_come_late(fronts):
    front = await fronts.start(echo(tokens_per_second=25))
    job = await front.enqueue(max_tokens=40, ignore_eos=True)
    early: list[queue_pb2.JobEvent] = []

    async def watch(into: list[queue_pb2.JobEvent]) -> None:
        async for event in front.watch(job):
            into.append(event)

    watching = asyncio.create_task(watch(early))
    await eventually(lambda: len(chunks_in(early)) >= 3)
    leaver = front.watch(job)
    async for event in leaver:
        if event.HasField("chunk"):
            break
    leaver.cancel()
    late = asyncio.create_task(events_of(front.watch(job)))
    await asyncio.wait_for(asyncio.gather(watching, late), PATIENCE)
    assert chunks_in(early) == chunks_in(late.result())
    done = await front.get(job)
    assert (done.state, done.attempts, done.lost_attempts) == (SUCCEEDED, 1, 0)
    assert text_of(chunks_in(early)) == done.completion.choices[0].message.content
    assert (len(front.runtime.requests), front.runtime.cancelled) == (1, 0)


async def test_a_job_is_watched_from_a_front_that_does_not_run_it(fronts):
    first = await fronts.start(echo(tokens_per_second=25, chunk_sizes=(1, 3)))
    job = await first.held(max_tokens=40, ignore_eos=True, stream_options={"include_usage": True})
    second = await fronts.start(runtimes=first.runtimes)
    events: list[queue_pb2.JobEvent] = []

    async def watch() -> None:
        async for event in second.watch(job):
            events.append(event)

    watching = asyncio.create_task(watch())
    await eventually(lambda: events)
    assert events[0].job.state == RUNNING
    local = asyncio.create_task(events_of(first.watch(job)))
    first.runtime.gate.set()
    await eventually(lambda: len(chunks_in(events)) >= 2)
    # Its chunks come while they are generated.
    assert (await second.get(job)).state == RUNNING
    waited = await second.ended(job)
    await asyncio.wait_for(asyncio.gather(watching, local), PATIENCE)
    assert chunks_in(events) == chunks_in(local.result())
    assert text_of(chunks_in(events)) == waited.completion.choices[0].message.content
    assert jobs_in(events)[-1].state == SUCCEEDED


async def test_a_watcher_elsewhere_learns_of_failing_and_cancelling(fronts):
    first = await fronts.start()
    second = await fronts.start(runtimes=first.runtimes)
    for front, other in ((first, second), (second, first)):
        job = await front.held()
        watching = asyncio.create_task(events_of(other.watch(job)))
        waiting = asyncio.create_task(other.ended(job))
        # Whoever runs it, the other one or this one is told to cancel it.
        await other.cancel(job)
        events = await asyncio.wait_for(watching, PATIENCE)
        assert (events[-2].job.state, failure_of(events[-1].error).code) == (CANCELLED, Code.CANCELLED)
        assert (await waiting).state == CANCELLED
        await eventually(lambda: first.runtime.running == 0)
    first.runtime.gate.set()


async def test_enqueue_and_watch_is_both(fronts):
    front = await fronts.start()
    events = await events_of(front.queue.EnqueueAndWatch(enqueue(priority=3), timeout=PATIENCE))
    assert kinds(events)[0] == "job"
    assert (events[0].job.priority, jobs_in(events)[-1].state) == (3, SUCCEEDED)
    done = await front.get(events[0].job)
    assert text_of(chunks_in(events)) == done.completion.choices[0].message.content
    # The same request_id gives the same job, and tells it again.
    for _ in range(2):
        again = await events_of(front.queue.EnqueueAndWatch(enqueue(request_id="same"), timeout=PATIENCE))
        assert text_of(chunks_in(again))
    assert again[0].job.state == SUCCEEDED
    assert len(front.runtime.requests) == 2


async def test_leaving_does_not_cancel_the_job(fronts):
    front = await fronts.start()
    front.runtime.gate.clear()
    ids = []
    for _ in range(3):
        call = front.queue.EnqueueAndWatch(enqueue(), timeout=PATIENCE)
        ids.append((await call.read()).job.id)
        call.cancel()
    waiting = front.queue.Enqueue(enqueue("waits", request_id="w", wait={"seconds": 60}), timeout=PATIENCE)
    await eventually(lambda: len(front.runtime.requests) == 4)
    waiting.cancel()
    call = front.queue.WaitJob(queue_pb2.WaitJobRequest(id=ids[0]), timeout=PATIENCE)
    await asyncio.sleep(0.05)
    call.cancel()
    front.runtime.gate.set()
    for job in ids:
        assert (await front.ended(job)).state == SUCCEEDED
    assert (await front.ended(await front.enqueue("waits", request_id="w"))).state == SUCCEEDED
    assert (len(front.runtime.requests), front.runtime.cancelled) == (4, 0)


async def test_a_stream_that_lost_its_attempt_says_so(fronts):
    front = await fronts.start(refuses(Code.INTERNAL, after=3))
    job = await front.held(max_tokens=10)
    events: list[queue_pb2.JobEvent] = []

    async def watch() -> None:
        async for event in front.watch(job):
            events.append(event)

    watching = asyncio.create_task(failure(watch()))
    await eventually(lambda: events)
    front.runtime.script = echo()
    front.runtime.gate.set()
    lost = await asyncio.wait_for(watching, PATIENCE)
    assert (lost.code, lost.reason, lost.metadata) == (Code.ABORTED, "ATTEMPT_LOST", {"id": job.id})
    assert lost.retry_after is not None
    # Whether it was told that the job is queued again or not: there were chunks, and no more came.
    assert kinds(events)[:2] == ["job", "chunk"]
    again = await events_of(front.watch(job))
    assert text_of(chunks_in(again)) == (await front.get(job)).completion.choices[0].message.content


async def test_wait_gives_the_job_as_it_is_when_the_time_is_up(fronts):
    front = await fronts.start()
    job = await front.held()
    for fields in ({"timeout": Duration()}, {"timeout": Duration(nanos=1)}, {"timeout": {"nanos": 10**8}}):
        waited = await front.queue.WaitJob(queue_pb2.WaitJobRequest(id=job.id, **fields), timeout=PATIENCE)
        assert waited.state == RUNNING
    for seconds in (None, 0, 1):
        assert (await front.get(job, wait={"seconds": seconds})).state == RUNNING
    assert (await front.enqueue("more", wait={"seconds": 1})).state in (QUEUED, RUNNING)

    # Also if the call's own deadline comes first. It is the server's clock against the client's: on a
    # busy machine one of them may lose.
    for _ in range(5):
        with contextlib.suppress(grpc.aio.AioRpcError):
            waited = await front.queue.WaitJob(queue_pb2.WaitJobRequest(id=job.id), timeout=1.5)
            break
    else:
        pytest.fail("the call's deadline passed before there was an answer")
    assert waited.state == RUNNING


async def test_waits_end_when_the_job_does(fronts):
    front = await fronts.start(queue={"running_limit_per_model": 8})
    jobs = [await front.held(), await front.held()]
    waits = [
        asyncio.create_task(call)
        for job in jobs
        for call in (front.get(job, wait={"seconds": 60}), front.ended(job))
    ]
    waits.append(asyncio.create_task(front.enqueue("waits", wait={"seconds": 60})))
    await front.cancel(jobs[0])
    assert (await waits[0]).state == (await waits[1]).state == CANCELLED
    front.runtime.gate.set()
    done = [await wait for wait in waits[2:]]
    assert [job.state for job in done] == [SUCCEEDED] * 3
    assert all(job.completion.choices for job in done)
    # Of a job that has ended there is nothing to wait for.
    assert await front.get(done[0], wait={"seconds": 3600}) == done[0]


async def test_who_waits_for_a_job_that_is_deleted_is_told(fronts):
    front = await fronts.start()
    job = await front.held()
    calls = [front.get(job, wait={"seconds": 60}), front.ended(job), events_of(front.watch(job))]
    waiting = [asyncio.create_task(failure(call)) for call in calls]
    await asyncio.sleep(0.2)
    await front.delete(job)
    for failed in await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE):
        assert (failed.code, failed.reason) == (Code.NOT_FOUND, "JOB_NOT_FOUND")
    await eventually(lambda: front.runtime.running == 0)


async def test_a_wait_longer_than_a_call_may_take_gives_the_job_as_it_is(fronts):
    front = await fronts.start(request_timeout=3)
    front.runtime.gate.clear()
    job = await front.enqueue(not_before=Timestamp(seconds=int(time.time()) + 1000))
    for call in (
        front.queue.GetJob(queue_pb2.GetJobRequest(id=job.id, wait={"seconds": 60})),
        front.queue.WaitJob(queue_pb2.WaitJobRequest(id=job.id)),
        front.queue.WaitJob(queue_pb2.WaitJobRequest(id=job.id, timeout={"seconds": 60})),
        front.queue.Enqueue(
            enqueue(wait={"seconds": 60}, not_before=Timestamp(seconds=int(time.time()) + 1000))
        ),
    ):
        assert (await asyncio.wait_for(call, PATIENCE)).state == QUEUED
