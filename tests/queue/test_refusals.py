"""Requests that the queue refuses, each with the field at fault; and the largest values that it takes."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from inferd.v1 import queue_pb2
from tests.queue.jobs import (
    PATIENCE,
    QUEUED,
    WEBHOOK_SECRET,
    WEBHOOK_URL,
    chat,
    enqueue,
    events_of,
    failure,
)

Code = grpc.StatusCode


LONG = "x" * 513
#: The last microsecond of the year 9999.
LATEST = Timestamp(seconds=253402300799, nanos=999999999)
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

NO_REQUEST_IDS = ["x" * 256, " a", "a ", "\0", "a\0b", "a\nb", "a\tb", "\x7f", "né", "🙂"]
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"priority": 1_000_001}, "priority"),
    ({"priority": -1_000_001}, "priority"),
    ({"priority": 2**31 - 1}, "priority"),
    ({"max_attempts": 0}, "max_attempts"),
    ({"max_attempts": 101}, "max_attempts"),
    ({"wait": {"seconds": 3601}}, "wait"),
    ({"request_id": ""}, "request_id"),
    *(({"request_id": request_id}, "request_id") for request_id in NO_REQUEST_IDS),
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
    ({"not_before": LATEST, "expires_after": Duration(seconds=1)}, "not_before"),
    ({"not_before": LATEST, "expires_after": Duration(seconds=30 * 86400)}, "not_before"),
    ({"webhook": {}}, "webhook.url"),
    ({"webhook": {"url": WEBHOOK_URL}}, "webhook.secret"),
    ({"webhook": {"url": WEBHOOK_URL + "x" * 2048, "secret": WEBHOOK_SECRET}}, "webhook.url"),
    ({"webhook": {"url": WEBHOOK_URL, "secret": "x" * 129}}, "webhook.secret"),
    *(({"webhook": {"url": url, "secret": WEBHOOK_SECRET}}, "webhook.url") for url in PRIVATE + NO_URLS),
    *(({"webhook": {"url": WEBHOOK_URL, "secret": secret}}, "webhook.secret") for secret in SECRETS),
    # The conversation's own fields are named as in a chat completion.
    ({"model": ""}, "request.model"),
    ({"model": LONG}, "request.model"),
    ({"messages": []}, "request.messages"),
    ({"messages": [{}]}, "request.messages[0].role"),
    ({"temperature": 9}, "request.temperature"),
    ({"temperature": float("nan")}, "request.temperature"),
    ({"temperature": -0.1}, "request.temperature"),
    ({"top_p": 0}, "request.top_p"),
    ({"n": 0}, "request.n"),
    ({"n": 129}, "request.n"),
    ({"max_tokens": 0}, "request.max_tokens"),
    ({"stop": ["x"] * 33}, "request.stop"),
    ({"stop": ["x" * 1025]}, "request.stop[0]"),
    ({"top_logprobs": 5}, "request.top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "request.top_logprobs"),
    ({"logit_bias": {5: 101}}, 'request.logit_bias["5"]'),
    ({"tool_choice": {"mode": "TOOL_CHOICE_MODE_REQUIRED"}}, "request.tool_choice"),
    ({"regex": "a", "ebnf": "b"}, "request.ebnf"),
]


async def test_bad_jobs_are_refused_and_nothing_is_queued(fronts):
    front = await fronts.start()
    for fields, field in REFUSED:
        failed = await failure(front.enqueue(**fields))
        assert failed.code is Code.INVALID_ARGUMENT, (fields, failed)
        assert failed.field is not None and (failed.field == field or field == "request.ebnf"), (
            fields,
            failed,
        )
        secret = fields.get("webhook", {}).get("secret")
        if secret and len(secret) > 6:
            assert secret not in str(failed)
        watched = await failure(events_of(front.queue.EnqueueAndWatch(enqueue(**fields), timeout=PATIENCE)))
        assert watched == failed
    failed = await failure(front.queue.Enqueue(queue_pb2.EnqueueRequest(), timeout=PATIENCE))
    assert (failed.code, failed.field, failed.reason) == (
        Code.INVALID_ARGUMENT,
        "request",
        "REQUIRED_FIELD_MISSING",
    )
    unknown = await failure(front.enqueue(model="unknown"))
    assert (unknown.code, unknown.field) == (Code.NOT_FOUND, "request.model")
    # As chat itself says it.
    too_long = chat("x " * 2000)
    expected = await failure(front.chat.CreateChatCompletion(too_long, timeout=PATIENCE))
    failed = await failure(front.queue.Enqueue(queue_pb2.EnqueueRequest(request=too_long), timeout=PATIENCE))
    assert failed == replace(expected, field=f"request.{expected.field}")
    assert failed.code is Code.INVALID_ARGUMENT
    assert (await front.list()).jobs == []
    assert len(front.runtime.requests) == 0


async def test_the_bounds_of_what_is_taken_are_taken(fronts):
    front = await fronts.start(queue={"running_limit": 1})
    await front.held()
    for fields in (
        {"priority": 1_000_000},
        {"priority": -1_000_000},
        {"max_attempts": 1},
        {"max_attempts": 100},
        {"request_id": "x" * 255},
        {"request_id": "a ' \" % \\ ~"},
        {"expires_after": Duration(seconds=30 * 86400)},
        {"not_before": LATEST},
        {"not_before": Timestamp(seconds=1), "expires_after": Duration(seconds=1000)},
        {"not_before": Timestamp(seconds=-62135596800)},
        {"not_before": Timestamp(seconds=1, nanos=5)},
        {"webhook": {"url": WEBHOOK_URL, "secret": WEBHOOK_SECRET}},
        {"webhook": {"url": "https://hooks.example.com/" + "x" * 2022, "secret": WEBHOOK_SECRET}},
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
            assert WEBHOOK_SECRET not in str(found)
        if "not_before" in fields:
            assert found.not_before.ToMicroseconds() == fields["not_before"].ToMicroseconds()
        if "expires_after" in fields:
            stays = found.expire_time.ToMicroseconds() - found.create_time.ToMicroseconds()
            assert stays == fields["expires_after"].ToMicroseconds()


async def test_a_job_that_would_expire_before_it_may_start_is_refused(fronts):
    front = await fronts.start(queue={"running_limit": 1})
    await front.held()
    now = int(time.time())
    hour = Duration(seconds=3600)
    failed = await failure(
        front.enqueue(not_before=Timestamp(seconds=now + 3700), expires_after=hour, request_id="a")
    )
    assert (failed.code, failed.field, failed.reason) == (Code.INVALID_ARGUMENT, "not_before", "OUT_OF_RANGE")
    assert "not_before" in failed.message
    assert "expires_after" in failed.message
    # The request id was not used up.
    job = await front.enqueue(not_before=Timestamp(seconds=now + 3000), expires_after=hour, request_id="a")
    assert job.state == QUEUED
    assert job.not_before.ToSeconds() < job.expire_time.ToSeconds()


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
        calls = [front.get(garbage), front.get(garbage, wait={"seconds": 1}), front.ended(garbage)]
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
        ({"page_size": 0}, "page_size"),
        ({"page_size": 101}, "page_size"),
        ({"page_size": 2**32 - 1}, "page_size"),
        ({"page_token": "x" * 513}, "page_token"),
        ({"page_token": "x", "after": job.id}, "page_token"),
        ({"after": "x" * 129}, "after"),
        ({"after": "garbage"}, "after"),
        ({"after": "\0"}, "after"),
        ({"after": "chatcmpl-" + "f" * 32}, "after"),
        ({"states": [0]}, "states[0]"),
        ({"states": [1, 99]}, "states[1]"),
        ({"states": [1] * 17}, "states"),
        ({"model": "x" * 513}, "model"),
    ):
        failed = await failure(front.list(**fields))
        assert (failed.code, failed.field) == (Code.INVALID_ARGUMENT, field), fields
    unknown = await failure(front.list(model="unknown"))
    assert (unknown.code, unknown.field) == (Code.NOT_FOUND, "model")
    for timeout in (Duration(seconds=-1), Duration(nanos=-1), Duration(seconds=2**63 - 1)):
        failed = await failure(
            front.queue.WaitJob(queue_pb2.WaitJobRequest(id=job.id, timeout=timeout), timeout=PATIENCE)
        )
        assert (failed.code, failed.field) == (Code.INVALID_ARGUMENT, "timeout")
    failed = await failure(front.get(job, wait={"seconds": 3601}))
    assert (failed.code, failed.field) == (Code.INVALID_ARGUMENT, "wait")
