"""The order of jobs, limits, retries, and the speed of long queues."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import grpc
import pytest
import sqlalchemy as sa
from google.protobuf.timestamp_pb2 import Timestamp

from inferd.services.queue import claims, queries, submission, sweep
from inferd.services.queue.database import Database, Transaction
from inferd.services.queue.postgres import PostgresDatabase
from inferd.services.queue.sqlite import SqliteDatabase
from inferd.v1 import queue_pb2
from tests.doubles.simulated_scheduler import Fault, Reply, echo
from tests.queue.jobs import (
    CANCELLED,
    EXPIRED,
    FAILED,
    ONE_AT_A_TIME,
    PATIENCE,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    chat,
    chunks_in,
    events_of,
    eventually,
    failure,
    failure_of,
    text_of,
)

Code = grpc.StatusCode


def soon(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(int((time.time() + seconds) * 1e6))
    return stamp


# --- the order


@pytest.mark.parametrize("number_of_fronts", [1, 2])
async def test_jobs_start_by_priority_and_in_the_order_of_their_coming(fronts, number_of_fronts):
    first = await fronts.start(queue=ONE_AT_A_TIME)
    all_fronts = [first]
    if number_of_fronts == 2:
        all_fronts.append(await fronts.start(queue=ONE_AT_A_TIME, runtimes=first.runtimes))
    await first.held()
    priorities = [0, 5, -5, 0, 1_000_000, -1_000_000, 5, 1] * 5
    jobs = [
        await front.enqueue(f"{number}", priority=priority)
        for number, (priority, front) in enumerate(zip(priorities, itertools.cycle(all_fronts), strict=False))
    ]
    numbers = sorted(range(len(jobs)), key=lambda number: (-priorities[number], number))
    assert [(await first.get(jobs[number])).queue_position for number in numbers[::8]] == [
        place + 1 for place in range(0, 40, 8)
    ]
    first.runtime.gate.set()
    done = [await first.ended(jobs[number]) for number in numbers]
    assert {job.state for job in done} == {SUCCEEDED}
    assert first.runtime.prompts() == ["holds", *map(str, numbers)]
    starts = [job.start_time.ToMicroseconds() for job in done]
    assert starts == sorted(starts)


async def test_a_job_does_not_start_before_its_time(fronts):
    front = await fronts.start(queue=ONE_AT_A_TIME)
    times = {"a": soon(2), "b": soon(1)}
    jobs = {name: await front.enqueue(name, not_before=stamp) for name, stamp in times.items()}
    assert {(job.state, job.not_before.ToMicroseconds()) for job in jobs.values()} == {
        (QUEUED, stamp.ToMicroseconds()) for stamp in times.values()
    }
    past = await front.enqueue("past", not_before=soon(-1000))
    assert (await front.ended(past)).state == SUCCEEDED
    done = {name: await front.ended(job) for name, job in jobs.items()}
    for name, stamp in times.items():
        assert done[name].start_time.ToMicroseconds() >= stamp.ToMicroseconds()
        assert done[name].not_before == jobs[name].not_before
    assert front.runtime.prompts() == ["past", "b", "a"]


async def test_a_job_that_is_due_stands_by_its_priority_and_age(fronts):
    front = await fronts.start(queue=ONE_AT_A_TIME)
    await front.held()
    early = await front.enqueue("early", not_before=soon(1))
    urgent = await front.enqueue("urgent", not_before=soon(1), priority=1)
    plain = await front.enqueue("plain")
    # While they are not due they hold nobody back.
    assert plain.queue_position == 1
    await eventually(lambda: time.time() > early.not_before.ToMicroseconds() / 1e6)

    async def due() -> bool:
        return (await front.get(plain)).queue_position == 3

    await eventually(due)
    front.runtime.gate.set()
    for job in (early, urgent, plain):
        await front.ended(job)
    assert front.runtime.prompts() == ["holds", "urgent", "early", "plain"]


# --- its time is up


async def test_jobs_expire_wherever_they_stand(fronts):
    front = await fronts.start(queue=ONE_AT_A_TIME)
    front.runtime.gate.clear()
    limits = {"expires_after": {"seconds": 1}}
    running = await front.reaches(await front.enqueue("runs", expires_after={"seconds": 4}), RUNNING)
    queued = await front.enqueue("queued", **limits)
    delayed = await front.enqueue("delayed", **limits, not_before=soon(0.9))
    stays = await front.enqueue("stays", expires_after={"seconds": 1000})
    for job in (queued, delayed, running):
        done = await front.ended(job)
        assert done.state == EXPIRED
        assert failure_of(done.error).code is Code.DEADLINE_EXCEEDED
        assert failure_of(done.error).reason == "JOB_EXPIRED"
        assert done.finish_time.ToMicroseconds() >= done.expire_time.ToMicroseconds()
        assert not done.HasField("completion")
    # The engine has stopped, and who is next goes on.
    await front.reaches(stays, RUNNING)
    await eventually(lambda: front.runtime.running == 1)
    assert front.runtime.cancelled == 1
    front.runtime.gate.set()
    assert (await front.ended(stays)).state == SUCCEEDED
    assert front.runtime.prompts() == ["runs", "stays"]


async def test_an_ended_job_does_not_expire(fronts):
    front = await fronts.start()
    done = await front.ended(await front.enqueue(expires_after={"seconds": 2}))
    assert done.state == SUCCEEDED
    await eventually(lambda: time.time() > done.expire_time.ToMicroseconds() / 1e6 + 2)
    assert await front.get(done) == done


async def test_results_are_purged_when_they_were_kept_long_enough(fronts, monkeypatch):
    monkeypatch.setattr("inferd.services.queue.job_queue._PURGE_INTERVAL", 0.1)
    front = await fronts.start(queue={"result_ttl": 1})
    job = await front.enqueue(request_id="mine")
    await front.ended(job)

    async def gone() -> bool:
        return not (await front.list()).jobs

    await eventually(gone)
    assert (await failure(front.get(job))).code is Code.NOT_FOUND
    assert (await front.enqueue("another", request_id="mine")).id != job.id


# --- how many run


class Meter:
    """A script, and the greatest number of its answers that were under way at once."""

    def __init__(self, runtimes: Mapping[str, Any]) -> None:
        self._runtimes = runtimes
        self._reply = echo(first_token_delay=0.02)
        self.most: dict[str, int] = {}

    def __call__(self, request: Any) -> Reply:
        # The one that asks is counted already.
        running = {name: runtime.running for name, runtime in self._runtimes.items()}
        running["total"] = sum(running.values())
        self.most = {name: max(self.most.get(name, 0), count) for name, count in running.items()}
        return self._reply(request)


async def test_the_limits_hold_over_all_fronts_and_are_used(fronts):
    runtimes: dict[str, Any] = {}
    meter = Meter(runtimes)
    limits = {"running_limit": 5, "running_limits": {"small": 2}, "running_limit_per_model": 4}
    first = await fronts.start(meter, models=("small", "other"), queue=limits)
    runtimes |= first.runtimes
    second = await fronts.start(queue=limits, runtimes=first.runtimes)
    jobs = await asyncio.gather(
        *(
            front.enqueue(str(number), model=model)
            for number in range(15)
            for front in (first, second)
            for model in ("small", "other")
        )
    )
    for job in jobs:
        assert (await second.ended(job)).state == SUCCEEDED
    assert meter.most["small"] <= 2
    assert meter.most["other"] <= 4
    assert meter.most["total"] <= 5
    assert meter.most["other"] > 1
    assert sum(len(runtime.requests) for runtime in runtimes.values()) == 60


async def test_a_full_model_does_not_hold_back_another(fronts):
    front = await fronts.start(models=("small", "other"), queue={"running_limit_per_model": 1})
    holder = await front.held()
    waiting = [await front.enqueue(priority=100) for _ in range(3)]
    for _ in range(3):
        assert (await front.ended(await front.enqueue(model="other", priority=-100))).state == SUCCEEDED
    assert [(await front.get(job)).queue_position for job in waiting] == [1, 2, 3]
    assert (await front.get(holder)).state == RUNNING
    front.runtime.gate.set()


async def test_the_total_limit_holds_over_models(fronts):
    front = await fronts.start(models=("small", "other"), queue={"running_limit": 2})
    await front.held()
    await front.held(model="other")
    low = await front.enqueue("low", model="other")
    high = await front.enqueue("high", priority=1)
    await asyncio.sleep(0.3)
    assert {(await front.get(job)).state for job in (low, high)} == {QUEUED}
    assert (await front.stats()).running == 2
    for runtime in front.runtimes.values():
        runtime.gate.set()
    for job in (low, high):
        assert (await front.ended(job)).state == SUCCEEDED


async def test_jobs_of_several_answers_and_models_out_of_reach(fronts):
    front = await fronts.start(models=("small", "other"))
    # A model that does not serve holds back nothing but its own jobs, which are kept for it.
    await front.runtimes["other"].stop()
    waits = await front.enqueue(model="other", n=2)
    assert (await front.ended(await front.enqueue(n=2))).state == SUCCEEDED
    await asyncio.sleep(0.3)
    assert (await front.get(waits)).state in (QUEUED, RUNNING)
    await front.runtimes["other"].start()
    done = await front.ended(waits)
    assert (done.state, len(done.completion.choices)) == (SUCCEEDED, 2)
    assert done.attempts == 1


# --- how many wait


async def test_a_full_queue_takes_no_more(fronts):
    front = await fronts.start(queue={**ONE_AT_A_TIME, "max_queued": 3})
    await front.held()
    jobs = [await front.enqueue("kept", request_id="a"), await front.enqueue(not_before=soon(1000))]
    jobs.append(await front.enqueue())
    for _ in range(2):
        refused = await failure(front.enqueue("more"))
        assert (refused.code, refused.reason) == (Code.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert refused.metadata == {"limit": "3"}
        assert refused.retry_after is not None and refused.retry_after > 0
    # One that was queued before is no new one.
    assert (await front.enqueue("kept", request_id="a")).id == jobs[0].id
    await front.cancel(jobs[1])
    outcomes = await asyncio.gather(*(front.enqueue() for _ in range(10)), return_exceptions=True)
    assert sum(isinstance(outcome, queue_pb2.Job) for outcome in outcomes) == 1
    front.runtime.gate.set()
    await front.ended(jobs[2])

    async def empty() -> bool:
        return (await front.stats()).queued == 0

    await eventually(empty)
    assert (await front.enqueue()).state == QUEUED


async def test_a_caller_who_has_queued_enough_holds_back_nobody_else(fronts):
    front = await fronts.start(queue={**ONE_AT_A_TIME, "max_queued_per_caller": 2})
    other = await fronts.start(runtimes=front.runtimes, queue={**ONE_AT_A_TIME, "max_queued_per_caller": 2})
    await front.held()
    a, b = ((("authorization", f"Bearer {name}"),) for name in "ab")
    jobs = [await front.enqueue(metadata=a), await other.enqueue(metadata=a)]
    for each in (front, other):
        refused = await failure(each.enqueue(metadata=a))
        assert (refused.code, refused.reason) == (Code.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert refused.metadata == {"limit": "2"}
        assert "Bearer" not in refused.message
    for caller in (b, b, None, None):
        await front.enqueue(metadata=caller)
    for caller in (b, None):
        assert (await failure(front.enqueue(metadata=caller))).reason == "QUEUE_FULL"
    await front.delete(jobs[0])
    await front.enqueue(metadata=a)
    assert (await failure(front.enqueue(metadata=a))).reason == "QUEUE_FULL"


# --- those who wait come first


async def test_queued_jobs_leave_the_model_to_those_who_wait(fronts):
    front = await fronts.start(queue={"running_limit_per_model": 2})
    front.runtime.gate.clear()

    def call(text: str) -> Any:
        return front.chat.CreateChatCompletion(chat(text), timeout=PATIENCE)

    interactive = [call("interactive"), call("interactive")]
    await eventually(lambda: front.runtime.running == 2)
    jobs = [await front.enqueue("queued", priority=1_000_000) for _ in range(3)]
    await asyncio.sleep(0.5)
    assert {(await front.get(job)).state for job in jobs} == {QUEUED}
    assert front.runtime.prompts() == ["interactive"] * 2
    # One of them goes: there is room for one job.
    interactive[0].cancel()
    await eventually(lambda: len(front.runtime.requests) == 3)
    await asyncio.sleep(0.3)
    assert front.runtime.prompts() == ["interactive", "interactive", "queued"]
    # Jobs hold back nobody who waits.
    more = call("interactive")
    await eventually(lambda: len(front.runtime.requests) == 4)
    front.runtime.gate.set()
    await asyncio.gather(more, interactive[1])
    for job in jobs:
        assert (await front.ended(job)).state == SUCCEEDED


async def test_who_waits_at_one_model_does_not_hold_back_another(fronts):
    front = await fronts.start(models=("small", "other"), queue={"running_limit_per_model": 1})
    front.runtime.gate.clear()
    call = front.chat.CreateChatCompletion(chat("interactive"), timeout=PATIENCE)
    await eventually(lambda: front.runtime.running == 1)
    small = await front.enqueue(priority=5)
    assert (await front.ended(await front.enqueue(model="other"))).state == SUCCEEDED
    assert (await front.get(small)).state == QUEUED
    front.runtime.gate.set()
    await call
    assert (await front.ended(small)).state == SUCCEEDED


# --- trying again


class Failing:
    """A script that fails so many times, and then answers."""

    def __init__(self, times: int, fault: Fault) -> None:
        self.left = times
        self.fault = fault

    def __call__(self, request: Any) -> Reply:
        self.left -= 1
        return echo(fault=self.fault if self.left >= 0 else None)(request)


def breaks(code: grpc.StatusCode = Code.INTERNAL, after: int = 2) -> Fault:
    return Fault("status", after=after, code=code, details="/opt/engine.py line 5: boom")


async def test_what_may_pass_is_tried_again_with_growing_waits(fronts):
    front = await fronts.start(Failing(2, breaks()))
    job = await front.enqueue("again", max_attempts=3)
    waiting = queue_pb2.Job()

    async def failed_once() -> bool:
        waiting.CopyFrom(await front.get(job))
        return waiting.HasField("error")

    await eventually(failed_once)
    if waiting.state == QUEUED:
        assert waiting.attempts >= 1
        error = failure_of(waiting.error)
        assert (error.code, error.reason) == (Code.INTERNAL, "RUNTIME_ERROR")
        assert "engine.py" not in error.message
        assert waiting.not_before.ToMicroseconds() > job.create_time.ToMicroseconds()
        assert waiting.retry_after.seconds >= 1
    done = await front.ended(job)
    assert (done.state, done.attempts, done.lost_attempts) == (SUCCEEDED, 3, 0)
    assert not done.HasField("error")
    # Of the attempts that failed nothing is left in the answer.
    assert done.completion.usage.completion_tokens == 6
    assert (
        text_of(chunks_in(await events_of(front.watch(done)))) == done.completion.choices[0].message.content
    )
    assert front.runtime.prompts() == ["again"] * 3
    waited = done.start_time.ToMicroseconds() - job.create_time.ToMicroseconds()
    assert waited > 2_000_000


@pytest.mark.parametrize("most", [1, 2])
async def test_a_job_fails_when_its_attempts_are_used_up(fronts, most):
    front = await fronts.start(Failing(1000, breaks()))
    done = await front.ended(await front.enqueue(max_attempts=most))
    assert (done.state, done.attempts, done.lost_attempts) == (FAILED, most, 0)
    error = failure_of(done.error)
    assert (error.code, error.reason) == (Code.INTERNAL, "RUNTIME_ERROR")
    assert len(front.runtime.requests) == most


async def test_what_cannot_pass_is_tried_once(fronts):
    front = await fronts.start()
    for code in (Code.INVALID_ARGUMENT,):
        front.runtime.requests.clear()
        front.runtime.script = Failing(1, breaks(code, after=0))
        done = await front.ended(await front.enqueue(max_attempts=100))
        assert (done.state, done.attempts) == (FAILED, 1)
        assert failure_of(done.error).code is code
        assert len(front.runtime.requests) == 1


@pytest.mark.parametrize(
    "fault",
    [
        breaks(Code.UNAVAILABLE),
        breaks(Code.CANCELLED),
        breaks(Code.UNAVAILABLE, after=0),
        Fault("abort", after=1),
        breaks(Code.RESOURCE_EXHAUSTED, after=0),
    ],
    ids=["gone", "cancelled", "gone at once", "aborted", "full"],
)
async def test_what_is_not_the_jobs_fault_does_not_count(fronts, fault):
    front = await fronts.start(Failing(2, fault))
    done = await front.ended(await front.enqueue(max_attempts=1))
    assert (done.state, done.attempts, len(front.runtime.requests)) == (SUCCEEDED, 1, 3)
    assert done.lost_attempts == (0 if fault.code is Code.RESOURCE_EXHAUSTED else 2)
    assert done.completion.usage.completion_tokens == 6


async def test_an_answer_that_never_ends_is_given_up(fronts):
    front = await fronts.start(echo(fault=Fault("hang", after=2)), request_timeout=1)
    job = await front.enqueue(max_attempts=1)
    done = await front.reaches(job, FAILED)
    assert failure_of(done.error).code is Code.DEADLINE_EXCEEDED
    await eventually(lambda: front.runtime.running == 0)


async def test_a_job_that_waits_for_its_next_attempt_can_be_cancelled(fronts):
    front = await fronts.start(Failing(1000, breaks()))
    job = await front.enqueue(max_attempts=100)

    async def failed_once() -> bool:
        return (await front.get(job)).HasField("error")

    await eventually(failed_once)
    cancelled = await front.cancel(job)
    assert cancelled.state == CANCELLED
    assert failure_of(cancelled.error).reason == "JOB_CANCELLED"
    count = len(front.runtime.requests)
    front.runtime.script = echo()
    assert (await front.ended(await front.enqueue())).state == SUCCEEDED
    assert len(front.runtime.requests) == count + 1
    assert await front.get(job) == cancelled


# --- long queues

MANY = 25_000
CAPS = submission.QueueLimits(100_000, 100_000)


def item(number: int, **fields: Any) -> submission.Submission:
    given: dict[str, Any] = {
        "caller": f"caller {number % 3}",
        "request_id": f"request {number}",
        "digest": b"digest",
        "model": "other" if number % 10 == 0 else "small",
        "requested_model": "small",
        "request": chat(f"job {number}").SerializeToString(),
        "priority": number % 5,
        "run_after": 1 << 52 if number % 50 == 0 else None,
        "expires_after": 10**13 if number % 7 == 0 and number % 50 else None,
        "max_attempts": 3,
        "webhook_url": None,
        "webhook_secret": None,
    }
    return submission.Submission(**{**given, **fields})


@pytest.fixture
async def long_queue(queue_url) -> AsyncIterator[Database]:
    """A database that holds a long queue. No process runs its jobs."""
    database: Database
    if queue_url.startswith("sqlite:"):
        database = SqliteDatabase(queue_url, lambda transaction: None)
    else:
        database = PostgresDatabase(queue_url, "test")
    await database.open()
    for start in range(0, MANY, 1000):
        await database.write(submission.submit, [item(start + i) for i in range(1000)], CAPS)
    if not queue_url.startswith("sqlite:"):
        await database.write(lambda transaction: transaction.connection.exec_driver_sql("ANALYZE"))
    yield database
    await database.close()


def plans(transaction: Transaction, work: Callable[..., Any], *arguments: Any) -> list[str]:
    """How the database goes about each statement of `work`, which is done."""
    connection = transaction.connection
    if connection.dialect.name != "sqlite":
        # Nearly all jobs are queued here, so that for some questions to read them all is as good.
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
    seen: list[tuple[str, Any]] = []

    def see(
        _connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool
    ) -> None:
        seen.append((statement, parameters[0] if many else parameters))

    sa.event.listen(connection, "before_cursor_execute", see)
    work(transaction, *arguments)
    sa.event.remove(connection, "before_cursor_execute", see)
    explain = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
    return [
        f"{statement}\n\n"
        + "\n".join(
            str(row[-1]) for row in connection.exec_driver_sql(f"{explain} {statement}", tuple(values))
        )
        for statement, values in seen
        if statement.startswith(("SELECT jobs", "SELECT min", "SELECT max", "SELECT count", "UPDATE jobs"))
    ]


def page(**fields: Any) -> queries.Page:
    given: dict[str, Any] = {"size": 20, "after": None, "ascending": False, "states": [], "model": None}
    return queries.Page(**{**given, **fields})


async def test_a_long_queue_is_worked_at_by_its_indexes(long_queue):
    some = [found.job for found in (await long_queue.read(queries.list_jobs, page(size=3)))[0]]
    numbers = [job["seq"] for job in some]
    room = claims.RunLimits(64, {"small": 16, "other": 16}, {"small": 16, "other": 4})
    works: dict[str, tuple[Any, ...]] = {
        "submit": (submission.submit, [item(MANY), item(MANY + 1), item(5)], CAPS),
        "claim": (claims.claim, "worker", 10**7, room),
        "find": (queries.find_job, numbers[0], some[0]["id"]),
        "positions": (queries.queue_positions, numbers),
        "job_progress": (queries.job_progress, numbers),
        "first page": (queries.list_jobs, page()),
        "later page": (queries.list_jobs, page(after=numbers[-1], ascending=True)),
        "running ones": (queries.list_jobs, page(states=["running"])),
        "running ones of a model": (queries.list_jobs, page(states=["running"], model="other")),
        "failed ones": (queries.list_jobs, page(states=["failed"])),
        "expire": (sweep.expire, b"error", 1),
        "purge": (sweep.purge,),
    }
    for name, (work, *arguments) in works.items():
        for plan in await long_queue.write(plans, work, *arguments):
            steps = plan.partition("\n\n")[2]
            assert "Seq Scan on jobs" not in steps, f"{name}: {plan}"
            for step in steps.splitlines():
                scan = step.strip().startswith("SCAN") and ("jobs" in step or "ahead" in step)
                # All rows of a small part of them; or in the order of the page, up to its end.
                few = any(index in step for index in ("jobs_running", "jobs_waiting"))
                bounded = few or name.endswith("page")
                assert not scan or bounded, f"{name}: {plan}"
    await long_queue.write(claims.release_claims, "worker")


async def test_a_long_queue_goes_on(long_queue, fronts):
    front = await fronts.start(
        queue={**ONE_AT_A_TIME, "max_queued": MANY + 10}, models=("small", "other"), held=True
    )

    async def counts(queued: int, running: int) -> bool:
        stats = await front.stats()
        return (stats.queued, stats.running) == (queued, running)

    await eventually(lambda: counts(MANY - 1, 1))
    last = await front.enqueue("last", priority=-1)
    next_one = await front.enqueue("next", priority=100)
    assert next_one.queue_position == 1
    # All of the model's, but for those that are delayed or run.
    found = (await front.get(last)).queue_position
    assert found == last.queue_position + 1
    assert MANY * 0.9 - 2 <= found <= MANY * 0.9 + 2
    newest = await front.list(page_size=100)
    assert [job.id for job in newest.jobs[:2]] == [next_one.id, last.id]
    seen = {job.id for job in newest.jobs}
    token = newest.next_page_token
    for _ in range(5):
        following = await front.list(page_size=100, page_token=token)
        assert not seen & {job.id for job in following.jobs}
        seen |= {job.id for job in following.jobs}
        token = following.next_page_token
    assert len(seen) == 600
    for _ in range(9):
        await front.enqueue()
    assert (await failure(front.enqueue())).reason == "QUEUE_FULL"
    for runtime in front.runtimes.values():
        runtime.gate.set()
    assert (await front.ended(next_one)).state == SUCCEEDED
    assert (await front.get(last)).state == QUEUED
