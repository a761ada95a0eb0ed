"""The queue over HTTP, with OpenAI's SDK unchanged and with plain requests."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator

import openai
import pytest

from tests.queue.jobs import Front, Fronts, eventually
from tests.support.running import running_bridge

HELLO = {"model": "small", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 6}
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


@pytest.fixture
async def front(small_model, small_text, queue_url) -> AsyncIterator[Front]:
    async with Fronts(small_model, small_text, queue_url) as fronts:
        webhooks = {"allow_private": True, "secret": SECRET}
        yield await fronts.start(queue={"webhooks": webhooks}, keep_alive=1)


@pytest.fixture
async def client(front) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{front.url}/queue", api_key="none") as client:
        yield client


async def finished(client: openai.AsyncOpenAI, job_id: str):
    """The job once it has succeeded, as a client that polls sees it."""
    async with asyncio.timeout(60):
        while True:
            job = await client.chat.completions.retrieve(job_id)
            if job.status == "succeeded":
                return job
            await asyncio.sleep(0.01)


async def test_the_sdk_queues_polls_lists_and_deletes(front, client):
    front.runtime.gate.clear()
    job = await client.chat.completions.create(**HELLO, extra_body={"priority": 3})
    assert job.object == "chat.completion"
    assert (job.model, job.choices, job.usage) == ("small", [], None)
    assert (job.status, job.priority, job.queue_position) == ("queued", 3, 1)
    assert (await client.chat.completions.retrieve(job.id)).choices == []
    front.runtime.gate.set()
    done = await finished(client, job.id)
    assert (done.id, done.created) == (job.id, job.created)
    assert done.choices[0].message.content
    assert done.choices[0].finish_reason == "length"
    assert done.usage.completion_tokens == 6
    more = [await client.chat.completions.create(**HELLO) for _ in range(4)]
    listed = [job.id async for job in await client.chat.completions.list(limit=2)]
    assert listed == [job.id for job in reversed(more)] + [job.id]
    deleted = await client.chat.completions.delete(job.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (job.id, True, "chat.completion.deleted")
    with pytest.raises(openai.NotFoundError) as raised:
        await client.chat.completions.retrieve(job.id)
    assert raised.value.code == "job_not_found"


async def test_the_sdk_streams_a_job_and_what_went_wrong(front, client):
    chunks = [chunk async for chunk in await client.chat.completions.create(**HELLO, stream=True)]
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    whole = await finished(client, chunks[0].id)
    assert whole.choices[0].message.content == text
    assert chunks[-1].choices[0].finish_reason == "length"
    front.runtime.gate.clear()
    stream = await client.chat.completions.create(**HELLO, stream=True)
    [job] = (await client.chat.completions.list(limit=1)).data
    async with front.http() as http:
        assert (await http.post(f"/queue/chat/completions/{job.id}/cancel")).json()["status"] == "cancelled"
    with pytest.raises(openai.APIError, match="cancelled"):
        async for _ in stream:
            pass


async def test_accepted_then_found_where_it_is_said_to_be(front):
    front.runtime.gate.clear()
    async with front.http() as http:
        answer = await http.post("/queue/chat/completions", json=HELLO)
        assert answer.status_code == 202
        assert int(answer.headers["retry-after"]) >= 1
        location = answer.headers["location"]
        assert location == f"/queue/chat/completions/{answer.json()['id']}"
        waiting = await http.get(location)
        assert waiting.status_code == 200
        assert "retry-after" in waiting.headers
        front.runtime.gate.set()
        done = await http.get(location, headers={"prefer": "wait=30"})
        assert done.headers["preference-applied"] == "wait=30"
        assert done.json()["status"] == "succeeded"
        assert "retry-after" not in done.headers


async def test_prefer_wait(front):
    async with front.http() as http:
        done = await http.post("/queue/chat/completions", json=HELLO, headers={"prefer": "wait=30"})
        assert (done.status_code, done.json()["status"]) == (200, "succeeded")
        front.runtime.gate.clear()
        late = await http.post("/queue/chat/completions", json=HELLO, headers={"prefer": "wait=1"})
        assert (late.status_code, late.headers["preference-applied"]) == (202, "wait=1")
        assert late.json()["choices"] == []


async def test_a_dropped_stream_is_replayed_from_its_start(front):
    front.runtime.gate.clear()
    async with front.http() as http:
        async with http.stream("POST", "/queue/chat/completions", json={**HELLO, "stream": True}) as stream:
            lines = stream.aiter_lines()
            first = await anext(lines)
            job_id = stream.headers["x-inferd-job"]
            assert first.startswith(": ")
            job = json.loads(first[2:])
            assert job["id"] == job_id
        front.runtime.gate.set()
        replayed = (await http.get(f"/queue/chat/completions/{job['id']}?stream=true")).text
    events = [event for event in replayed.split("\n\n") if event and not event.startswith(":")]
    assert events[-1] == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-1]]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert {chunk["id"] for chunk in chunks} == {job["id"]}


async def test_keys(front):
    async with front.http() as http:
        key = {"idempotency-key": "one", "prefer": "wait=30"}
        first = await http.post("/queue/chat/completions", json=HELLO, headers=key)
        again = await http.post("/queue/chat/completions", json=HELLO, headers=key)
        field = await http.post("/queue/chat/completions", json={**HELLO, "request_id": "one"})
        assert [answer.status_code for answer in (first, again, field)] == [200, 200, 200]
        assert first.json() == again.json() == field.json()
        # A default is the same, said or not.
        said = {**HELLO, "priority": 0, "max_attempts": 3}
        again = await http.post("/queue/chat/completions", json=said, headers=key)
        assert again.json() == first.json()
        assert len(front.runtime.requests) == 1
        other = await http.post("/queue/chat/completions", json={**HELLO, "max_tokens": 5}, headers=key)
        assert other.status_code == 409
        assert other.headers["x-should-retry"] == "false"
        assert other.json()["error"]["code"] == "request_id_reused"
        without = [(await http.post("/queue/chat/completions", json=HELLO)).json()["id"] for _ in range(2)]
        assert len({first.json()["id"], *without}) == 3


async def test_the_header_and_the_member_take_the_same_ids(front):
    async with front.http() as http:
        for request_id in ("x", "x" * 255, '"a b~"', "!"):
            headers = {"idempotency-key": request_id}
            by_header = await http.post("/queue/chat/completions", json=HELLO, headers=headers)
            body = {**HELLO, "request_id": request_id}
            by_member = await http.post("/queue/chat/completions", json=body)
            assert by_header.json()["id"] == by_member.json()["id"]
        for request_id in ("", "x" * 256, "né", "a\tb", "\x7f"):
            headers = {"idempotency-key": request_id.encode()}
            by_header = await http.post("/queue/chat/completions", json=HELLO, headers=headers)
            body = {**HELLO, "request_id": request_id}
            by_member = await http.post("/queue/chat/completions", json=body)
            assert (by_header.status_code, by_member.status_code) == (400, 400), request_id


async def test_cancel_and_errors(front):
    front.runtime.gate.clear()
    async with front.http() as http:
        job = (await http.post("/queue/chat/completions", json=HELLO)).json()
        cancel = f"/queue/chat/completions/{job['id']}/cancel"
        cancelled = await http.post(cancel)
        assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
        assert cancelled.json()["error"]["code"] == "job_cancelled"
        again = await http.post(cancel)
        assert again.status_code == 409
        assert "cancelled" in again.json()["error"]["message"]
        assert (await http.get("/queue/chat/completions/chatcmpl-none")).status_code == 404
        assert (await http.delete("/queue/chat/completions/chatcmpl-none")).status_code == 404
        for body, field in (
            ({"temperature": 9}, "temperature"),
            ({"priority": "high"}, "priority"),
            ({"not_before": "soon"}, "not_before"),
            ({"expires_after": 0}, "expires_after"),
            ({"max_attempts": 0}, "max_attempts"),
            ({"messages": [{"role": "user"}]}, "messages[0].content"),
            ({"webhook": {"url": "ftp://example.com"}}, "webhook.url"),
            ({"webhook": {"url": "http://example.com", "secret": "mine"}}, "webhook.secret"),
        ):
            bad = await http.post("/queue/chat/completions", json={**HELLO, **body})
            assert (bad.status_code, bad.json()["error"]["param"]) == (400, field), body
        page = (await http.get("/queue/chat/completions?limit=1&status=cancelled")).json()
        assert [found["id"] for found in page["data"]] == [job["id"]]
        assert page["has_more"] is False
        for query in ("limit=0", "page_token=x", "after=x", "status=lost", "order=up"):
            assert (await http.get(f"/queue/chat/completions?{query}")).status_code == 400, query


class Receiver:
    """An HTTP server that answers webhooks by `statuses`, then by 200."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.received: list[tuple[dict[str, str], bytes]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:] if line)}
        self.received.append((headers, await reader.readexactly(int(headers["content-length"]))))
        status = self.statuses.pop(0) if self.statuses else 200
        writer.write(f"HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n".encode())
        writer.close()


