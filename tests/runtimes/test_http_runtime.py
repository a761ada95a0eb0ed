"""The http adapter against a simulated SGLang server, over real sockets: tokens, faults, health."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferd.services.errors import ServiceError
from inferd.services.runtimes.base import Constraint, Delta, Finish, GenerateRequest, Medium, SamplingParams
from inferd.services.runtimes.http import HttpRuntime
from inferd.services.runtimes.http_wire import EventReader, to_body
from tests.doubles.simulated_http import (
    HttpFault,
    HttpReply,
    HttpScript,
    SimulatedHttpServer,
    echo_http,
)
from tests.doubles.simulated_scheduler import logprob_of, top_logprobs_of
from tests.support.sinks import Deltas, collect, generating

PROMPT = (11, 12, 13)
# For what must happen soon; only a failure waits so long.
SOON = 20.0


def request(stream: bool = True, max_new_tokens: int = 7, **changes: Any) -> GenerateRequest:
    """A request; `changes` are its fields, or its sampling's."""
    own = {name: changes.pop(name) for name in list(changes) if name in GenerateRequest.__slots__}
    sampling = SamplingParams(max_new_tokens=max_new_tokens, **changes)
    return GenerateRequest(**{"token_ids": PROMPT, "sampling": sampling, "stream": stream, **own})


def tokens(deltas: list[Delta]) -> list[int]:
    return [token_id for delta in deltas for token_id in delta.token_ids]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(
    script: HttpScript | None = None, **settings: Any
) -> AsyncIterator[tuple[SimulatedHttpServer, HttpRuntime]]:
    async with SimulatedHttpServer(script, **settings) as server:
        runtime = HttpRuntime(server.url)
        try:
            yield server, runtime
        finally:
            await runtime.close()


async def failure(call: Awaitable[object]) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        async with asyncio.timeout(SOON):
            await call
    return caught.value


# What is sent


async def test_request_carries_what_was_asked() -> None:
    wanted = request(
        temperature=0.0,
        top_k=3,
        stop=("a", "b"),
        stop_token_ids=(5,),
        logit_bias=((7, -1.5),),
        constraint=Constraint("ebnf", 'root ::= "x"'),
        ignore_eos=True,
        seed=9,
        priority=-2,
        cache_salt="salt",
        extra_key="key",
        adapter="one",
        media=(
            Medium("image", "data:image/png;base64,AA", "messages[0].content[0]"),
            Medium("audio", "data:audio/wav;base64,BB", "messages[0].content[1]"),
            Medium("image", "data:image/png;base64,CC", "messages[1].content[0]"),
        ),
        prompt_logprobs=True,
        top_logprobs=2,
    )
    async with running() as (server, runtime):
        await collect(runtime, wanted)
        await collect(runtime, request())
    body, plain = server.requests
    assert body["input_ids"] == [*PROMPT] and body["stream"] is True
    sampling = body["sampling_params"]
    assert (sampling["temperature"], sampling["top_k"], sampling["sampling_seed"]) == (0, 3, 9)
    assert sampling["stop"] == ["a", "b"]
    assert sampling["stop_token_ids"] == [5] and sampling["logit_bias"] == {"7": -1.5}
    assert sampling["ebnf"] == 'root ::= "x"' and sampling["ignore_eos"] is True
    assert (body["priority"], body["cache_salt"], body["extra_key"]) == (-2, "salt", "key")
    assert body["lora_path"] == "one"
    assert body["image_data"] == ["data:image/png;base64,AA", "data:image/png;base64,CC"]
    assert body["audio_data"] == ["data:audio/wav;base64,BB"]
    assert (body["return_logprob"], body["logprob_start_len"], body["top_logprobs_num"]) == (True, 0, 2)
    # What was not asked for is not there: some of it SGLang refuses without its flags.
    unset = {"priority", "cache_salt", "extra_key", "lora_path", "image_data", "audio_data", "return_logprob"}
    assert not unset & plain.keys() and "sampling_seed" not in plain["sampling_params"]
    # The engine aborts by prefix, so no id may begin another.
    assert body["rid"] != plain["rid"] and len(body["rid"]) == len(plain["rid"])


