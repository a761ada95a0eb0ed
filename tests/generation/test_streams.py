"""Streams through a whole inferd: clients get all of it in order, however a runtime cuts its tokens."""

import asyncio
import contextlib
import itertools
import json
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import h2.events
import orjson
import pytest
from tokenizers import AddedToken, Tokenizer

from inferd.rest_bridge.decode import Decoder
from inferd.rest_bridge.encode import Encoder
from inferd.services.net.http2.framing import MessageSplitter
from inferd.v1 import chat_pb2, chat_pb2_grpc, completion_pb2, completion_pb2_grpc
from tests.doubles.simulated_scheduler import Fault, SimulatedRuntime, echo, fixed, logprob_of
from tests.support.raw_http2 import PATIENCE, RawClient, connected
from tests.support.small_model import write_small_model

TEXT = "Paris é 🙂 你好 and a STOP here, then 🙂🙂 more, é"
CHAT = {"model": "small", "messages": [{"role": "user", "content": "Hello world"}]}
COMPLETION = {"model": "small", "prompt": "Hello world", "max_tokens": 300}
#: How many tokens the runtime sends at a time, in turn.
CUTS = [(1,), (3, 1, 2), (10_000,)]
USAGE = {"include_usage": True}
CONTINUOUS = {"include_usage": True, "continuous_usage_stats": True}


class Api:
    """Chat or text completion, by REST and by gRPC; requests and answers are REST's documents."""

    def __init__(self, path: str, messages: Any, request: str, chunk: str, stub: Any, method: str) -> None:
        self.path = path
        self.decode = Decoder(getattr(messages, request).DESCRIPTOR).decode
        self._chunks = Encoder(getattr(messages, chunk).DESCRIPTOR)
        self._stub = stub
        self._method = method

    async def whole(self, inferd, body: dict) -> dict:
        async with inferd.http() as http:
            response = await http.post(self.path, json=body)
        assert response.status_code == 200, response.text
        return response.json()

    async def rest(self, inferd, body: dict) -> tuple[list[dict], dict | None]:
        """The chunks of a stream, and the error that it ended with."""
        async with inferd.http() as http:
            response = await http.post(self.path, json={**body, "stream": True})
        if response.status_code != 200:
            return [], response.json()["error"]
        events = [event for event in response.text.split("\n\n") if not event.startswith(":")]
        assert events.pop() == ""
        documents = [event.removeprefix("data: ") for event in events]
        if documents[-1] == "[DONE]":
            return [json.loads(document) for document in documents[:-1]], None
        *chunks, error = map(json.loads, documents)
        return chunks, error["error"]

    def call(self, channel: grpc.aio.Channel, body: dict, **settings: Any) -> Any:
        return getattr(self._stub(channel), self._method)(self.decode(body), **settings)

    async def grpc(self, inferd, body: dict) -> tuple[list[dict], object]:
        chunks, document = [], self.documents()
        async with inferd.channel() as channel:
            try:
                async for chunk in self.call(channel, body):
                    chunks.append(document(chunk))
            except grpc.aio.AioRpcError as error:
                return chunks, (error.code(), error.details())
        return chunks, None

    def documents(self) -> Callable[[Any], dict]:
        """Makes the documents of one stream's chunks."""
        convert = self._chunks.begin_stream()
        return lambda chunk: json.loads(orjson.dumps(convert(chunk)))


APIS = {
    "chat": Api(
        "/v1/chat/completions",
        chat_pb2,
        "CreateChatCompletionRequest",
        "ChatCompletionChunk",
        chat_pb2_grpc.ChatServiceStub,
        "StreamChatCompletion",
    ),
    "completion": Api(
        "/v1/completions",
        completion_pb2,
        "CreateCompletionRequest",
        "CompletionChunk",
        completion_pb2_grpc.CompletionServiceStub,
        "StreamCompletion",
    ),
}
BODIES = {"chat": CHAT, "completion": COMPLETION}


