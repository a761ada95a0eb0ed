"""A job's life as gRPC clients meet it: queued, watched, waited for, listed, cancelled, deleted."""

import asyncio
import contextlib
import itertools
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from inferd.v1 import queue_pb2

from tests.doubles.simulated_scheduler import Fault, echo, fixed
from tests.queue.jobs import (
    CANCELLED,
    EXPIRED,
    FAILED,
    PATIENCE,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    Failure,
    Front,
    Fronts,
    chat,
    chunks_in,
    enqueue,
    events_of,
    eventually,
    failure,
    failure_of,
    jobs_in,
    kinds,
    text_of,
)

Code = grpc.StatusCode
ONE = {"running_limit": 1}
WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
async def fronts(small_model, small_text, queue_url) -> AsyncIterator[Fronts]:
    async with Fronts(small_model, small_text, queue_url) as fronts:
        yield fronts


def says(small_text, text: str, **settings: Any):
    return fixed([*small_text.tokenizer.encode(text, add_special_tokens=False), 2], **settings)


def refuses(code: grpc.StatusCode = Code.INVALID_ARGUMENT, after: int = 0):
    """A script of failures: by default such as no other try can mend."""
    return echo(fault=Fault("status", after=after, code=code))


async def one_of_each_state(front: Front) -> dict[int, queue_pb2.Job]:
    """A job in each state, of a front that runs one at a time; the runtime is held."""
    front.runtime.script, echoes = refuses(), front.runtime.script
    failed = await front.ended(await front.enqueue("fails"))
    front.runtime.script = echoes
    succeeded = await front.ended(await front.enqueue("succeeds"))
    running = await front.held("runs")
    cancelled = await front.enqueue("cancelled")
    await front.cancel(cancelled)
    expired = await front.ended(await front.enqueue("expires", expires_after={"nanos": 1}))
    queued = await front.enqueue("queued")
    jobs = {QUEUED: queued, RUNNING: running, SUCCEEDED: succeeded, FAILED: failed}
    jobs |= {CANCELLED: cancelled, EXPIRED: expired}
    found = {state: await front.get(job) for state, job in jobs.items()}
    assert {state: job.state for state, job in found.items()} == {state: state for state in jobs}
    return found


# --- a job by itself


async def test_a_job_from_its_queuing_to_its_answer(fronts):
    front = await fronts.start(queue={**ONE, "result_ttl": 1000})
    holder = await front.held()
    job = await front.enqueue("Hello world", model="org/small")
    assert re.fullmatch("chatcmpl-[0-9a-f]{32}", job.id)
    assert (job.state, job.queue_position, job.priority, job.model) == (QUEUED, 1, 0, "org/small")
    assert (job.attempts, job.lost_attempts, job.max_attempts) == (0, 0, 3)
    assert abs(job.created - time.time()) < PATIENCE
    assert job.create_time.seconds == job.created
    assert job.retry_after >= 1
    for unset in ("start_time", "finish_time", "expire_time", "purge_time", "not_before", "completion"):
        assert not job.HasField(unset), unset
    for unset in ("error", "webhook", "request_id"):
        assert not job.HasField(unset), unset
    assert await front.get(job) == job

    running = await front.get(holder)
    assert (running.state, running.attempts) == (RUNNING, 1)
    assert running.HasField("start_time") and running.HasField("retry_after")
    assert not running.HasField("queue_position") and not running.HasField("finish_time")

    front.runtime.gate.set()
    done = await front.ended(job)
    assert done.state == SUCCEEDED
    assert (done.id, done.created, done.create_time) == (job.id, job.created, job.create_time)
    assert (done.attempts, done.lost_attempts) == (1, 0)
    answer = done.completion
    assert (answer.id, answer.created, answer.model) == (job.id, job.created, "org/small")
    assert answer.usage.completion_tokens == 6
    assert not done.HasField("queue_position") and not done.HasField("retry_after")
    times = [
        stamp.ToMicroseconds()
        for stamp in (done.create_time, done.start_time, done.finish_time, done.purge_time)
    ]
    assert times == sorted(times)
    assert times[3] - times[2] == 1000 * 1_000_000
    assert await front.get(job) == done


async def test_ids_and_times_grow_with_each_job(fronts):
    front = await fronts.start(queue=ONE)
    await front.held()
    jobs = [await front.enqueue(str(number)) for number in range(5)]
    jobs += await asyncio.gather(*(front.enqueue(str(number)) for number in range(20)))
    assert len({job.id for job in jobs}) == 25
    first, rest = jobs[:5], jobs[5:]
    assert [job.id for job in first] == sorted(job.id for job in first)
    assert max(first, key=lambda job: job.id).id < min(job.id for job in rest)
    listed = (await front.list(page_size=100, order="JOB_ORDER_ASC")).jobs
    stamps = [job.create_time.ToMicroseconds() for job in listed]
    assert stamps == sorted(stamps)