@pytest.mark.parametrize("kind", ["json_schema", "regex", "ebnf", "structural_tag"])
def test_each_kind_of_constraint_has_its_field(kind: Any) -> None:
    sampling = orjson.loads(to_body(request(constraint=Constraint(kind, "form")), "id"))["sampling_params"]
    assert {name for name in sampling if sampling[name] == "form"} == {kind}


async def test_a_url_may_have_a_path() -> None:
    async with SimulatedHttpServer() as server:
        runtime = HttpRuntime(f"{server.url}/behind/a/proxy/")
        error = await failure(collect(runtime, request()))
        await runtime.close()
    assert server.paths[0] == "/behind/a/proxy/generate"
    assert error.code is grpc.StatusCode.INTERNAL


# Tokens: each once, in order


@pytest.mark.parametrize("incremental", [True, False])
@pytest.mark.parametrize("chunk_sizes", [(1,), (3,), (2, 1, 4), (100,)])
@pytest.mark.parametrize("events_per_write", [1, 3])
async def test_stream_has_each_token_once(
    incremental: bool, chunk_sizes: tuple[int, ...], events_per_write: int
) -> None:
    script = echo_http(chunk_sizes=chunk_sizes, events_per_write=events_per_write)
    async with running(script, incremental=incremental) as (_, runtime):
        deltas = await collect(runtime, request(logprobs=True, top_logprobs=2))
    assert tokens(deltas) == [11, 12, 13, 11, 12, 13, 11]
    assert [delta.finish for delta in deltas if delta.finish] == [Finish("length")]
    assert deltas[-1].finish
    for delta in deltas:
        assert delta.logprobs is not None
        assert delta.logprobs.token_ids == delta.token_ids
        assert delta.logprobs.values == tuple(logprob_of(i) for i in delta.token_ids)
        assert delta.logprobs.top == tuple(tuple(top_logprobs_of(i, 2)) for i in delta.token_ids)


async def test_unary_is_one_delta() -> None:
    async with running(echo_http(cached_tokens=2)) as (_, runtime):
        (delta,) = await collect(runtime, request(stream=False, logprobs=True))
    assert delta.token_ids == (11, 12, 13, 11, 12, 13, 11)
    assert delta.finish == Finish("length") and delta.cached_tokens == 2
    assert delta.logprobs is not None and delta.logprobs.top == ((),) * 7
    # The prompt was ours: how long it is, we know.
    assert delta.prompt_tokens is None


@pytest.mark.parametrize("incremental", [True, False])
async def test_prompt_logprobs_come_once(incremental: bool) -> None:
    async with running(echo_http(), incremental=incremental) as (_, runtime):
        deltas = await collect(runtime, request(prompt_logprobs=True, top_logprobs=1))
    assert [delta.prompt_logprobs is not None for delta in deltas] == [True] + [False] * 6
    prompt = deltas[0].prompt_logprobs
    assert prompt is not None and prompt.token_ids == PROMPT
    assert prompt.values == (None, logprob_of(12), logprob_of(13))
    assert prompt.top == ((), ((12, logprob_of(12)),), ((13, logprob_of(13)),))
    assert not any(delta.logprobs for delta in deltas)


@pytest.mark.parametrize("stream", [True, False])
async def test_no_tokens_is_an_answer(stream: bool) -> None:
    async with running() as (_, runtime):
        (delta,) = await collect(runtime, request(stream, max_new_tokens=0, prompt_logprobs=True))
    assert delta.token_ids == () and delta.finish == Finish("length")
    assert delta.prompt_logprobs is not None


@pytest.mark.parametrize(
    ("matched", "finish"),
    [
        (13, Finish("stop", 13)),
        ([12, 13], Finish("stop", 13)),
        ("derf", Finish("stop", matched_text="derf")),
        (None, Finish("stop")),
    ],
)
async def test_what_ended_it_is_told(matched: Any, finish: Finish) -> None:
    reply = HttpReply(PROMPT, finish_reason={"type": "stop", "matched": matched})
    async with running(lambda _: reply) as (_, runtime):
        deltas = await collect(runtime, request())
    assert deltas[-1].finish == finish and tokens(deltas) == [*PROMPT]


async def test_the_runtime_counts_a_prompt_with_media() -> None:
    media = (Medium("image", "data:image/png;base64,AA", "messages[0].content[0]"),)
    async with running() as (_, runtime):
        deltas = await collect(runtime, request(media=media))
    assert {delta.prompt_tokens for delta in deltas} == {3}


