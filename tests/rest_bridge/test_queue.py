"""The queue's REST API over real sockets, with a fake queue: jobs as OpenAI's SDK sees them."""

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import httpx
import openai
import openai.types.chat
import pytest
import pytest_asyncio

from inferd.rest_bridge.app import create_app
from inferd.rest_bridge.bridge import Bridge
from inferd.services.calls.chain import Chain, call_links
from inferd.services.calls.methods import Methods
from inferd.services.errors import ServiceError
from inferd.v1 import chat_pb2, message_pb2, queue_pb2, queue_pb2_grpc
from tests.support.rest_server import (
    TRANSPORTS,
    always,
    connect,
    error_of,
    http_request,
    http_server,
    read_response,
    transport_to,
    within,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVICE = queue_pb2.DESCRIPTOR.services_by_name["QueueService"]
PATH = "/queue/chat/completions"
ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
CONVERSATION = chat_pb2.CreateChatCompletionRequest(
    model="m", messages=[{"role": message_pb2.ROLE_USER, "content": [{"text": "Hi"}]}]
)
QUEUED = queue_pb2.Job(
    id="chatcmpl-1",
    create_time={"seconds": 5},
    model="m",
    state=queue_pb2.JOB_STATE_QUEUED,
    priority=3,
    queue_position=2,
    max_attempts=3,
    retry_after={"seconds": 6, "nanos": 1},
)
DONE = queue_pb2.Job(
    id="chatcmpl-1",
    create_time={"seconds": 5},
    model="m",
    state=queue_pb2.JOB_STATE_SUCCEEDED,
    completion={
        "id": "other",
        "choices": [{"message": {"role": message_pb2.ROLE_ASSISTANT, "content": "Ho"}, "finish_reason": 1}],
        "usage": {"total_tokens": 3},
    },
)
WHY = ServiceError(grpc.StatusCode.UNAVAILABLE, "RUNTIME_GONE", "gone", retry_after=1)


class Queue(queue_pb2_grpc.QueueServiceServicer):
    """A QueueService that answers as scripted, and keeps its requests."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.job = QUEUED
        self.events: Sequence[queue_pb2.JobEvent] = ()
        self.error: ServiceError | None = None

    async def _answer(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        if self.error is not None:
            raise self.error
        return self.job

    Enqueue = GetJob = CancelJob = _answer

    async def _tell(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.asked.append(request)
        for event in self.events:
            yield event

    EnqueueAndWatch = WatchJob = _tell

    async def ListJobs(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        if request.after:
            return queue_pb2.ListJobsResponse()
        return queue_pb2.ListJobsResponse(jobs=[self.job], has_more=True, first_id="a", last_id="b")

    async def DeleteJob(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        return queue_pb2.DeleteJobResponse(id=request.id, deleted=True)

    async def GetQueueStats(self, request: Any, context: Any) -> Any:
        return queue_pb2.QueueStats(queued=1)


class Rest:
    def __init__(self, queue: Queue, port: int) -> None:
        self.queue = queue
        self.port = port
        base = f"http://127.0.0.1:{port}"
        self.client = httpx.AsyncClient(base_url=base, timeout=30, trust_env=False)
        self.openai = openai.AsyncOpenAI(base_url=f"{base}/queue", api_key="x", max_retries=2)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=TRANSPORTS)
async def served(request: pytest.FixtureRequest) -> AsyncIterator[Rest]:
    queue = Queue()
    methods = Methods(Chain(call_links(100, 60)))
    queue_pb2_grpc.add_QueueServiceServicer_to_server(queue, methods)
    async with contextlib.AsyncExitStack() as stack:
        transport = await stack.enter_async_context(transport_to(methods, request.param))
        app = create_app(Bridge([SERVICE], transport, keep_alive_seconds=60), always)
        rest = Rest(queue, await stack.enter_async_context(http_server(app)))
        stack.push_async_callback(rest.client.aclose)
        stack.push_async_callback(rest.openai.close)
        yield rest


@pytest.fixture
def rest(served: Rest) -> Rest:
    queue = served.queue
    queue.asked, queue.job, queue.events, queue.error = [], QUEUED, (), None
    return served


def event(**kind: Any) -> queue_pb2.JobEvent:
    return queue_pb2.JobEvent(**kind)


def chunk(text: str) -> chat_pb2.ChatCompletionChunk:
    return chat_pb2.ChatCompletionChunk(
        id="chatcmpl-1", create_time={"seconds": 5}, model="m", choices=[{"delta": {"content": text}}]
    )


# --- requests


async def test_the_conversation_stands_beside_the_jobs_own_members(rest: Rest) -> None:
    body = {**ASK, "temperature": 0.5, "priority": 3, "webhook": "https://a.example", "expires_after": "60s"}
    assert (await rest.client.post(PATH, json=body)).status_code == 202
    (asked,) = rest.queue.asked
    conversation = chat_pb2.CreateChatCompletionRequest()
    conversation.CopyFrom(CONVERSATION)
    conversation.temperature = 0.5
    assert asked == queue_pb2.EnqueueRequest(
        request=conversation, priority=3, webhook={"url": "https://a.example"}, expires_after={"seconds": 60}
    )


@pytest.mark.parametrize(
    ("members", "param", "code"),
    [
        ({"temperature": "hot"}, "temperature", "invalid_argument"),
        ({"temperature": 3}, "temperature", "out_of_range"),
        ({"messages": [{"role": "user"}, {"role": "x"}]}, "messages[1].role", "invalid_argument"),
        ({"messages": [{"role": "tool", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].type", None),
        ({"model": "x" * 513}, "model", "out_of_range"),
        ({"model": None}, "model", "required_field_missing"),
        ({"priority": 1.5}, "priority", "invalid_argument"),
        ({"priority": 1000001}, "priority", "out_of_range"),
        ({"webhook": {}}, "webhook.url", "required_field_missing"),
        ({"not_before": "soon"}, "not_before", "invalid_argument"),
        ({"not_before": 1e30}, "not_before", "out_of_range"),
        ({"expires_after": True}, "expires_after", "invalid_argument"),
        ({"stream": 1}, "stream", "invalid_argument"),
    ],
)
async def test_faults_are_named_as_the_client_spells_them(
    rest: Rest, members: dict[str, Any], param: str, code: str | None
) -> None:
    response = await rest.client.post(PATH, json={**ASK, **members})
    assert response.status_code == 400
    error = error_of(response)
    assert error["param"] == param
    assert error["message"].startswith(param)
    assert code in (None, error["code"])
    assert not rest.queue.asked


async def test_nothing_at_all_is_a_request_without_a_model(rest: Rest) -> None:
    for body in ({}, {"request": CONVERSATION.model}, {"priority": 1}):
        error = error_of(await rest.client.post(PATH, json=body))
        assert (error["param"], error["code"]) == ("model", "required_field_missing")
    error = error_of(await rest.client.post(PATH, content=b""))
    assert "the body is empty" in error["message"]


async def test_times_may_be_numbers(rest: Rest) -> None:
    for body in (
        {"not_before": 1893456000.25, "expires_after": 90},
        {"not_before": "2030-01-01T00:00:00.25Z", "expires_after": "90s"},
    ):
        assert (await rest.client.post(PATH, json={**ASK, **body})).status_code == 202
    first, second = rest.queue.asked
    assert first == second
    assert (first.not_before.seconds, first.not_before.nanos) == (1893456000, 250_000_000)
    assert first.expires_after.seconds == 90


async def test_lists_are_filtered_by_the_query(rest: Rest) -> None:
    response = await rest.client.get(f"{PATH}?status=queued&status=running&limit=5&order=asc&model=x&after=y")
    assert response.json() == {
        "object": "list",
        "data": [],
        "next_page_token": "",
        "has_more": False,
        "first_id": None,
        "last_id": None,
    }
    assert rest.queue.asked == [
        queue_pb2.ListJobsRequest(
            states=[queue_pb2.JOB_STATE_QUEUED, queue_pb2.JOB_STATE_RUNNING],
            page_size=5,
            order=queue_pb2.JOB_ORDER_ASC,
            model="x",
            after="y",
        )
    ]
    for query, param in (("status=late", "status"), ("limit=x", "limit"), ("limit=0", "limit")):
        assert error_of(await rest.client.get(f"{PATH}?{query}"))["param"] == param


@pytest.mark.parametrize(
    "body",
    [{}, {"content": b""}, {"json": {}}, {"data": {}}, {"content": b"", "headers": {"content-type": "x/y"}}],
    ids=str,
)
async def test_cancel_needs_no_body(rest: Rest, body: dict[str, Any]) -> None:
    response = await rest.client.post(f"{PATH}/chatcmpl-1/cancel", **body)
    assert response.status_code == 200
    assert rest.queue.asked == [queue_pb2.CancelJobRequest(id="chatcmpl-1")]


async def test_cancel_without_even_a_length(rest: Rest) -> None:
    reader, writer = await connect(rest.port)
    writer.write(
        f"POST {PATH}/a/cancel HTTP/1.1\r\nhost: x\r\n\r\n".encode() + http_request(f"{PATH}/b/cancel")
    )
    for _ in range(2):
        assert (await within(read_response(reader)))[0] == 200
    assert [asked.id for asked in rest.queue.asked] == ["a", "b"]
    writer.close()


async def test_delete(rest: Rest) -> None:
    response = await rest.client.delete(f"{PATH}/chatcmpl-1")
    assert response.json() == {"object": "chat.completion.deleted", "id": "chatcmpl-1", "deleted": True}


async def test_stats(rest: Rest) -> None:
    response = await rest.client.get("/queue/stats")
    assert response.json() == {"models": [], "queued": 1, "running": 0, "running_limit": 0}


# --- jobs


async def test_a_job_that_is_under_way(rest: Rest) -> None:
    response = await rest.client.post(PATH, json=ASK)
    assert response.status_code == 202
    assert response.headers["location"] == f"{PATH}/chatcmpl-1"
    assert response.headers["retry-after"] == "7"
    assert "preference-applied" not in response.headers
    assert response.json() == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 5,
        "create_time": "1970-01-01T00:00:05Z",
        "model": "m",
        "choices": [],
        "status": "queued",
        "priority": 3,
        "queue_position": 2,
        "attempts": 0,
        "lost_attempts": 0,
        "max_attempts": 3,
        "retry_after": 6,
    }
    assert list(response.json())[:4] == ["object", "id", "created", "model"]


async def test_a_job_that_has_ended(rest: Rest) -> None:
    rest.queue.job = DONE
    response = await rest.client.post(PATH, json=ASK)
    assert response.status_code == 200
    assert response.headers["location"] == f"{PATH}/chatcmpl-1"
    assert "retry-after" not in response.headers
    job = response.json()
    assert (job["id"], job["status"], job["usage"]["total_tokens"]) == ("chatcmpl-1", "succeeded", 3)
    assert job["choices"][0]["message"] == {"role": "assistant", "content": "Ho"}


async def test_asking_again(rest: Rest) -> None:
    response = await rest.client.get(f"{PATH}/chatcmpl-1")
    assert (response.status_code, response.headers["retry-after"]) == (200, "7")
    assert "location" not in response.headers
    rest.queue.job = DONE
    assert "retry-after" not in (await rest.client.get(f"{PATH}/chatcmpl-1")).headers


async def test_a_location_is_percent_encoded(rest: Rest) -> None:
    rest.queue.job = queue_pb2.Job(id="a/b c\r\né?")
    response = await rest.client.post(PATH, json=ASK)
    assert response.headers["location"] == f"{PATH}/a%2Fb%20c%0D%0A%C3%A9%3F"
    rest.queue.job = queue_pb2.Job()
    assert "location" not in (await rest.client.post(PATH, json=ASK)).headers


async def test_why_a_job_has_no_answer(rest: Rest) -> None:
    rest.queue.job = queue_pb2.Job(state=queue_pb2.JOB_STATE_FAILED, error=WHY.to_status())
    job = (await rest.client.get(f"{PATH}/x")).json()
    assert job["error"] == {
        "message": "gone",
        "type": "server_error",
        "param": None,
        "code": "runtime_gone",
    }


# --- waiting


@pytest.mark.parametrize(
    ("values", "applied"),
    [
        (["wait=10"], 10),
        (["WAIT = 10; x=1, respond-async"], 10),
        (["respond-async", 'return="a, wait=5"; b, wait="20"'], 20),
        (["wait=10", "wait=20"], 10),
        (["wait=999999"], 3600),
        (["wait=0"], 0),
        (["wait=x"], None),
        (["waits=1"], None),
    ],
)
@pytest.mark.parametrize("verb", ["POST", "GET"])
async def test_prefer_wait(rest: Rest, verb: str, values: list[str], applied: int | None) -> None:
    path, content = (PATH, json.dumps(ASK)) if verb == "POST" else (f"{PATH}/x", None)
    headers = [("prefer", value) for value in values]
    response = await rest.client.request(verb, path, content=content, headers=headers)
    assert response.is_success
    (asked,) = rest.queue.asked
    assert (asked.wait.seconds if asked.HasField("wait") else None) == applied
    expected = None if applied is None else f"wait={applied}"
    assert response.headers.get("preference-applied") == expected


async def test_the_request_itself_says_how_long_to_wait(rest: Rest) -> None:
    prefer = {"prefer": "wait=10"}
    for response in (
        await rest.client.post(PATH, json={**ASK, "wait_seconds": 0}, headers=prefer),
        await rest.client.get(f"{PATH}/x?wait_seconds=0", headers=prefer),
    ):
        assert "preference-applied" not in response.headers
    assert [(asked.HasField("wait"), asked.wait.seconds) for asked in rest.queue.asked] == [(True, 0)] * 2
    error = error_of(await rest.client.post(PATH, json={**ASK, "wait_seconds": 3601}, headers=prefer))
    assert error["param"] == "wait_seconds"


async def test_a_stream_does_not_wait(rest: Rest) -> None:
    response = await rest.client.get(f"{PATH}/x?stream=true", headers={"prefer": "wait=10"})
    assert "preference-applied" not in response.headers
    assert not rest.queue.asked[0].HasField("wait")


# --- streams


async def test_a_stream_of_news(rest: Rest) -> None:
    rest.queue.events = [event(job=QUEUED), event(chunk=chunk("H")), event(job=DONE), event(chunk=chunk("o"))]
    for response in (
        await rest.client.get(f"{PATH}/chatcmpl-1?stream=true"),
        await rest.client.post(PATH, json={**ASK, "stream": True}),
    ):
        assert response.status_code == 200
        first, second, third, fourth, done, end = response.text.split("\n\n")
        for comment, status in ((first, "queued"), (third, "succeeded")):
            assert comment.startswith(": {")
            assert json.loads(comment[2:])["status"] == status
        for data, text in ((second, "H"), (fourth, "o")):
            assert json.loads(data.removeprefix("data: "))["choices"][0]["delta"] == {"content": text}
        assert (done, end) == ("data: [DONE]", "")
    assert [type(asked).__name__ for asked in rest.queue.asked] == ["GetJobRequest", "EnqueueRequest"]


async def test_an_error_is_the_last_event(rest: Rest) -> None:
    rest.queue.events = [event(job=QUEUED), event(error=WHY.to_status()), event(chunk=chunk("never"))]
    response = await rest.client.get(f"{PATH}/x?stream=true")
    assert response.status_code == 200
    comment, error, done, end = response.text.split("\n\n")
    assert comment.startswith(": {") and (done, end) == ("data: [DONE]", "")
    assert error == (
        'data: {"error":{"message":"gone","type":"server_error","param":null,"code":"runtime_gone"}}'
    )


async def test_an_error_before_all_events_is_a_response(rest: Rest) -> None:
    rest.queue.events = [event(error=WHY.to_status())]
    response = await rest.client.get(f"{PATH}/x?stream=true")
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert error_of(response)["code"] == "runtime_gone"


async def test_the_selector_of_a_query(rest: Rest) -> None:
    for query in ("", "?stream=false", "?streams=true"):
        assert (await rest.client.get(f"{PATH}/x{query}")).json()["status"] == "queued"
    for query in ("stream=1", "stream=", "stream=True", "stream=true&stream=true"):
        response = await rest.client.get(f"{PATH}/x?{query}")
        assert response.status_code == 400
        assert error_of(response)["param"] == "stream"
    assert len(rest.queue.asked) == 3


# --- OpenAI's SDK


async def test_the_sdk_queues_and_asks(rest: Rest) -> None:
    completions = rest.openai.chat.completions
    job = await completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])
    assert (job.id, job.object, job.choices, job.usage) == ("chatcmpl-1", "chat.completion", [], None)
    assert job.model_extra["status"] == "queued"
    rest.queue.job = DONE
    answer = await completions.retrieve(job.id)
    assert answer.choices[0].message.content == "Ho"
    assert (await completions.delete(job.id)).deleted


async def test_the_sdk_pages(rest: Rest) -> None:
    ids = [job.id async for job in rest.openai.chat.completions.list(limit=1, model="m")]
    assert ids == ["chatcmpl-1"]
    assert [(asked.page_size, asked.after) for asked in rest.queue.asked] == [(1, ""), (1, "chatcmpl-1")]


async def test_the_sdk_streams(rest: Rest) -> None:
    rest.queue.events = [event(job=QUEUED), event(chunk=chunk("H")), event(chunk=chunk("o"))]
    stream = await rest.openai.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "Hi"}], stream=True
    )
    assert [chunk.choices[0].delta.content async for chunk in stream] == ["H", "o"]


async def test_the_sdk_raises_the_error_of_a_stream(rest: Rest) -> None:
    rest.queue.events = [event(job=QUEUED), event(chunk=chunk("H")), event(error=WHY.to_status())]
    stream = await rest.openai.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "Hi"}], stream=True
    )
    got = []
    with pytest.raises(openai.APIError) as caught:
        async for piece in stream:
            got.append(piece.choices[0].delta.content)
    assert got == ["H"]
    assert (caught.value.message, caught.value.code) == ("gone", "runtime_gone")


@pytest.mark.parametrize("code", ["FAILED_PRECONDITION", "ALREADY_EXISTS"])
async def test_the_sdk_sends_a_conflict_once(rest: Rest, code: str) -> None:
    rest.queue.error = ServiceError(grpc.StatusCode[code], "CONFLICT", "no")
    with pytest.raises(openai.ConflictError):
        await rest.openai.post(
            f"/chat/completions/{QUEUED.id}/cancel", cast_to=openai.types.chat.ChatCompletion
        )
    assert len(rest.queue.asked) == 1