async def test_positions_count_the_jobs_that_start_before(fronts):
    front = await fronts.start(queue=ONE)
    await front.held()
    a, b = await front.enqueue("a"), await front.enqueue("b")
    assert [job.queue_position for job in (a, b)] == [1, 2]
    urgent = await front.enqueue("urgent", priority=5)
    lazy = await front.enqueue("lazy", priority=-5)
    assert [job.queue_position for job in (urgent, lazy)] == [1, 4]
    found = [(await front.get(job)).queue_position for job in (urgent, a, b, lazy)]
    assert found == [1, 2, 3, 4]
    listed = {job.id: job.queue_position for job in (await front.list()).jobs if job.state == QUEUED}
    assert listed == {job.id: place for place, job in enumerate((urgent, a, b, lazy), 1)}
    await front.cancel(a)
    assert [(await front.get(job)).queue_position for job in (urgent, b, lazy)] == [1, 2, 3]


async def test_positions_of_jobs_that_come_together_are_distinct(fronts):
    front = await fronts.start(queue=ONE)
    await front.held()
    jobs = await asyncio.gather(*(front.enqueue(str(i), priority=i % 3) for i in range(30)))
    ordered = sorted(jobs, key=lambda job: (-job.priority, job.id))
    assert [(await front.get(job)).queue_position for job in ordered] == list(range(1, 31))
    assert all(job.queue_position >= 1 for job in jobs)


# --- the answer

REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "usage streamed": {"stream_options": {"include_usage": True}},
    "logprobs": {"logprobs": True, "top_logprobs": 3},
    "several": {"n": 3, "logprobs": True, "stream_options": {"include_usage": True}},
    "stop": {"stop": ["STOP"], "max_tokens": 100},
    "stop within a token": {"stop": ["e S"], "logprobs": True, "max_tokens": 100},
    "length": {"max_completion_tokens": 3},
    "special tokens": {"skip_special_tokens": False, "max_tokens": 100},
    "prompt": {"messages": [], "prompt": "é 🙂"},
    "tools": {"tools": [{"function": {"name": "f"}}], "tool_choice": {"mode": "TOOL_CHOICE_MODE_AUTO"}},
    "sampling": {"temperature": 0, "seed": 7, "top_p": 0.5, "top_k": 3, "logit_bias": {5: 2.5}},
}


def anonymous(message: Any) -> Any:
    """The same without what differs from call to call."""
    copy = type(message)()
    copy.CopyFrom(message)
    copy.ClearField("id")
    copy.ClearField("created")
    return copy


async def watched_live(front: Front, **fields: Any) -> list[queue_pb2.JobEvent]:
    """All events of a job whose answer is generated while it is watched."""
    front.runtime.gate.clear()
    events: list[queue_pb2.JobEvent] = []
    async for event in front.queue.EnqueueAndWatch(enqueue(**fields), timeout=PATIENCE):
        events.append(event)
        if event.job.state == RUNNING:
            front.runtime.gate.set()
    return events


async def test_the_answer_is_the_one_that_chat_gives(fronts, small_text):
    front = await fronts.start(says(small_text, "Paris é 🙂 你好 here STOP, and more", cached_tokens=2))
    for name, fields in REQUESTS.items():
        whole = await front.chat.CreateChatCompletion(chat(**fields), timeout=PATIENCE)
        streamed = [
            chunk async for chunk in front.chat.StreamChatCompletion(chat(**fields), timeout=PATIENCE)
        ]
        request = front.runtime.requests[-1]
        done = await front.ended(await front.enqueue(**fields))
        assert anonymous(done.completion) == anonymous(whole), name
        # The engine is asked for the same.
        assert front.runtime.requests[-1].sampling_params == request.sampling_params, name

        live = chunks_in(await watched_live(front, **fields))
        replay = chunks_in(await events_of(front.watch(done)))
        for index in range(fields.get("n", 1)):
            expected = text_of(streamed, index)
            assert expected == whole.choices[index].message.content
            assert text_of(live, index) == text_of(replay, index) == expected, name
        if "n" not in fields:
            assert list(map(anonymous, live)) == list(map(anonymous, streamed)), name
        for chunks in (live, replay):
            usages = [chunk.usage for chunk in chunks if chunk.HasField("usage")]
            assert usages == ([whole.usage] if "stream_options" in fields else []), name
            finishes = {
                choice.index: choice.finish_reason
                for chunk in chunks
                for choice in chunk.choices
                if choice.finish_reason
            }
            assert finishes == {choice.index: choice.finish_reason for choice in whole.choices}, name
            for choice in whole.choices:
                entries = [
                    entry
                    for chunk in chunks
                    for piece in chunk.choices
                    if piece.index == choice.index
                    for entry in piece.logprobs.content
                ]
                assert entries == list(choice.logprobs.content), name


# --- watching


async def test_a_watch_tells_states_and_positions_then_chunks(fronts):
    front = await fronts.start(echo(chunk_sizes=(1,)), queue=ONE)
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
    # Tokens that came together are one: how many chunks there are is the machine's load.
    assert len(chunks) > 1
    assert {(chunk.id, chunk.created, chunk.model) for chunk in chunks} == {(job.id, job.created, "small")}
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
    assert {(chunk.id, chunk.created) for chunk in chunks} == {(done.id, done.created)}
    assert text_of(chunks) == done.completion.choices[0].message.content
    assert chunks[0].choices[0].delta.role
    assert (chunks[-1].usage, len(chunks[-1].choices)) == (done.completion.usage, 0)