@given(st.lists(st.text(max_size=9), min_size=1, max_size=6), st.lists(st.integers(1, 20), min_size=1))
def test_events_are_whole_however_the_stream_is_cut(texts: list[str], cuts: list[int]) -> None:
    documents = [json.dumps({"text": text}).encode() for text in texts]
    data = b"".join(b"data: %b\n\n" % document for document in documents) + b"data: [DONE]\n\n"
    reader, read, start = EventReader(), [], 0
    while start < len(data):
        size = cuts[start % len(cuts)]
        read += list(reader.feed(data[start : start + size]))
        start += size
    assert read == documents


async def test_connections_are_kept() -> None:
    async with running() as (server, runtime):
        for stream in (True, False, True, False):
            await collect(runtime, request(stream))
    assert server.connections == 1
    assert not server.aborted


# Faults

XGRAMMAR = "Failed to compile regex grammar: [22:25:58] /project/cpp/regex.cc:83: Unclosed '['\n"
LONG = "Input length (2046 tokens) exceeds the maximum allowed length (2042 tokens). Use a shorter input."
LONGER = "The input (3000 tokens) is longer than the model's context length (2048 tokens)."
MANY = (
    "Requested token count exceeds the model's maximum context length of 2048 tokens. "
    "You requested a total of 3001 tokens: 1 tokens from the input messages and 3000 tokens for the "
    "completion. Please reduce it."
)
FULL = "The request queue is full."
NO_LORA = "LoRA adapter 'one' was requested, but LoRA is not enabled. Please launch the server with it."
NEVER_LOADED = "Got LoRA adapter that has never been loaded: one\nAll loaded adapters: dict_keys(['two'])."
UNLOADED = "The following requested LoRA adapters are not loaded: one\nLoaded adapters: odict_keys([])."


@pytest.mark.parametrize("kind", ["status", "error", "abort"])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("status", "message", "code", "reason"),
    [
        (400, "temperature must be finite", "INVALID_ARGUMENT", "RUNTIME_REFUSED"),
        (400, LONG, "INVALID_ARGUMENT", "CONTEXT_LENGTH_EXCEEDED"),
        (400, LONGER, "INVALID_ARGUMENT", "CONTEXT_LENGTH_EXCEEDED"),
        (400, MANY, "INVALID_ARGUMENT", "CONTEXT_LENGTH_EXCEEDED"),
        (400, XGRAMMAR, "INVALID_ARGUMENT", "INVALID_CONSTRAINT"),
        (500, "Grammar accept_token failed: x", "INVALID_ARGUMENT", "INVALID_CONSTRAINT"),
        (400, NO_LORA, "UNAVAILABLE", "ADAPTER_NOT_LOADED"),
        (400, NEVER_LOADED, "UNAVAILABLE", "ADAPTER_NOT_LOADED"),
        (400, UNLOADED, "UNAVAILABLE", "ADAPTER_NOT_LOADED"),
        (429, "busy", "RESOURCE_EXHAUSTED", "RUNTIME_OVERLOADED"),
        (503, FULL, "RESOURCE_EXHAUSTED", "RUNTIME_OVERLOADED"),
        (503, "Request waiting timeout reached.", "UNAVAILABLE", "RUNTIME_UNAVAILABLE"),
        (504, "late", "DEADLINE_EXCEEDED", "RUNTIME_DEADLINE"),
        (500, "Traceback 10.0.0.5", "INTERNAL", "RUNTIME_ERROR"),
    ],
)
async def test_failure_is_named(
    kind: Any, stream: bool, status: int, message: str, code: str, reason: str
) -> None:
    script = echo_http(fault=HttpFault(kind, status=status, message=message))
    constraint = Constraint("regex", "[", "regex")
    async with running(script) as (_, runtime):
        wanted = request(stream, constraint=constraint, adapter="one")
        error = await failure(collect(runtime, wanted))
    assert (error.code.name, error.reason) == (code, reason)
    assert (error.field == "regex") == (reason == "INVALID_CONSTRAINT")
    assert (error.retry_after is not None) == (reason in {"RUNTIME_OVERLOADED", "RUNTIME_UNAVAILABLE"})
    assert not {"/project", "10.0.0.5", "Traceback"} & set(error.message.split())