def ids_of(small_text, text: str) -> list[int]:
    return [*small_text.tokenizer.encode(text, add_special_tokens=False), 2]


def merged(chunks: list[dict]) -> dict[str, Any]:
    """What a stream says, however it was cut."""
    assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks}) == 1
    said: dict[str, Any] = {"choices": {}, "usage": None}
    for chunk in chunks:
        for choice in chunk["choices"]:
            _merge(said["choices"].setdefault(choice["index"], {}), choice)
        for name in chunk.keys() - {"id", "created", "model", "object", "choices", "usage"}:
            _merge(said, {name: chunk[name]})
        said["usage"] = chunk.get("usage") or said["usage"]
    return said


_ADDED = {"content", "reasoning_content", "text", "arguments"}


def _merge(into: dict, part: dict) -> None:
    for name, value in part.items():
        if value is None or (name == "id" and isinstance(value, str)):
            continue
        old = into.get(name)
        if name == "tool_calls":
            calls = into.setdefault(name, {})
            for call in value:
                _merge(calls.setdefault(call["index"], {}), call)
        elif isinstance(value, dict):
            _merge(into.setdefault(name, {}), value)
        elif isinstance(value, list):
            into[name] = [*(old or []), *value]
        elif name in _ADDED and old is not None:
            into[name] = old + value
        else:
            assert old in (None, value), (name, old, value)
            into[name] = value


def whole_text(api: str, choice: dict) -> str:
    return (choice["message"]["content"] if api == "chat" else choice["text"]) or ""


def streamed_text(api: str, choice: dict) -> str:
    return choice["delta"].get("content", "") if api == "chat" else choice["text"]


async def same_by_both(inferd, api: str, body: dict) -> dict[str, Any]:
    """What is said, after having made sure that it is the same by REST and by gRPC."""
    service = APIS[api]
    answers = []
    for stream in (service.rest, service.grpc):
        chunks, error = await stream(inferd, body)
        assert error is None
        check_counts(chunks, body)
        answers.append(merged(chunks))
    assert answers[0] == answers[1]
    return answers[0]


def check_counts(chunks: list[dict], body: dict) -> None:
    """Tokens are counted as they come, where that is asked for."""
    if not body.get("stream_options", {}).get("continuous_usage_stats"):
        assert all(not chunk.get("usage") for chunk in chunks if chunk["choices"])
        return
    if not body.get("return_token_ids"):
        counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
        assert counts == sorted(counts)
        return
    count = 0
    for chunk in chunks:
        count += sum(len(choice.get("token_ids") or ()) for choice in chunk["choices"])
        assert chunk["usage"]["completion_tokens"] == count


COMMON = {
    "nothing": {},
    "usage": {"stream_options": USAGE},
    "continuous usage": {"stream_options": CONTINUOUS},
    "continuous usage and ids": {"stream_options": CONTINUOUS, "return_token_ids": True},
    "stop string": {"stop": ["STOP"], "stream_options": USAGE},
    "stop strings that nearly come": {"stop": ["STOPPED", "moreover", "🙂🙂🙂"], "stream_options": USAGE},
    "stop string kept": {"stop": ["STOP"], "no_stop_trim": True, "stream_options": CONTINUOUS},
    "stop expression": {"stop_regex": ["S[A-Z]{3}"], "stream_options": USAGE},
    "token ids": {"return_token_ids": True, "stream_options": USAGE},
    "token ids and a stop string": {"return_token_ids": True, "stop": ["STOP"], "stream_options": CONTINUOUS},
    "special tokens shown": {"skip_special_tokens": False, "ignore_eos": True, "stream_options": USAGE},
    "two": {"n": 2, "stream_options": USAGE},
    "two, with all": {"n": 2, "return_token_ids": True, "stop": ["STOP"], "stream_options": CONTINUOUS},
    "few tokens": {"max_tokens": 3, "stream_options": USAGE},
    "one token": {"max_tokens": 1, "return_token_ids": True, "stream_options": CONTINUOUS},
}
OPTIONS = {
    "chat": {
        **COMMON,
        "logprobs": {"logprobs": True, "stream_options": USAGE},
        "logprobs, with all": {
            "logprobs": True,
            "top_logprobs": 3,
            "stop": ["STOP"],
            "return_token_ids": True,
            "stream_options": CONTINUOUS,
        },
    },
    "completion": {
        **COMMON,
        "echo": {"echo": True, "stream_options": USAGE},
        "logprobs": {"logprobs": 0, "stream_options": USAGE},
        "logprobs, with all": {
            "logprobs": 2,
            "echo": True,
            "stop": ["STOP"],
            "return_token_ids": True,
            "stream_options": CONTINUOUS,
        },
        "several prompts": {"prompt": ["Hello", "world"], "echo": True, "stream_options": USAGE},
    },
}