async def test_the_error_is_the_last_event_of_a_job_without_an_answer(fronts):
    front = await fronts.start(queue=ONE)
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
    waiting = front.queue.Enqueue(enqueue("waits", request_id="w", wait_seconds=60), timeout=PATIENCE)
    await eventually(lambda: len(front.runtime.requests) == 4)
    waiting.cancel()
    call = front.queue.Wait(queue_pb2.WaitJobRequest(id=ids[0]), timeout=PATIENCE)
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


# --- waiting


async def test_wait_gives_the_job_as_it_is_when_the_time_is_up(fronts):
    front = await fronts.start()
    job = await front.held()
    for fields in ({"timeout": Duration()}, {"timeout": Duration(nanos=1)}, {"timeout": {"nanos": 10**8}}):
        waited = await front.queue.Wait(queue_pb2.WaitJobRequest(id=job.id, **fields), timeout=PATIENCE)
        assert waited.state == RUNNING
    for seconds in (None, 0, 1):
        assert (await front.get(job, wait_seconds=seconds)).state == RUNNING
    assert (await front.enqueue("more", wait_seconds=1)).state in (QUEUED, RUNNING)

    # Also where the call's own deadline comes first. It is the server's clock against the client's: on a
    # busy machine one of them may lose.
    for _ in range(5):
        with contextlib.suppress(grpc.aio.AioRpcError):
            waited = await front.queue.Wait(queue_pb2.WaitJobRequest(id=job.id), timeout=1.5)
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
        for call in (front.get(job, wait_seconds=60), front.ended(job))
    ]
    waits.append(asyncio.create_task(front.enqueue("waits", wait_seconds=60)))
    await front.cancel(jobs[0])
    assert (await waits[0]).state == (await waits[1]).state == CANCELLED
    front.runtime.gate.set()
    done = [await wait for wait in waits[2:]]
    assert [job.state for job in done] == [SUCCEEDED] * 3
    assert all(job.completion.choices for job in done)
    # Of a job that has ended there is nothing to wait for.
    assert await front.get(done[0], wait_seconds=3600) == done[0]


async def test_who_waits_for_a_job_that_is_deleted_is_told(fronts):
    front = await fronts.start()
    job = await front.held()
    calls = [front.get(job, wait_seconds=60), front.ended(job), events_of(front.watch(job))]
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
        front.queue.Get(queue_pb2.GetJobRequest(id=job.id, wait_seconds=60)),
        front.queue.Wait(queue_pb2.WaitJobRequest(id=job.id)),
        front.queue.Wait(queue_pb2.WaitJobRequest(id=job.id, timeout={"seconds": 60})),
        front.queue.Enqueue(enqueue(wait_seconds=60, not_before=Timestamp(seconds=int(time.time()) + 1000))),
    ):
        assert (await asyncio.wait_for(call, PATIENCE)).state == QUEUED


# --- lists


async def test_lists(fronts):
    front = await fronts.start(models=("small", "other"), queue={"running_limits": {"small": 1}})
    await front.held()
    jobs = [await front.enqueue(str(number)) for number in range(24)]
    newest = [job.id for job in (await front.list(page_size=100)).jobs]
    assert newest[:-1] == [job.id for job in reversed(jobs)]
    page = await front.list()
    assert [job.id for job in page.jobs] == newest[:20]
    assert (page.has_more, page.first_id, page.last_id) == (True, newest[0], newest[19])
    assert page.next_page_token
    oldest = await front.list(order="JOB_ORDER_ASC", page_size=100)
    assert [job.id for job in oldest.jobs] == newest[::-1]
    assert (oldest.has_more, oldest.next_page_token) == (False, "")
    assert await front.list(order="JOB_ORDER_UNSPECIFIED", page_size=3) == await front.list(
        order="JOB_ORDER_DESC", page_size=3
    )
    # What a list says of a job is what Get says.
    found = {job.id: job for job in (await front.list(page_size=100)).jobs}
    for job in newest[:2] + newest[-2:]:
        assert found[job] == await front.get(job)

    for size in (1, 4, 5, 24, 25, 100):
        for order, expected in (("JOB_ORDER_DESC", newest), ("JOB_ORDER_ASC", newest[::-1])):
            for by_token in (True, False):
                seen: list[str] = []
                cursor: dict[str, str] = {}
                while True:
                    page = await front.list(page_size=size, order=order, **cursor)
                    seen += [job.id for job in page.jobs]
                    assert bool(page.next_page_token) == page.has_more
                    assert (page.first_id, page.last_id) == (page.jobs[0].id, page.jobs[-1].id)
                    if not page.has_more:
                        break
                    assert len(page.jobs) == size
                    cursor = {"page_token": page.next_page_token} if by_token else {"after": page.jobs[-1].id}
                assert seen == expected

    empty = await front.list(model="other")
    assert not empty.jobs and not empty.has_more and not empty.next_page_token
    assert not empty.HasField("first_id") and not empty.HasField("last_id")
    assert (await front.list(after=newest[-1])).jobs == []


