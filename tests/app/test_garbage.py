"""A request leaves no objects for the garbage collector, because their memory would be freed late."""

import asyncio
import contextlib
import gc
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

import grpc
import pytest

from inferd.v1 import completion_pb2, completion_pb2_grpc, prompt_pb2
from tests.doubles.simulated_scheduler import echo
from tests.support.running import Inferd

COMPLETION = {"model": "small", "prompt": "Hello world", "max_tokens": 20}
CHAT = {"model": "small", "messages": [{"role": "user", "content": "Hello world"}], "max_tokens": 20}
BY_REST = {
    "completion": ("completions", COMPLETION),
    "completion, streamed": ("completions", {**COMPLETION, "stream": True}),
    "completion, with logprobs": ("completions", {**COMPLETION, "stream": True, "logprobs": 1}),
    "completions": ("completions", {**COMPLETION, "n": 3}),
    "completions, streamed": ("completions", {**COMPLETION, "n": 3, "stream": True}),
    "chat": ("chat/completions", CHAT),
    "chat, streamed": ("chat/completions", {**CHAT, "stream": True}),
    "chat, with logprobs": ("chat/completions", {**CHAT, "stream": True, "logprobs": True}),
    "chat, with stop": ("chat/completions", {**CHAT, "stream": True, "stop": "o w"}),
    "refused": ("completions", {**COMPLETION, "temperature": -1}),
    "no such model": ("chat/completions", {**CHAT, "model": "none"}),
}
OURS = ("services", "rest_bridge", "inferd", "uvicorn", "h2")


@pytest.fixture
async def inferd(start_inferd) -> Inferd:
    inferd = await start_inferd(echo())
    async with inferd.http() as http:
        # Built in the background after the start, which leaves garbage of its own.
        await http.get("/openapi.json")
    return inferd


@pytest.fixture
def garbage() -> Iterator[Callable[[], Counter[str]]]:
    """Runs the collector. Returns the number of inferd's objects that it found, by type."""

    def found() -> Counter[str]:
        gc.collect()
        types = [type(thing) for thing in gc.garbage]
        gc.garbage.clear()
        return Counter(
            f"{each.__module__}.{each.__qualname__}" for each in types if each.__module__.startswith(OURS)
        )

    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield found
    gc.set_debug(0)
    gc.garbage.clear()


async def leaves_nothing(ask: Callable[[], Awaitable[None]], garbage: Callable[[], Counter[str]]) -> None:
    """Ask three times, after a first time that may fill caches."""
    await ask()
    garbage()
    for _ in range(3):
        await ask()
    await asyncio.sleep(0.05)
    assert garbage() == {}


@pytest.mark.parametrize("transport", ["in process"], indirect=True)
@pytest.mark.parametrize("name", BY_REST)
async def test_a_request_of_a_kept_connection(inferd: Inferd, garbage, name: str) -> None:
    path, document = BY_REST[name]
    body = json.dumps(document).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", inferd.rest_port)
    head = f"POST /v1/{path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    head += f"content-length: {len(body)}\r\n\r\n"

    async def ask() -> None:
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        if b"chunked" in answer:
            await reader.readuntil(b"\r\n0\r\n\r\n")
        else:
            length = answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0]
            await reader.readexactly(int(length))

    await leaves_nothing(ask, garbage)
    writer.close()
    await writer.wait_closed()
    await asyncio.sleep(0.05)
    assert garbage() == {}


BY_GRPC = {
    "completion": ("CreateCompletion", {}),
    "completion, streamed": ("StreamCompletion", {}),
    "completion, with logprobs": ("StreamCompletion", {"logprobs": 1}),
    "refused": ("CreateCompletion", {"temperature": -1}),
}


@pytest.mark.parametrize("transport", ["in process"], indirect=True)
@pytest.mark.parametrize("name", BY_GRPC)
async def test_a_call(inferd: Inferd, garbage, name: str) -> None:
    method, fields = BY_GRPC[name]
    prompt = prompt_pb2.Prompt(text="Hello world")
    request = completion_pb2.CreateCompletionRequest(model="small", prompt=[prompt], max_tokens=20, **fields)
    async with inferd.channel() as channel:
        call = getattr(completion_pb2_grpc.CompletionServiceStub(channel), method)

        async def ask() -> None:
            with contextlib.suppress(grpc.aio.AioRpcError):
                if method.startswith("Stream"):
                    async for _ in call(request):
                        pass
                else:
                    await call(request)

        await leaves_nothing(ask, garbage)