@pytest.mark.parametrize(
    ("api", "name"), [(api, name) for api, options in OPTIONS.items() for name in options]
)
async def test_a_stream_says_what_the_whole_answer_says(start_inferd, small_text, api, name):
    body = {**BODIES[api], **OPTIONS[api][name]}
    ids = ids_of(small_text, TEXT)
    inferd = await start_inferd(fixed(ids))
    for cut in CUTS:
        inferd.runtime.script = fixed(ids, chunk_sizes=cut, cached_tokens=1)
        said = await same_by_both(inferd, api, body)
        whole = await APIS[api].whole(inferd, body)
        for choice in whole["choices"]:
            streamed = said["choices"][choice["index"]]
            assert streamed_text(api, streamed) == whole_text(api, choice)
            for field in ("finish_reason", "logprobs", "token_ids", "matched_stop"):
                assert streamed.get(field) == choice.get(field), field
        if "stream_options" in body:
            assert said["usage"] == whole["usage"]


async def test_characters_cut_over_tokens_come_whole(start_inferd, small_text):
    text = "🙂é你" * 20
    ids = ids_of(small_text, text)
    assert len(ids) > len(text)
    inferd = await start_inferd(fixed(ids))
    for cut in ((1,), (2,), (5, 1)):
        inferd.runtime.script = fixed(ids, chunk_sizes=cut)
        for api in APIS:
            said = await same_by_both(inferd, api, {**BODIES[api], "stream_options": USAGE})
            assert streamed_text(api, said["choices"][0]) == text
            assert said["usage"]["completion_tokens"] == len(ids)
    # The end comes in the middle of a character.
    cut_off = next(
        length
        for length in range(20, 40)
        if small_text.tokenizer.decode(ids[:length], skip_special_tokens=True).endswith("\ufffd")
    )
    inferd.runtime.script = fixed(ids[:cut_off])
    for api in APIS:
        said = await same_by_both(inferd, api, {**BODIES[api], "stream_options": USAGE})
        assert streamed_text(api, said["choices"][0]).endswith("\ufffd")
        assert said["usage"]["completion_tokens"] == cut_off