async def test_lists_by_state_and_model(fronts):
    front = await fronts.start(models=("small", "other"), queue={"running_limits": {"small": 1}})
    jobs = {state: job.id for state, job in (await one_of_each_state(front)).items()}
    later = Timestamp(seconds=int(time.time()) + 1000)
    delayed = (await front.enqueue("delayed", not_before=later)).id
    others = [(await front.ended(await front.enqueue(model="org/other"))).id for _ in range(3)]

    async def ids(**fields: Any) -> set[str]:
        """Of all pages; the pages are small, so that tokens and filters meet."""
        found: list[str] = []
        token = ""
        while True:
            page = await front.list(page_size=2, page_token=token, **fields)
            found += [job.id for job in page.jobs]
            token = page.next_page_token
            if not token:
                assert found == sorted(found, reverse=fields.get("order") != "JOB_ORDER_ASC")
                assert len(found) == len(set(found))
                return set(found)

    everything = {*jobs.values(), delayed, *others}
    assert await ids() == everything
    assert await ids(states=[QUEUED]) == {jobs[QUEUED], delayed}
    assert await ids(states=[RUNNING]) == {jobs[RUNNING]}
    assert await ids(states=[SUCCEEDED]) == {jobs[SUCCEEDED], *others}
    assert await ids(states=[FAILED, CANCELLED, EXPIRED]) == {jobs[s] for s in (FAILED, CANCELLED, EXPIRED)}
    assert await ids(states=list(jobs), order="JOB_ORDER_ASC") == everything
    assert await ids(states=[QUEUED] * 16) == {jobs[QUEUED], delayed}
    for name in ("other", "org/other"):
        assert await ids(model=name) == set(others)
        assert await ids(model=name, states=[SUCCEEDED], order="JOB_ORDER_ASC") == set(others)
        assert await ids(model=name, states=[FAILED]) == set()
    assert await ids(model="org/small") == everything - set(others)
    assert await ids(model="small", states=[SUCCEEDED]) == {jobs[SUCCEEDED]}


async def test_pages_are_stable_while_jobs_come_and_go(fronts):
    front = await fronts.start(queue=ONE)
    await front.held()
    jobs = [(await front.enqueue(str(number))).id for number in range(12)]

    page = await front.list(page_size=4, states=[QUEUED])
    seen = [job.id for job in page.jobs]
    added = []
    while page.has_more:
        added += [(await front.enqueue("added")).id for _ in range(3)]
        # The last one of the page goes: the next page begins where it was.
        await front.delete(page.jobs[-1])
        page = await front.list(page_size=4, states=[QUEUED], page_token=page.next_page_token)
        seen += [job.id for job in page.jobs]
    assert seen == jobs[::-1]

    left = sorted(job.id for job in (await front.list(page_size=100, states=[QUEUED])).jobs)
    page = await front.list(page_size=4, states=[QUEUED], order="JOB_ORDER_ASC")
    seen = [job.id for job in page.jobs]
    gone = page.jobs[-1].id
    await front.delete(gone)
    # `after` need not exist any more; and what has come since is at the end.
    newest = (await front.enqueue("newest")).id
    while page.has_more:
        page = await front.list(page_size=4, states=[QUEUED], order="JOB_ORDER_ASC", after=page.jobs[-1].id)
        seen += [job.id for job in page.jobs]
    assert seen == [*left, newest]


async def test_a_page_token_is_good_for_its_own_query_only(fronts):
    front = await fronts.start(models=("small", "other"), queue={"running_limit_per_model": 1})
    await front.held()
    for _ in range(4):
        await front.enqueue()
    query: dict[str, Any] = {"states": [QUEUED, RUNNING], "model": "small", "order": "JOB_ORDER_ASC"}
    token = (await front.list(**query, page_size=2)).next_page_token
    again = await front.list(**query, page_size=2, page_token=token)
    assert again == await front.list(**query, page_size=2, page_token=token)
    # The size of the page and the order of the states are no part of what is asked for.
    assert (await front.list(**query, page_size=1, page_token=token)).jobs[0] == again.jobs[0]
    await front.list(**{**query, "states": [RUNNING, QUEUED, QUEUED]}, page_token=token)

    other_queries: list[dict[str, Any]] = [
        {},
        {**query, "order": "JOB_ORDER_DESC"},
        {**query, "states": [QUEUED]},
        {**query, "states": []},
        {**query, "model": "other"},
        {**query, "model": ""},
    ]
    for other in other_queries:
        failed = await failure(front.list(**other, page_token=token))
        assert (failed.code, failed.field) == (Code.INVALID_ARGUMENT, "page_token"), other
    garbage = [
        "x",
        "====",
        token[:-1],
        token[:-4],
        token + "AAAA",
        token + "\n",
        "A" * 24,
        token.swapcase(),
        "é🙂" * 10,
        "\0",
        " " + token,
        "' OR 1=1 --",
        "A" * 512,
        # The longest numbers, with a good check.
        "_" * 8 + token[8:],
        "fw" + "_" * 6 + token[8:],
    ]
    for text in garbage:
        call = front.list(**query, page_token=text)
        if text[8:] == token[8:]:
            # What is sealed is the query, not the place: any place will do, but an error is no answer.
            with contextlib.suppress(grpc.aio.AioRpcError):
                await call
                continue
            call = front.list(**query, page_token=text)
        failed = await failure(call)
        assert (failed.code, failed.field) == (Code.INVALID_ARGUMENT, "page_token"), text


# --- cancelling and deleting


