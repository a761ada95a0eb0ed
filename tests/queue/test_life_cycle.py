"""A job as gRPC clients see it: enqueued, answered, cancelled, deleted and counted."""

import asyncio
import contextlib
import re
import time
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from inferd.v1 import queue_pb2
from tests.doubles.simulated_scheduler import fixed
from tests.queue.jobs import (
    CANCELLED,
    EXPIRED,
    FAILED,
    ONE_AT_A_TIME,
    PATIENCE,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    Failure,
    Front,
    chat,
    chunks_in,
    enqueue,
    events_of,
    eventually,
    failure,
    failure_of,
    one_of_each_state,
    text_of,
)

Code = grpc.StatusCode


def says(small_text, text: str, **settings: Any):
    return fixed([*small_text.tokenizer.encode(text, add_special_tokens=False), 2], **settings)


async def test_a_job_from_its_queuing_to_its_answer(fronts):
    front = await fronts.start(queue={**ONE_AT_A_TIME, "result_ttl": 1000})
    holder = await front.held()
    job = await front.enqueue("Hello world", model="org/small")
    assert re.fullmatch("chatcmpl-[0-9a-f]{32}", job.id)
    assert (job.state, job.queue_position, job.priority, job.model) == (QUEUED, 1, 0, "org/small")
    assert (job.attempts, job.lost_attempts, job.max_attempts) == (0, 0, 3)
    assert abs(job.create_time.seconds - time.time()) < PATIENCE
    assert job.retry_after.seconds >= 1
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
    assert (done.id, done.create_time) == (job.id, job.create_time)
    assert (done.attempts, done.lost_attempts) == (1, 0)
    answer = done.completion
    assert (answer.id, answer.model) == (job.id, "org/small")
    assert (answer.create_time.seconds, answer.create_time.nanos) == (job.create_time.seconds, 0)
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
    front = await fronts.start(queue=ONE_AT_A_TIME)
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
    front = await fronts.start(queue=ONE_AT_A_TIME)
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
    front = await fronts.start(queue=ONE_AT_A_TIME)
    await front.held()
    jobs = await asyncio.gather(*(front.enqueue(str(i), priority=i % 3) for i in range(30)))
    ordered = sorted(jobs, key=lambda job: (-job.priority, job.id))
    assert [(await front.get(job)).queue_position for job in ordered] == list(range(1, 31))
    assert all(job.queue_position >= 1 for job in jobs)


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
    copy.ClearField("create_time")
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


async def test_what_has_not_ended_can_be_cancelled_and_nothing_else(fronts):
    front = await fronts.start(queue=ONE_AT_A_TIME)
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
    front = await fronts.start(queue=ONE_AT_A_TIME)
    jobs = await one_of_each_state(front)
    delayed = await front.enqueue(not_before=Timestamp(seconds=int(time.time()) + 1000))
    left = {job.id for job in jobs.values()}
    left.add(delayed.id)
    for job in (*jobs.values(), delayed):
        deleted = await front.delete(job)
        assert (deleted.id, deleted.deleted) == (job.id, True)
        left.remove(job.id)
        calls = [front.get(job), front.get(job, wait={"seconds": 1}), front.ended(job), front.cancel(job)]
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