CALL = {"name": "get_weather", "arguments": {"city": "Paris 🙂"}}
SPOKEN = (
    "<think>Where <tool_call>? é</think>\nI look.\n"
    f"<tool_call>\n{json.dumps(CALL, ensure_ascii=False)}\n</tool_call>"
)
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tools": TOOLS},
        {"tools": TOOLS, "n": 2},
        {"tools": TOOLS, "logprobs": True, "top_logprobs": 1},
        {"tools": TOOLS, "return_token_ids": True, "stream_options": CONTINUOUS},
        {"tools": TOOLS, "stop": ["look"]},
        {"tools": TOOLS, "tool_choice": "none"},
        {"separate_reasoning": False},
    ],
)
async def test_a_stream_says_the_same_reasoning_and_calls(start_inferd, small_text, options, tmp_path):
    model = {
        "path": str(write_small_model(tmp_path / "long", context_length=4096)),
        "tool_call_parser": "hermes",
        "reasoning_parser": "qwen3",
    }
    ids = ids_of(small_text, SPOKEN)
    inferd = await start_inferd(fixed(ids), model=model)
    body = {**CHAT, "stream_options": USAGE, **options}
    for cut in CUTS:
        inferd.runtime.script = fixed(ids, chunk_sizes=cut)
        said = await same_by_both(inferd, "chat", body)
        whole = await APIS["chat"].whole(inferd, body)
        assert said["usage"] == whole["usage"]
        for choice in whole["choices"]:
            streamed = said["choices"][choice["index"]]
            message, delta = choice["message"], streamed["delta"]
            assert (delta.get("content") or "") == (message.get("content") or "")
            assert (delta.get("reasoning_content") or "") == (message.get("reasoning_content") or "")
            calls = [call["function"] for call in message.get("tool_calls") or ()]
            assert [call["function"] for call in delta.get("tool_calls", {}).values()] == calls
            assert streamed["finish_reason"] == choice["finish_reason"]


# What goes wrong


@pytest.mark.parametrize("after", [0, 1, 9])
@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status"},
        {"kind": "status", "code": grpc.StatusCode.INTERNAL},
        {"kind": "abort"},
        {"kind": "end"},
    ],
)
async def test_a_fault_comes_after_the_tokens_before_it(start_inferd, small_text, fault, after):
    ids = ids_of(small_text, TEXT)
    inferd = await start_inferd(fixed(ids, fault=Fault(after=after, **fault)))
    for api, n in itertools.product(APIS, (1, 2)):
        for stream in (APIS[api].rest, APIS[api].grpc):
            chunks, error = await stream(inferd, {**BODIES[api], "n": n, "return_token_ids": True})
            assert error is not None
            if n == 1:
                # Of several, the one that fails first may end the others.
                assert bool(chunks) == bool(after)
                if after:
                    assert merged(chunks)["choices"][0]["token_ids"] == ids[:after]


async def until(found) -> None:
    async with asyncio.timeout(PATIENCE):
        while not found():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("transport", ["in process"])
@pytest.mark.parametrize("api", APIS)
async def test_a_clients_deadline_ends_a_runtime_that_hangs(start_inferd, small_text, api):
    ids = ids_of(small_text, TEXT)
    inferd = await start_inferd(fixed(ids, fault=Fault("hang", after=9)))
    got, document = [], APIS[api].documents()
    async with inferd.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            async for chunk in APIS[api].call(channel, {**BODIES[api], "return_token_ids": True}, timeout=1):
                got.append(document(chunk))
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    tokens = merged(got)["choices"][0]["token_ids"] if got else []
    assert tokens == ids[: len(tokens)] and len(tokens) <= 9
    await until(lambda: not inferd.runtime.running)


@pytest.mark.parametrize("api", APIS)
async def test_a_client_that_leaves_ends_the_work(start_inferd, small_text, api):
    inferd = await start_inferd(echo(tokens_per_second=20))
    body = {**BODIES[api], "max_tokens": 300}
    async with inferd.channel() as channel:
        call = APIS[api].call(channel, body)
        for _ in range(5):
            assert await asyncio.wait_for(call.read(), PATIENCE) is not grpc.aio.EOF
        call.cancel()
        await until(lambda: inferd.runtime.cancelled == 1)
    async with inferd.http() as http:
        async with http.stream("POST", APIS[api].path, json={**body, "stream": True}) as response:
            lines = response.aiter_lines()
            for _ in range(10):
                await asyncio.wait_for(anext(lines), PATIENCE)
    await until(lambda: inferd.runtime.cancelled == 2)
    await until(lambda: not inferd.runtime.running)


# Comments of a stream that waits


async def comments(inferd, body: dict) -> tuple[list[str], int]:
    """The events of a stream, and how many of them are comments."""
    async with inferd.http() as http:
        response = await http.post("/v1/completions", json={**body, "stream": True})
    events = response.text.split("\n\n")[:-1]
    assert events[-1] == "data: [DONE]"
    return events, sum(event.startswith(":") for event in events)