async def test_what_has_not_ended_can_be_cancelled_and_nothing_else(fronts):
    front = await fronts.start(queue=ONE)
    jobs = await one_of_each_state(front)
    delayed = await front.enqueue(not_before=Timestamp(seconds=int(time.time()) + 1000))
    for job in (jobs.pop(QUEUED), delayed, jobs.pop(RUNNING)):
        cancelled = await front.cancel(job)
        assert cancelled.state == CANCELLED
        assert cancelled.HasField("finish_time") and cancelled.HasField("purge_time")
        assert not cancelled.HasField("queue_position") and not cancelled.HasField("retry_after")
        assert failure_of(cancelled.error) == Failure(
            Code.CANCELLED, "the job was cancelled", "JOB_CANCELLED", {}
        )
        jobs[CANCELLED] = cancelled
        assert await front.get(job) == cancelled
        failed = await failure(front.cancel(job))
        assert (failed.code, failed.metadata) == (
            Code.FAILED_PRECONDITION,
            {"id": job.id, "state": "cancelled"},
        )
    # The engine has stopped, and what is queued goes on.
    await eventually(lambda: front.runtime.running == 0)
    assert front.runtime.cancelled == 1
    front.runtime.gate.set()
    assert (await front.ended(await front.enqueue())).state == SUCCEEDED

    names = {SUCCEEDED: "succeeded", FAILED: "failed", CANCELLED: "cancelled", EXPIRED: "expired"}
    assert jobs.keys() == names.keys()
    for state, job in jobs.items():
        failed = await failure(front.cancel(job))
        assert (failed.code, failed.reason) == (Code.FAILED_PRECONDITION, "JOB_ENDED")
        assert names[state] in failed.message
        assert failed.metadata == {"id": job.id, "state": names[state]}
        assert await front.get(job) == job


async def test_cancelling_at_once_and_by_many_is_done_once(fronts):
    front = await fronts.start()
    other = await fronts.start(runtimes=front.runtimes)
    job = await front.held()
    outcomes = await asyncio.gather(
        *(each.cancel(job) for each in (front, other) * 5), return_exceptions=True
    )
    assert [outcome.state for outcome in outcomes if isinstance(outcome, queue_pb2.Job)] == [CANCELLED]
    codes = {error.code() for error in outcomes if isinstance(error, grpc.aio.AioRpcError)}
    assert codes == {Code.FAILED_PRECONDITION}
    await eventually(lambda: front.runtime.running == 0)
    front.runtime.gate.set()
    for _ in range(10):
        job = await front.enqueue(max_tokens=1)
        with contextlib.suppress(grpc.aio.AioRpcError):
            await other.cancel(job)
        done = await front.ended(job)
        assert done.state in (SUCCEEDED, CANCELLED)
        assert (done.state == SUCCEEDED) == done.HasField("completion")


async def test_jobs_are_deleted_in_every_state(fronts):
    front = await fronts.start(queue=ONE)
    jobs = await one_of_each_state(front)
    delayed = await front.enqueue(not_before=Timestamp(seconds=int(time.time()) + 1000))
    left = {job.id for job in jobs.values()}
    left.add(delayed.id)
    for job in (*jobs.values(), delayed):
        deleted = await front.delete(job)
        assert (deleted.id, deleted.deleted) == (job.id, True)
        left.remove(job.id)
        calls = [front.get(job), front.get(job, wait_seconds=1), front.ended(job), front.cancel(job)]
        for call in (*calls, front.delete(job), events_of(front.watch(job))):
            failed = await failure(call)
            assert (failed.code, failed.reason, failed.field) == (Code.NOT_FOUND, "JOB_NOT_FOUND", "id")
            assert failed.metadata == {"id": job.id}
        assert {found.id for found in (await front.list()).jobs} == left
    await eventually(lambda: front.runtime.running == 0)
    assert (await front.stats()).running == (await front.stats()).queued == 0
    front.runtime.gate.set()
    assert (await front.ended(await front.enqueue())).state == SUCCEEDED


async def test_the_request_id_of_a_deleted_job_is_free(fronts):
    front = await fronts.start()
    first = await front.ended(await front.enqueue(request_id="mine"))
    assert first.request_id == "mine"
    await front.delete(first)
    second = await front.enqueue("another body", request_id="mine")
    assert second.id != first.id
    assert (await front.ended(second)).state == SUCCEEDED
    assert (await front.enqueue("another body", request_id="mine")).id == second.id


async def test_stats(fronts):
    front = await fronts.start(
        models=("small", "other"), queue={"running_limit": 3, "running_limits": {"small": 2}}
    )
    nothing = await front.stats()
    assert (list(nothing.models), nothing.queued, nothing.running, nothing.running_limit) == ([], 0, 0, 3)
    for _ in range(2):
        await front.held()
    other = await front.held(model="other")
    waiting = [await front.enqueue() for _ in range(2)]
    delayed = await front.enqueue(model="other", not_before=Timestamp(seconds=int(time.time()) + 1000))
    stats = await front.stats()
    assert (stats.queued, stats.running, stats.running_limit) == (3, 3, 3)
    assert [(model.model, model.queued, model.running, model.running_limit) for model in stats.models] == [
        ("other", 1, 1, 16),
        ("small", 2, 2, 2),
    ]
    # Of those whose time has come.
    assert not stats.models[0].HasField("oldest_queued_time")
    oldest = stats.models[1].oldest_queued_time.ToMicroseconds()
    assert abs(oldest - waiting[0].create_time.ToMicroseconds()) < 1_000_000
    for job in (*waiting, delayed, other):
        await front.delete(job)
    stats = await front.stats()
    assert [(model.model, model.queued, model.running) for model in stats.models] == [("small", 0, 2)]
    assert not stats.models[0].HasField("oldest_queued_time")