@pytest.mark.parametrize(
    "body",
    [
        b"Internal Server Error",
        b'{"object":"error","message":"1 validation error: File \\"/x/http_server.py\\"","code":400}',
        b"[]",
    ],
)
async def test_a_request_that_is_not_understood_is_no_fault_of_the_callers(body: bytes) -> None:
    async with running(echo_http(fault=HttpFault("status", status=400, body=body))) as (_, runtime):
        error = await failure(collect(runtime, request()))
    assert error.code is grpc.StatusCode.INTERNAL and "http_server" not in error.message


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"output_ids": 3, "meta_info": {}}', b'{"a": ['])
async def test_an_answer_that_is_not_understood(body: bytes) -> None:
    async with running(echo_http(fault=HttpFault("status", status=200, body=body))) as (_, runtime):
        error = await failure(collect(runtime, request(stream=False)))
    assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "RUNTIME_ERROR")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (HttpFault("abort", 2, status=None), "RUNTIME_ABORTED"),
        (HttpFault("end", 2), "RUNTIME_ABORTED"),
        (HttpFault("cut", 2), "RUNTIME_UNAVAILABLE"),
    ],
)
async def test_an_answer_that_breaks_off(stream: bool, fault: HttpFault, reason: str) -> None:
    sink = Deltas()
    async with running(echo_http(fault=fault)) as (_, runtime):
        error = await failure(runtime.generate(request(stream), sink))
    assert error.code is grpc.StatusCode.UNAVAILABLE
    assert tokens(sink.deltas) == ([11, 12] if stream else [])
    if stream:
        assert error.reason == reason


@pytest.mark.parametrize(("count", "field"), [(1, "part[0]"), (2, "messages")])
async def test_a_medium_that_cannot_be_read(count: int, field: str) -> None:
    words = f"Error while loading data data:image/png;base64,{'A' * 78}...: cannot identify image file"
    media = tuple(Medium("image", "data:image/png;base64,AA", f"part[{index}]") for index in range(count))
    async with running(echo_http(fault=HttpFault("error", message=words))) as (_, runtime):
        error = await failure(collect(runtime, request(media=media)))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_MEDIA")
    assert error.field == field and "cannot identify" in error.message and "base64" not in error.message


async def test_what_would_harm_the_engine_does_not_reach_it() -> None:
    async with running() as (server, runtime):
        error = await failure(collect(runtime, request(token_ids=())))
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert not server.requests


async def test_nothing_listens() -> None:
    async with SimulatedHttpServer() as server:
        pass
    runtime = HttpRuntime(server.url)
    for call in (collect(runtime, request()), runtime.info(), runtime.waiting()):
        error = await failure(call)
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "RUNTIME_UNAVAILABLE")
        assert error.retry_after
    await runtime.close()


# Cancellation: the engine stops working


async def test_a_sink_that_wants_no_more_ends_the_work() -> None:
    async with running(echo_http(fault=HttpFault("hang", after=2))) as (server, runtime):
        sink = Deltas(most=1)
        async with asyncio.timeout(SOON):
            await runtime.generate(request(), sink)
        assert tokens(sink.deltas) == [11]
        await until(lambda: server.running == 0)
        await until(lambda: list(server.aborted) == [server.requests[0]["rid"]])


async def test_a_paused_flow_holds_tokens_back() -> None:
    async with running(echo_http()) as (_, runtime):
        wanted = request(max_new_tokens=2000)
        async with generating(runtime, wanted) as sink:
            await until(lambda: bool(sink.deltas))
            sink.flow.pause()
            await asyncio.sleep(0.1)
            held = len(sink.deltas)
            await asyncio.sleep(0.2)
            assert len(sink.deltas) == held
            sink.flow.resume()
            await until(lambda: sink.deltas[-1].finish is not None)
        assert tokens(sink.deltas) == [PROMPT[number % 3] for number in range(2000)]


@pytest.mark.parametrize("stream", [True, False])
async def test_cancelling_the_task_ends_the_work(stream: bool) -> None:
    async with running(echo_http(fault=HttpFault("hang"))) as (server, runtime):
        task = asyncio.create_task(collect(runtime, request(stream)))
        await until(lambda: server.running == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: server.running == 0)
        await until(lambda: list(server.aborted) == [server.requests[0]["rid"]])


# Health, and what the engine is