async def test_comments_come_while_the_runtime_is_slow(start_inferd, small_text):
    ids = ids_of(small_text, TEXT)
    inferd = await start_inferd(fixed(ids, first_token_delay=1.0), keep_alive=0.1)
    events, _ = await comments(inferd, COMPLETION)
    assert events[0].startswith(":")
    # Between tokens, too.
    inferd.runtime.script = fixed(ids[:6], tokens_per_second=3)
    events, count = await comments(inferd, COMPLETION)
    assert count and events[0].startswith("data: ")
    chunks = [json.loads(event[6:]) for event in events[:-1] if event.startswith("data: ")]
    assert merged(chunks)["choices"][0]["text"] == small_text.tokenizer.decode(
        ids[:6], skip_special_tokens=True
    )


async def test_no_comments_while_tokens_flow(start_inferd, small_text):
    inferd = await start_inferd(echo(tokens_per_second=100), keep_alive=1.5)
    _, count = await comments(inferd, {**COMPLETION, "max_tokens": 300, "prompt": "and now for more"})
    assert not count


# Clients that stop to read


@pytest.fixture(scope="module")
def wordy_model(tmp_path_factory) -> tuple[str, list[int], list[str]]:
    """A model with tokens of 2 KB each: its path, and their ids and texts."""
    folder = write_small_model(tmp_path_factory.mktemp("wordy"), context_length=100_000)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = [f"[{number}{chr(97 + number) * 2000}]" for number in range(10)]
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in texts])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": tokenizer.get_vocab_size()}))
    return str(folder), [tokenizer.token_to_id(text) for text in texts], texts


#: Tokens of an answer of wordy ones that fits into no buffer on its way: 16 MB of text; and of one with log
#: probabilities that does not fit on the way from the runtime either.
LONG = 8000
SCORED = 16_000


async def stalled(runtime: SimulatedRuntime) -> None:
    """Wait until nothing goes on, because nobody reads."""
    same, last = 0, -1
    async with asyncio.timeout(60):
        while same < 20:
            await asyncio.sleep(0.03)
            same, last = (same + 1, last) if last == runtime.sent > 0 else (0, runtime.sent)