# --- what is refused

LONG = "x" * 513
PRIVATE = [
    "http://127.0.0.1/",
    "http://localhost/x",
    "https://10.0.0.1/",
    "http://[::1]/",
    "http://2130706433/",
]
PRIVATE += ["http://169.254.169.254/latest/meta-data", "http://[::ffff:10.0.0.1]/", "http://0x7f.1/"]
NO_URLS = ["ftp://example.com/", "example.com", "http://", "https://user:pw@example.com/", "http://a b/", "x"]
NO_URLS += ["http://example.com:99999/", "javascript:alert(1)", "file:///etc/passwd", "http://e.com/\0"]
SECRETS = ["", "x", "whsec_", "whsec_!!!!", "whsec_c2hvcnQ=", "WHSEC_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]
SECRETS += ["whsec_" + "A" * 90, "a-secret-that-must-not-be-echoed"]
URL = "https://hooks.example.com/x"

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"priority": 1_000_001}, "priority"),
    ({"priority": -1_000_001}, "priority"),
    ({"priority": 2**31 - 1}, "priority"),
    ({"max_attempts": 0}, "max_attempts"),
    ({"max_attempts": 101}, "max_attempts"),
    ({"wait_seconds": 3601}, "wait_seconds"),
    ({"request_id": ""}, "request_id"),
    ({"request_id": "x" * 256}, "request_id"),
    ({"expires_after": Duration()}, "expires_after"),
    ({"expires_after": Duration(seconds=-1)}, "expires_after"),
    ({"expires_after": Duration(nanos=-1)}, "expires_after"),
    ({"expires_after": Duration(seconds=31 * 86400)}, "expires_after"),
    ({"expires_after": Duration(seconds=30 * 86400, nanos=1)}, "expires_after"),
    ({"expires_after": Duration(seconds=2**63 - 1)}, "expires_after"),
    ({"expires_after": Duration(seconds=-(2**63))}, "expires_after"),
    ({"expires_after": Duration(seconds=1, nanos=-1)}, "expires_after"),
    ({"expires_after": Duration(seconds=1, nanos=2**31 - 1)}, "expires_after"),
    ({"not_before": Timestamp(seconds=2**63 - 1)}, "not_before"),
    ({"not_before": Timestamp(seconds=-(2**63))}, "not_before"),
    ({"not_before": Timestamp(seconds=253402300800)}, "not_before"),
    ({"not_before": Timestamp(seconds=1, nanos=-1)}, "not_before"),
    ({"not_before": Timestamp(seconds=1, nanos=10**9)}, "not_before"),
    ({"webhook": {}}, "webhook.url"),
    ({"webhook": {"url": URL}}, "webhook.secret"),
    ({"webhook": {"url": URL + "x" * 2048, "secret": WHSEC}}, "webhook.url"),
    ({"webhook": {"url": URL, "secret": "x" * 129}}, "webhook.secret"),
    *(({"webhook": {"url": url, "secret": WHSEC}}, "webhook.url") for url in PRIVATE + NO_URLS),
    *(({"webhook": {"url": URL, "secret": secret}}, "webhook.secret") for secret in SECRETS),
    # The conversation's own fields are named as in a chat completion.
    ({"model": ""}, "model"),
    ({"model": LONG}, "model"),
    ({"messages": []}, "messages"),
    ({"messages": [{}]}, "messages[0].role"),
    ({"temperature": 9}, "temperature"),
    ({"temperature": float("nan")}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"stop": ["x"] * 33}, "stop"),
    ({"stop": ["x" * 1025]}, "stop[0]"),
    ({"top_logprobs": 5}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"logit_bias": {5: 101}}, 'logit_bias["5"]'),
    ({"tool_choice": {"mode": "TOOL_CHOICE_MODE_REQUIRED"}}, "tool_choice"),
    ({"regex": "a", "ebnf": "b"}, "ebnf"),
]


async def test_bad_jobs_are_refused_and_nothing_is_queued(fronts):
    front = await fronts.start()
    for fields, field in REFUSED:
        failed = await failure(front.enqueue(**fields))
        assert failed.code is Code.INVALID_ARGUMENT, (fields, failed)
        assert failed.field is not None and (failed.field == field or field == "ebnf"), (fields, failed)
        secret = fields.get("webhook", {}).get("secret")
        if secret and len(secret) > 6:
            assert secret not in str(failed)
        watched = await failure(events_of(front.queue.EnqueueAndWatch(enqueue(**fields), timeout=PATIENCE)))
        assert watched == failed
    failed = await failure(front.queue.Enqueue(queue_pb2.EnqueueRequest(), timeout=PATIENCE))
    assert (failed.code, failed.field, failed.reason) == (
        Code.INVALID_ARGUMENT,
        "model",
        "REQUIRED_FIELD_MISSING",
    )
    unknown = await failure(front.enqueue(model="unknown"))
    assert (unknown.code, unknown.field) == (Code.NOT_FOUND, "model")
    # As chat itself says it.
    too_long = chat("x " * 2000)
    expected = await failure(front.chat.CreateChatCompletion(too_long, timeout=PATIENCE))
    failed = await failure(front.queue.Enqueue(queue_pb2.EnqueueRequest(request=too_long), timeout=PATIENCE))
    assert failed == expected
    assert failed.code is Code.INVALID_ARGUMENT
    assert (await front.list()).jobs == []
    assert len(front.runtime.requests) == 0