async def test_the_end_of_a_job_is_posted_signed_and_again_until_it_arrives(front, monkeypatch):
    monkeypatch.setattr("inferd.services.queue.webhook_deliveries.retry_delay", lambda attempt: 0.01)
    receiver = Receiver()
    receiver.statuses = [500, 503]
    async with await asyncio.start_server(receiver.serve, "127.0.0.1", 0) as server, front.http() as http:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
        job = (await http.post("/queue/chat/completions", json={**HELLO, "webhook": url})).json()
        assert job["webhook"]["status"] == "pending"

        async def delivered() -> bool:
            found = (await http.get(f"/queue/chat/completions/{job['id']}")).json()
            return found["webhook"]["status"] == "delivered"

        await eventually(delivered)
        webhook = (await http.get(f"/queue/chat/completions/{job['id']}")).json()["webhook"]
    assert (webhook["attempts"], webhook["response_status"], webhook["url"]) == (3, 200, url)
    assert len(receiver.received) == 3
    assert len({body for _, body in receiver.received}) == 1
    for headers, body in receiver.received:
        assert headers["webhook-id"] == job["id"]
        signed = f"{job['id']}.{headers['webhook-timestamp']}.".encode() + body
        digest = hmac.new(b"k" * 32, signed, hashlib.sha256).digest()
        assert headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()
    posted = json.loads(receiver.received[0][1])
    assert posted["type"] == "chat.completion.succeeded"
    assert posted["data"]["id"] == job["id"]
    assert posted["data"]["choices"][0]["message"]["content"]
    assert SECRET not in receiver.received[0][1].decode()