@contextlib.asynccontextmanager
async def slow_connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection with a small buffer."""
    with socket.socket() as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        own.setblocking(False)
        await asyncio.get_running_loop().sock_connect(own, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=own, limit=1 << 16)
        try:
            yield reader, writer
        finally:
            writer.close()


def slow_request(is_scored: bool, ids: list[int]) -> dict:
    if is_scored:
        return {**COMPLETION, "prompt": [60, 61, 62, 63, 64], "max_tokens": SCORED, "logprobs": 20}
    return {**COMPLETION, "prompt": ids, "max_tokens": LONG}


def check_slow_answer(said: dict, is_scored: bool, small_text, texts: list[str]) -> None:
    [choice] = said["choices"].values()
    assert choice["finish_reason"] == "length"
    if is_scored:
        assert said["usage"]["completion_tokens"] == SCORED
        assert choice["text"] == small_text.tokenizer.decode(
            [60, 61, 62, 63, 64] * (SCORED // 5), skip_special_tokens=True
        )
        values = [logprob_of(token_id) for token_id in (60, 61, 62, 63, 64)]
        assert choice["logprobs"]["token_logprobs"] == values * (SCORED // 5)
    else:
        assert said["usage"]["completion_tokens"] == LONG
        assert choice["text"] == "".join(texts) * (LONG // len(texts))


@pytest.mark.parametrize("is_scored", [False, True])
async def test_a_slow_reader_by_rest_gets_all_in_order(
    start_inferd, small_text, wordy_model, transport, is_scored
):
    path, ids, texts = wordy_model
    inferd = await start_inferd(echo(chunk_sizes=(1, 1, 3)), model={"path": path})
    body = {**slow_request(is_scored, ids), "stream": True, "stream_options": USAGE}
    content = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n"
    async with slow_connection(inferd.rest_port) as (reader, writer):
        writer.write(head.encode() + b"content-type: application/json\r\n\r\n" + content)
        assert await asyncio.wait_for(reader.readline(), PATIENCE) == b"HTTP/1.1 200 OK\r\n"
        # Beyond its limit the reader takes nothing from the socket.
        await stalled(inferd.runtime)
        if is_scored and transport == "in process":
            # It was stopped before its end. (grpcio's channel has large buffers of its own.)
            assert inferd.runtime.running == 1
        async with asyncio.timeout(60):
            await reader.readuntil(b"\r\n\r\n")
            answer = bytearray()
            while size := int(await reader.readline(), 16):
                answer += await reader.readexactly(size)
                await reader.readline()
    events = [event.removeprefix("data: ") for event in answer.decode().split("\n\n")]
    events = [event for event in events if not event.startswith(":")]
    assert events[-2:] == ["[DONE]", ""]
    check_slow_answer(merged([json.loads(event) for event in events[:-2]]), is_scored, small_text, texts)


async def read_on(client: RawClient, stream: int) -> bytes:
    """The data of a stream to its end; it is told to go on as it is read."""
    data = bytearray()
    while True:
        for event in client.events:
            if isinstance(event, h2.events.DataReceived):
                data += event.data
                client.h2.acknowledge_received_data(event.flow_controlled_length, stream)
        client.flush()
        if any(isinstance(event, h2.events.StreamEnded) for event in client.events):
            return bytes(data)
        client.events.clear()
        await client.until(lambda: client.events)


@pytest.mark.parametrize("transport", ["in process"])
@pytest.mark.parametrize("is_scored", [False, True])
async def test_a_slow_reader_by_grpc_gets_all_in_order(start_inferd, small_text, wordy_model, is_scored):
    path, ids, texts = wordy_model
    inferd = await start_inferd(echo(chunk_sizes=(1, 1, 3)), model={"path": path})
    api = APIS["completion"]
    request = api.decode({**slow_request(is_scored, ids), "stream_options": USAGE}).SerializeToString()
    async with connected(inferd.grpc_port) as client:
        stream = client.open("/inferd.v1.CompletionService/StreamCompletion", request)

        def received() -> int:
            return sum(event.flow_controlled_length for event in client.of(h2.events.DataReceived))

        # As much as its window has room for.
        await client.until(lambda: received() == 65535)
        await stalled(inferd.runtime)
        if is_scored:
            assert inferd.runtime.running == 1
        content = await read_on(client, stream)
    messages = MessageSplitter(64 << 20).feed(content)
    document = api.documents()
    chunks = [document(completion_pb2.CompletionChunk.FromString(message)) for _, message in messages]
    check_slow_answer(merged(chunks), is_scored, small_text, texts)


async def test_a_slow_reader_does_not_hold_up_others(start_inferd, wordy_model):
    """Of the same runtime, whose calls share a connection."""
    path, ids, texts = wordy_model
    inferd = await start_inferd(echo(), model={"path": path})
    api = APIS["completion"]
    request = api.decode(slow_request(True, ids)).SerializeToString()
    async with connected(inferd.grpc_port) as client:
        for _ in range(3):
            client.open("/inferd.v1.CompletionService/StreamCompletion", request)
        await until(lambda: inferd.runtime.running == 3)
        await stalled(inferd.runtime)
        assert inferd.runtime.running == 3
        few = {**COMPLETION, "prompt": ids, "max_tokens": 20}
        for stream in (api.rest, api.grpc):
            chunks, error = await asyncio.wait_for(stream(inferd, few), PATIENCE)
            assert error is None and merged(chunks)["choices"][0]["text"] == "".join(texts) * 2
    # They left without having read on.
    await until(lambda: not inferd.runtime.running)