async def test_the_bounds_of_what_is_taken_are_taken(fronts):
    front = await fronts.start(queue={"running_limit": 1})
    await front.held()
    later = Timestamp(seconds=253402300799, nanos=999999999)
    for fields in (
        {"priority": 1_000_000},
        {"priority": -1_000_000},
        {"max_attempts": 1},
        {"max_attempts": 100},
        {"request_id": "x" * 255},
        {"request_id": "né 🙂 ' \" % \\ \n"},
        {"expires_after": Duration(seconds=30 * 86400)},
        {"not_before": later},
        {"not_before": Timestamp(seconds=-62135596800)},
        {"not_before": Timestamp(seconds=1, nanos=5)},
        {"webhook": {"url": URL, "secret": WHSEC}},
        {"webhook": {"url": "https://hooks.example.com/" + "x" * 2022, "secret": WHSEC}},
        {"text": "\0 \x1b[31m ' \u202e 🙂 \uffff"},
        {"text": ""},
    ):
        job = await front.enqueue(**fields)
        assert job.state == QUEUED
        found = await front.get(job)
        assert found == job
        for name in ("priority", "max_attempts", "request_id"):
            if name in fields:
                assert getattr(found, name) == fields[name]
        if "webhook" in fields:
            assert found.webhook.url == fields["webhook"]["url"]
            assert found.webhook.state == queue_pb2.DELIVERY_STATE_PENDING
            assert WHSEC not in str(found)
        if "not_before" in fields:
            assert found.not_before.ToMicroseconds() == fields["not_before"].ToMicroseconds()
        if "expires_after" in fields:
            stays = found.expire_time.ToMicroseconds() - found.create_time.ToMicroseconds()
            assert stays == fields["expires_after"].ToMicroseconds()


async def test_a_request_id_of_any_text_is_stored_or_refused(fronts):
    front = await fronts.start()
    for request_id in ("\0", "a\0b", "\x7f", "\ufeff", " "):
        try:
            job = await front.enqueue(request_id=request_id)
        except grpc.aio.AioRpcError as error:
            assert error.code() is Code.INVALID_ARGUMENT, (request_id, error)
        else:
            assert job.request_id == request_id
            assert (await front.enqueue(request_id=request_id)).id == job.id


GARBAGE_IDS = [
    "x",
    "chatcmpl-",
    "chatcmpl-" + "0" * 32,
    "chatcmpl-" + "f" * 32,
    "chatcmpl-" + "7" + "f" * 31,
    "chatcmpl-" + "0" * 31,
    "chatcmpl-" + "0" * 33,
    "CHATCMPL-" + "0" * 32,
    "chatcmpl-" + "G" * 32,
    "chatcmpl-" + "٣" * 32,
    "chatcmpl-" + "0" * 32 + "\n",
    "' OR 1=1 --",
    "\0",
    "né🙂",
    "../../etc/passwd",
    "%00",
    "1",
    "-1",
    "x" * 128,
]


async def test_ids_of_no_job_are_not_found(fronts):
    front = await fronts.start()
    job = await front.ended(await front.enqueue())
    nearly = job.id[:-1] + ("0" if job.id[-1] != "0" else "1")
    for garbage in (*GARBAGE_IDS, nearly, job.id.upper(), " " + job.id, job.id + " "):
        calls = [front.get(garbage), front.get(garbage, wait_seconds=1), front.ended(garbage)]
        calls += [front.cancel(garbage), front.delete(garbage), events_of(front.watch(garbage))]
        for failed in await asyncio.gather(*map(failure, calls)):
            assert (failed.code, failed.field) == (Code.NOT_FOUND, "id"), garbage
    for bad in ("", "x" * 129, "x" * 1_000_000):
        calls = [front.get(bad), front.ended(bad), front.cancel(bad), front.delete(bad)]
        for failed in await asyncio.gather(*map(failure, [*calls, events_of(front.watch(bad))])):
            assert (failed.code, failed.field) == (Code.INVALID_ARGUMENT, "id")
            assert len(failed.message) < 1000
    assert await front.get(job) == job


async def test_bad_lists_and_waits_are_refused(fronts):
    front = await fronts.start()
    job = await front.ended(await front.enqueue())
    for fields, field in (
        ({"page_size": 0}, "limit"),
        ({"page_size": 101}, "limit"),
        ({"page_size": 2**32 - 1}, "limit"),
        ({"page_token": "x" * 513}, "page_token"),
        ({"page_token": "x", "after": job.id}, "page_token"),
        ({"after": "x" * 129}, "after"),
        ({"after": "garbage"}, "after"),
        ({"after": "\0"}, "after"),
        ({"after": "chatcmpl-" + "f" * 32}, "after"),
        ({"states": [0]}, "status[0]"),
        ({"states": [1, 99]}, "status[1]"),
        ({"states": [1] * 17}, "status"),
        ({"model": "x" * 513}, "model"),
    ):
        failed = await failure(front.list(**fields))
        assert (failed.code, failed.field) == (Code.INVALID_ARGUMENT, field), fields
    unknown = await failure(front.list(model="unknown"))
    assert (unknown.code, unknown.field) == (Code.NOT_FOUND, "model")
    for timeout in (Duration(seconds=-1), Duration(nanos=-1), Duration(seconds=2**63 - 1)):
        failed = await failure(
            front.queue.Wait(queue_pb2.WaitJobRequest(id=job.id, timeout=timeout), timeout=PATIENCE)
        )
        assert (failed.code, failed.field) == (Code.INVALID_ARGUMENT, "timeout")
    failed = await failure(front.get(job, wait_seconds=3601))
    assert (failed.code, failed.field) == (Code.INVALID_ARGUMENT, "wait_seconds")