async def test_a_private_address_is_refused_unless_the_configuration_allows_it(
    small_model, small_text, queue_url
):
    async with Fronts(small_model, small_text, queue_url) as fronts:
        front = await fronts.start()
        async with front.http() as http:
            for url in ("http://127.0.0.1/", "http://10.0.0.1/", "http://[::1]/", "http://169.254.169.254/"):
                hook = {"url": url, "secret": SECRET}
                answer = await http.post("/queue/chat/completions", json={**HELLO, "webhook": hook})
                assert (answer.status_code, answer.json()["error"]["param"]) == (400, "webhook.url")
                assert SECRET not in answer.text
            answer = await http.post(
                "/queue/chat/completions", json={**HELLO, "webhook": "https://example.com/hook"}
            )
            # Neither the job nor the configuration has a secret.
            assert answer.json()["error"]["param"] == "webhook.secret"


async def test_the_interactive_path_needs_no_database(small_model, small_text):
    async with Fronts(small_model, small_text, "postgresql://nobody@127.0.0.1:9/none") as fronts:
        front = await fronts.start(opened=False)
        async with front.http() as http:
            answer = await http.post("/v1/chat/completions", json=HELLO)
            assert answer.status_code == 200
            assert (await http.get("/v1/models")).status_code == 200
            queued = await http.post("/queue/chat/completions", json=HELLO)
            assert queued.status_code == 503
            assert queued.json()["error"]["code"] == "queue_unavailable"


async def test_the_synchronous_sdk_over_a_bridge_of_its_own(front):
    def use(port: int) -> None:
        with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/queue", api_key="none") as client:
            job = client.chat.completions.create(**HELLO)
            chunks = list(client.chat.completions.create(**HELLO, stream=True))
            assert chunks[-1].choices[0].finish_reason == "length"
            while job.status != "succeeded":
                job = client.chat.completions.retrieve(job.id)
            assert job.choices[0].message.content
            assert [found.id for found in client.chat.completions.list()] == [chunks[0].id, job.id]
            assert client.chat.completions.delete(job.id).deleted
            with pytest.raises(openai.NotFoundError):
                client.chat.completions.retrieve(job.id)
            with pytest.raises(openai.BadRequestError, match="temperature"):
                client.chat.completions.create(**{**HELLO, "temperature": 9})

    async with running_bridge(front.grpc_port, front.config) as port:
        await asyncio.to_thread(use, port)
