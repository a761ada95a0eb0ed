"""Request ids: one id is one job, for each caller, in all processes."""

import asyncio
import time

import grpc

from inferd.v1 import queue_pb2
from tests.queue.jobs import (
    CANCELLED,
    SUCCEEDED,
    WEBHOOK_SECRET,
    WEBHOOK_URL,
    failure,
    refuses,
)

Code = grpc.StatusCode


Metadata = tuple[tuple[str, str], ...]


async def test_the_same_request_id_is_the_same_job_and_runs_once(fronts):
    front = await fronts.start()
    front.runtime.gate.clear()
    first = await front.enqueue(request_id="a", priority=2)
    for fields in ({}, {"wait": {"seconds": 0}}, {"wait": {"seconds": 1}}):
        again = await front.enqueue(request_id="a", priority=2, **fields)
        assert (again.id, again.request_id) == (first.id, "a")
    key: Metadata = (("idempotency-key", "a"),)
    assert (await front.enqueue(priority=2, metadata=key)).id == first.id
    assert (await front.enqueue(request_id="a", priority=2, metadata=key)).id == first.id
    front.runtime.gate.set()
    done = await front.ended(first)
    assert await front.enqueue(request_id="a", priority=2) == done
    assert await front.enqueue(request_id="a", priority=2, wait={"seconds": 5}) == done
    assert len(front.runtime.requests) == 1

    for other in (
        {"text": "other"},
        {"priority": 3},
        {"temperature": 0.5},
        {"max_attempts": 2},
        {"expires_after": {"seconds": 5}},
        {"not_before": {"seconds": 5}},
        {"model": "org/small"},
        {"webhook": {"url": WEBHOOK_URL, "secret": WEBHOOK_SECRET}},
    ):
        failed = await failure(front.enqueue(**{"request_id": "a", "priority": 2, **other}))
        assert (failed.code, failed.reason) == (Code.ALREADY_EXISTS, "REQUEST_ID_REUSED"), other
        assert (failed.field, failed.metadata) == ("request_id", {"id": first.id})
    differ = await failure(front.enqueue(request_id="b", metadata=key))
    assert (differ.code, differ.field) == (Code.INVALID_ARGUMENT, "request_id")
    for bad in ("", "x" * 256):
        # The metadata takes the same ids as the field: gRPC itself refuses other characters.
        assert (await failure(front.enqueue(request_id=bad))).field == "request_id"
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
            (first, second)[i % 2].enqueue(request_id="once", wait={"seconds": 30 * (i % 3 == 0)})
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