# --- the caller's own ids

Metadata = tuple[tuple[str, str], ...]


async def test_the_same_request_id_is_the_same_job_and_runs_once(fronts):
    front = await fronts.start()
    front.runtime.gate.clear()
    first = await front.enqueue(request_id="a", priority=2)
    for fields in ({}, {"wait_seconds": 0}, {"wait_seconds": 1}):
        again = await front.enqueue(request_id="a", priority=2, **fields)
        assert (again.id, again.request_id) == (first.id, "a")
    key: Metadata = (("idempotency-key", "a"),)
    assert (await front.enqueue(priority=2, metadata=key)).id == first.id
    assert (await front.enqueue(request_id="a", priority=2, metadata=key)).id == first.id
    front.runtime.gate.set()
    done = await front.ended(first)
    assert await front.enqueue(request_id="a", priority=2) == done
    assert await front.enqueue(request_id="a", priority=2, wait_seconds=5) == done
    assert len(front.runtime.requests) == 1

    for other in (
        {"text": "other"},
        {"priority": 3},
        {"temperature": 0.5},
        {"max_attempts": 2},
        {"expires_after": {"seconds": 5}},
        {"not_before": {"seconds": 5}},
        {"model": "org/small"},
        {"webhook": {"url": URL, "secret": WHSEC}},
    ):
        failed = await failure(front.enqueue(**{"request_id": "a", "priority": 2, **other}))
        assert (failed.code, failed.reason) == (Code.ALREADY_EXISTS, "REQUEST_ID_REUSED"), other
        assert (failed.field, failed.metadata) == ("request_id", {"id": first.id})
    differ = await failure(front.enqueue(request_id="b", metadata=key))
    assert (differ.code, differ.field) == (Code.INVALID_ARGUMENT, "request_id")
    for bad in ("", "x" * 256):
        failed = await failure(front.enqueue(metadata=(("idempotency-key", bad),)))
        assert (failed.code, failed.field) == (Code.INVALID_ARGUMENT, "request_id")
    assert [job.id for job in (await front.list()).jobs] == [first.id]


async def test_a_request_id_stands_also_for_a_job_that_failed_or_was_cancelled(fronts):
    front = await fronts.start(refuses())
    failed = await front.ended(await front.enqueue(request_id="f"))
    assert await front.enqueue(request_id="f") == failed
    cancelled = await front.enqueue(request_id="c", not_before={"seconds": int(time.time()) + 1000})
    await front.cancel(cancelled)
    again = await front.enqueue(request_id="c", not_before={"seconds": cancelled.not_before.seconds})
    assert (again.id, again.state) == (cancelled.id, CANCELLED)
    assert len(front.runtime.requests) == 1


async def test_the_same_request_id_many_times_at_once_over_two_fronts_runs_once(fronts):
    first = await fronts.start()
    second = await fronts.start(runtimes=first.runtimes)
    jobs = await asyncio.gather(
        *(
            (first, second)[i % 2].enqueue(request_id="once", wait_seconds=30 * (i % 3 == 0))
            for i in range(30)
        )
    )
    assert len({job.id for job in jobs}) == 1
    assert (await first.ended(jobs[0])).state == SUCCEEDED
    assert len(first.runtime.requests) == 1
    assert len((await second.list()).jobs) == 1

    # Of different requests with one id, one is taken.
    outcomes = await asyncio.gather(
        *((first, second)[i % 2].enqueue(str(i), request_id="race") for i in range(30)),
        return_exceptions=True,
    )
    [taken] = [outcome for outcome in outcomes if isinstance(outcome, queue_pb2.Job)]
    codes = [error.code() for error in outcomes if isinstance(error, grpc.aio.AioRpcError)]
    assert codes == [Code.ALREADY_EXISTS] * 29
    await first.ended(taken)
    assert len(first.runtime.requests) == 2


async def test_callers_have_request_ids_of_their_own(fronts):
    front = await fronts.start()
    callers: list[Metadata] = [(), (("authorization", "Bearer a"),), (("authorization", "Bearer b"),)]
    jobs = [await front.enqueue(request_id="same", metadata=caller) for caller in callers]
    assert len({job.id for job in jobs}) == 3
    for job, caller in zip(jobs, callers, strict=True):
        assert (await front.enqueue(request_id="same", metadata=caller)).id == job.id
        failed = await failure(front.enqueue("other", request_id="same", metadata=caller))
        assert (failed.code, failed.metadata) == (Code.ALREADY_EXISTS, {"id": job.id})