@asynccontextmanager
async def watched(server: SimulatedHttpServer) -> AsyncIterator[tuple[HttpRuntime, list[bool]]]:
    """A started runtime, and what `serving` was at each call of `on_change`."""
    seen: list[bool] = []
    runtime = HttpRuntime(server.url, on_change=lambda: seen.append(runtime.serving))
    assert not runtime.serving
    await runtime.start()
    try:
        yield runtime, seen
    finally:
        await runtime.close()


@pytest.mark.parametrize("ready", [True, False])
async def test_serving_follows_the_health_of_the_engine(ready: bool) -> None:
    async with SimulatedHttpServer(ready=ready) as server, watched(server) as (runtime, seen):
        await until(lambda: runtime.serving)
        server.serving = False
        await until(lambda: not runtime.serving)
        server.serving = True
        await until(lambda: runtime.serving)
        assert seen == [True, False, True]


async def test_restart_on_the_same_port_is_found() -> None:
    async with SimulatedHttpServer() as server, watched(server) as (runtime, seen):
        await until(lambda: runtime.serving)
        await server.stop()
        await until(lambda: not runtime.serving)
        await server.start()
        await until(lambda: runtime.serving)
        assert tokens(await collect(runtime, request(max_new_tokens=3))) == [*PROMPT]
        assert seen == [True, False, True]


@pytest.mark.parametrize("stream", [True, False])
async def test_call_on_a_mute_dying_server_ends(stream: bool) -> None:
    async with (
        SimulatedHttpServer(echo_http(fault=HttpFault("hang", after=2))) as server,
        watched(server) as (runtime, _),
    ):
        await until(lambda: runtime.serving)
        call = asyncio.create_task(collect(runtime, request(stream)))
        await until(lambda: server.running == 1)
        await server.stop(keep_calls=True)
        error = await failure(call)
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "RUNTIME_UNAVAILABLE")


async def test_not_serving_does_not_end_calls() -> None:
    gate = asyncio.Event()
    async with SimulatedHttpServer(echo_http(gate=gate)) as server, watched(server) as (runtime, _):
        await until(lambda: runtime.serving)
        call = asyncio.create_task(collect(runtime, request()))
        await until(lambda: server.running == 1)
        server.serving = False
        await until(lambda: not runtime.serving)
        gate.set()
        assert len(tokens(await call)) == 7


async def test_what_the_engine_lacks_is_known_once_it_serves() -> None:
    plain = {"enable_deterministic_inference": False, "enable_priority_scheduling": False}
    blind = {"has_image_understanding": False}
    async with (
        SimulatedHttpServer(server_info=plain, model_info=blind) as server,
        watched(server) as (runtime, _),
    ):
        await until(lambda: runtime.serving)
        assert runtime.unsupported == {"seed", "priority"}
        assert runtime.media == {"audio"}
    async with SimulatedHttpServer() as server, watched(server) as (runtime, _):
        await until(lambda: runtime.serving)
        assert runtime.unsupported == frozenset() and runtime.media == {"image", "audio"}


async def test_cumulative_streams_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    async with SimulatedHttpServer(incremental=False) as server, watched(server) as (runtime, _):
        await until(lambda: runtime.serving)
    assert "--incremental-streaming-output" in caplog.text


async def test_info_and_load(tmp_path: Any) -> None:
    async with running(server_info={"model_path": "/models/x", "max_total_num_tokens": 77}) as (
        server,
        runtime,
    ):
        info = await runtime.info()
        server.waiting = 3
        assert await runtime.waiting() == 3
        error = await failure(runtime.fetch_tokenizer(tmp_path))
    assert (info.model_path, info.max_total_tokens) == ("/models/x", 77)
    assert error.code is grpc.StatusCode.UNIMPLEMENTED


async def test_close_ends_calls_and_may_be_repeated() -> None:
    async with running(echo_http(fault=HttpFault("hang", after=1))) as (server, runtime):
        await runtime.start()
        call = asyncio.create_task(collect(runtime, request()))
        await until(lambda: server.running == 1)
        await runtime.close()
        await runtime.close()
        error = await failure(call)
        assert error.code is grpc.StatusCode.UNAVAILABLE
        assert not runtime.serving
        error = await failure(collect(runtime, request()))
        assert error.code is grpc.StatusCode.UNAVAILABLE
        await until(lambda: server.running == 0)
