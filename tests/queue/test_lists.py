"""Lists of jobs: order, filters, and pages that stay stable while jobs come and go."""

import contextlib
import time
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from tests.queue.jobs import (
    CANCELLED,
    EXPIRED,
    FAILED,
    ONE_AT_A_TIME,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    failure,
    one_of_each_state,
)

Code = grpc.StatusCode


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
    front = await fronts.start(queue=ONE_AT_A_TIME)
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
