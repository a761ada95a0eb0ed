"""The scheduler adapter against the simulated runtime, over real sockets: tokens, faults, health."""

import asyncio
import itertools
import math
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from smg_grpc_proto import sglang_scheduler_pb2 as pb
from smg_grpc_proto import sglang_scheduler_pb2_grpc as pb_grpc

from inferd.services.errors import ServiceError
from inferd.services.runtimes.base import Constraint, Delta, Finish, GenerateRequest, SamplingParams
from inferd.services.runtimes.logprob_value import logprob_value
from inferd.services.runtimes.scheduler import SchedulerRuntime
from inferd.services.runtimes.scheduler_responses import SchedulerResponses
from inferd.services.runtimes.scheduler_wire import to_message
from tests.doubles.simulated_scheduler import (
    Fault,
    Reply,
    Script,
    SimulatedRuntime,
    echo,
    fixed,
    logprob_of,
    top_logprobs_of,
)
from tests.support.sinks import Deltas, collect, generating

PROMPT = (11, 12, 13)
# For what must happen soon; only a failure waits so long.
SOON = 20.0
FULL = grpc.StatusCode.RESOURCE_EXHAUSTED


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
    script: Script, **settings: Any
) -> AsyncIterator[tuple[SimulatedRuntime, SchedulerRuntime]]:
    async with SimulatedRuntime(script, **settings) as server:
        runtime = SchedulerRuntime(server.address)
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


async def test_request_is_explicit_in_every_field() -> None:
    async with running(echo()) as (server, runtime):
        await collect(runtime, request())
        await collect(runtime, request())
    first, second = server.requests
    sampling = first.sampling_params
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.n) == (1, 1, -1, 1)
    assert sampling.repetition_penalty == 1
    assert sampling.skip_special_tokens and sampling.spaces_between_special_tokens
    assert sampling.HasField("max_new_tokens")
    assert first.logprob_start_len == -1 and not first.return_logprob
    assert list(first.tokenized.input_ids) == list(PROMPT)
    # The engine aborts by prefix, so no id may begin another.
    assert first.request_id != second.request_id
    assert len(first.request_id) == len(second.request_id)


def test_request_carries_what_was_asked() -> None:
    message = to_message(
        request(
            temperature=0.0,
            top_k=3,
            stop=("a", "b"),
            stop_token_ids=(5,),
            logit_bias=((7, -1.5),),
            constraint=Constraint("ebnf", 'root ::= "x"'),
            ignore_eos=True,
            prompt_logprobs=True,
            top_logprobs=2,
        )
    )
    sampling = message.sampling_params
    assert sampling.temperature == 0 and sampling.top_k == 3 and sampling.ignore_eos
    assert list(sampling.stop) == ["a", "b"] and list(sampling.stop_token_ids) == [5]
    assert dict(sampling.logit_bias) == {"7": -1.5}
    assert sampling.WhichOneof("constraint") == "ebnf_grammar"
    assert message.return_logprob and message.logprob_start_len == 0 and message.top_logprobs_num == 2


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("json_schema", "json_schema"),
        ("regex", "regex"),
        ("ebnf", "ebnf_grammar"),
        ("structural_tag", "structural_tag"),
    ],
)
def test_each_kind_of_constraint_has_its_field(kind: Any, field: str) -> None:
    sampling = to_message(request(constraint=Constraint(kind, "form"))).sampling_params
    assert sampling.WhichOneof("constraint") == field and getattr(sampling, field) == "form"


async def test_an_adapter_is_refused_before_it_kills_the_engine() -> None:
    async with running(echo()) as (server, runtime):
        error = await failure(collect(runtime, request(adapter="one")))
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "ADAPTER_NOT_LOADED")
    assert not server.requests


# Tokens: each once, in order


@pytest.mark.parametrize("complete", ["last_chunk", "all", "none", "rest"])
@pytest.mark.parametrize("chunk_sizes", [(1,), (3,), (2, 1, 4), (100,)])
async def test_stream_has_each_token_once(complete: Any, chunk_sizes: tuple[int, ...]) -> None:
    script = echo(chunk_sizes=chunk_sizes, complete=complete)
    async with running(script) as (_, runtime):
        deltas = await collect(runtime, request())
    assert tokens(deltas) == [11, 12, 13, 11, 12, 13, 11]
    assert [delta.finish for delta in deltas if delta.finish] == [Finish("length")]
    assert deltas[-1].finish


async def test_unary_is_one_delta() -> None:
    async with running(echo(cached_tokens=2)) as (_, runtime):
        (delta,) = await collect(runtime, request(stream=False, logprobs=True, top_logprobs=2))
    assert [*delta.token_ids] == [11, 12, 13, 11, 12, 13, 11]
    assert delta.finish == Finish("length") and delta.cached_tokens == 2
    assert delta.logprobs is not None
    assert delta.logprobs.values == tuple(logprob_of(i) for i in delta.token_ids)
    assert delta.logprobs.top[1] == tuple(top_logprobs_of(12, 2))


@given(
    token_ids=st.lists(st.integers(0, 100_000), max_size=30),
    chunk_sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    complete=st.sampled_from(["last_chunk", "all", "none", "rest"]),
    repeats=st.lists(st.booleans(), max_size=8),
    together=st.lists(st.integers(1, 4), min_size=1, max_size=4),
)
def test_reader_is_exact_for_every_chunking(
    token_ids: list[int], chunk_sizes: list[int], complete: str, repeats: list[bool], together: list[int]
) -> None:
    """Also where a message comes twice, or several come at once, and with logprobs cut as the tokens are."""
    responses, sent = [], 0
    sizes = chunk_sizes * (len(token_ids) + 1)
    tail: list[int] = []
    for size in sizes:
        if sent >= len(token_ids):
            break
        tail = token_ids[sent : sent + size]
        if complete == "rest" and sent + size >= len(token_ids):
            break
        sent += len(tail)
        responses.append(
            pb.GenerateResponse(
                chunk=pb.GenerateStreamChunk(
                    token_ids=tail, completion_tokens=sent, output_logprobs=output_logprobs(tail)
                )
            )
        )
    for place, repeat in enumerate(repeats):
        if repeat and place < len(responses):
            responses.insert(place, responses[place])
    last = {"all": token_ids, "none": []}.get(complete, tail)
    responses.append(
        pb.GenerateResponse(
            complete=pb.GenerateComplete(
                output_ids=last,
                completion_tokens=len(token_ids),
                finish_reason="length",
                output_logprobs=output_logprobs(last),
            )
        )
    )

    sink = Deltas()
    reader = SchedulerResponses(request(logprobs=True), sink)
    messages = [response.SerializeToString() for response in responses]
    batches = []
    for size in itertools.cycle(together):
        batches.append(messages[:size])
        messages = messages[size:]
        if not messages:
            break
    for batch in batches:
        if not reader.receive_all(batch):
            break
    deltas = sink.deltas

    assert tokens(deltas) == token_ids
    scored = [delta.logprobs for delta in deltas if delta.logprobs]
    assert [token_id for logprobs in scored for token_id in logprobs.token_ids] == token_ids
    assert [value for logprobs in scored for value in logprobs.values] == [*map(logprob_of, token_ids)]
    assert deltas[-1].finish and all(delta.finish is None for delta in deltas[:-1])


def output_logprobs(token_ids: list[int]) -> pb.OutputLogProbs:
    return pb.OutputLogProbs(token_ids=token_ids, token_logprobs=[logprob_of(i) for i in token_ids])


@pytest.mark.parametrize("completion_tokens", [0, 4])
def test_reader_refuses_lost_tokens(completion_tokens: int) -> None:
    chunk = pb.GenerateStreamChunk(token_ids=[1], completion_tokens=completion_tokens)
    with pytest.raises(ServiceError) as caught:
        SchedulerResponses(request(), Deltas()).receive(pb.GenerateResponse(chunk=chunk).SerializeToString())
    assert caught.value.code is grpc.StatusCode.INTERNAL


async def test_streams_are_not_crossed() -> None:
    async with running(echo(chunk_sizes=(1, 2))) as (server, runtime):

        async def one(number: int) -> None:
            prompt = (number, 1000 + number)
            deltas = await collect(runtime, request(token_ids=prompt, max_new_tokens=20))
            assert tokens(deltas) == list(prompt) * 10

        async with asyncio.timeout(SOON * 3), asyncio.TaskGroup() as group:
            for number in range(300):
                group.create_task(one(number))
        await until(lambda: server.running == 0)


# Logprobs, stops, scoring


@pytest.mark.parametrize("stream", [True, False])
async def test_prompt_logprobs_come_once(stream: bool) -> None:
    async with running(echo()) as (_, runtime):
        deltas = await collect(runtime, request(stream=stream, prompt_logprobs=True, top_logprobs=1))
    (logprobs,) = [delta.prompt_logprobs for delta in deltas if delta.prompt_logprobs]
    assert logprobs.token_ids == PROMPT
    assert logprobs.values == (None, logprob_of(12), logprob_of(13))
    assert logprobs.top == ((), tuple(top_logprobs_of(12, 1)), tuple(top_logprobs_of(13, 1)))
    assert not any(delta.logprobs for delta in deltas)


@pytest.mark.parametrize("stream", [True, False])
async def test_prompt_is_scored_without_generating(stream: bool) -> None:
    async with running(echo()) as (_, runtime):
        wanted = request(stream=stream, max_new_tokens=0, prompt_logprobs=True, logprobs=True)
        deltas = await collect(runtime, wanted)
    assert tokens(deltas) == []
    assert [delta.prompt_logprobs.token_ids for delta in deltas if delta.prompt_logprobs] == [PROMPT]
    assert deltas[-1].finish == Finish("length")


@pytest.mark.parametrize("stream", [True, False])
async def test_stop_token_is_delivered_and_named(stream: bool) -> None:
    async with running(fixed([5, 6, 7, 8])) as (_, runtime):
        deltas = await collect(runtime, request(stream=stream, stop_token_ids=(7,)))
    assert tokens(deltas) == [5, 6, 7]
    assert deltas[-1].finish == Finish("stop", 7)


async def test_eos_is_a_stop_token_unless_ignored() -> None:
    async with running(fixed([5, 2, 7]), eos_token_id=2) as (_, runtime):
        stopped = await collect(runtime, request())
        ignored = await collect(runtime, request(ignore_eos=True))
    assert tokens(stopped) == [5, 2] and stopped[-1].finish == Finish("stop", 2)
    assert tokens(ignored) == [5, 2, 7] and ignored[-1].finish == Finish("stop")


async def test_stop_string_is_named() -> None:
    def decode(token_ids: Any) -> str:
        return "".join(chr(i) for i in token_ids)

    async with running(fixed([*b"hello world"]), decode=decode) as (_, runtime):
        deltas = await collect(runtime, request(stop=("lo",)))
    assert tokens(deltas) == [*b"hello"]
    assert deltas[-1].finish == Finish("stop", matched_text="lo")


# Failures


@pytest.mark.parametrize(
    ("fault", "code", "reason"),
    [
        (Fault("status", code=grpc.StatusCode.INVALID_ARGUMENT), "INVALID_ARGUMENT", "RUNTIME_REFUSED"),
        (
            Fault("status", code=grpc.StatusCode.RESOURCE_EXHAUSTED),
            "RESOURCE_EXHAUSTED",
            "RUNTIME_OVERLOADED",
        ),
        (Fault("status", details="The request queue is full."), "RESOURCE_EXHAUSTED", "RUNTIME_OVERLOADED"),
        (Fault("status", after=3), "UNAVAILABLE", "RUNTIME_UNAVAILABLE"),
        (Fault("status", code=grpc.StatusCode.DEADLINE_EXCEEDED), "DEADLINE_EXCEEDED", "RUNTIME_DEADLINE"),
        (Fault("status", code=grpc.StatusCode.CANCELLED), "UNAVAILABLE", "RUNTIME_ABORTED"),
        (Fault("status", code=grpc.StatusCode.INTERNAL), "INTERNAL", "RUNTIME_ERROR"),
        (Fault("status", code=grpc.StatusCode.FAILED_PRECONDITION), "INTERNAL", "RUNTIME_ERROR"),
        (Fault("abort", after=2), "UNAVAILABLE", "RUNTIME_ABORTED"),
        (Fault("end", after=2), "UNAVAILABLE", "RUNTIME_ABORTED"),
    ],
    ids=lambda value: f"{value.kind}-{value.code.name}" if isinstance(value, Fault) else None,
)
@pytest.mark.parametrize("stream", [True, False])
async def test_fault_becomes_a_service_error(stream: bool, fault: Fault, code: str, reason: str) -> None:
    sink = Deltas()
    async with running(echo(fault=fault)) as (_, runtime):
        error = await failure(runtime.generate(request(stream=stream), sink))
    assert (error.code.name, error.reason) == (code, reason)
    assert len(tokens(sink.deltas)) == (fault.after if stream else 0)
    assert (error.retry_after is not None) == (code in {"UNAVAILABLE", "RESOURCE_EXHAUSTED"})


async def test_a_long_constraint_that_is_refused_is_told_as_such() -> None:
    """The engine's error repeats it, and gRPC takes 16 kB of metadata, here and at our callers."""
    text = "x" * 40_000
    details = f"Failed to compile ebnf grammar\nKey string: {text}"
    fault = Fault("status", code=grpc.StatusCode.INVALID_ARGUMENT, details=details)
    constraint = Constraint("ebnf", text, "ebnf")
    async with running(echo(fault=fault)) as (_, runtime):
        error = await failure(collect(runtime, request(constraint=constraint)))
    assert (error.reason, error.field, error.message) == (
        "INVALID_CONSTRAINT",
        "ebnf",
        "Failed to compile ebnf grammar",
    )


def test_tokens_that_a_grammar_ruled_out_have_no_probability() -> None:
    assert [logprob_value(value) for value in (-0.5, -9000.0, -1e30)] == [-0.5, -9000.0, -math.inf]


async def test_engine_internals_are_not_told() -> None:
    details = "Traceback (most recent call last): 10.0.0.5"
    script = echo(fault=Fault("status", code=grpc.StatusCode.INTERNAL, details=details))
    async with running(script) as (_, runtime):
        error = await failure(collect(runtime, request()))
    assert "10.0.0.5" not in error.message and "Traceback" not in error.message


XGRAMMAR = "Failed to compile regex grammar: [22:25:58] /project/cpp/regex.cc:83: Unclosed '['\n"


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", code=grpc.StatusCode.INVALID_ARGUMENT, details=XGRAMMAR),
        Fault(
            "status",
            after=1,
            code=grpc.StatusCode.FAILED_PRECONDITION,
            details="Unclosed '['",
            trailers=(("smg-constraint-failed", "engine"),),
        ),
    ],
)
async def test_constraint_at_fault(fault: Fault) -> None:
    async with running(echo(fault=fault)) as (_, runtime):
        error = await failure(collect(runtime, request(constraint=Constraint("regex", "["))))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_CONSTRAINT")
    assert "Unclosed '['" in error.message and "/project" not in error.message


async def test_empty_prompt_does_not_reach_the_engine() -> None:
    async with running(echo()) as (server, runtime):
        error = await failure(collect(runtime, request(token_ids=())))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert not server.requests


async def test_nothing_listens() -> None:
    async with SimulatedRuntime() as server:
        pass
    runtime = SchedulerRuntime(server.address)
    for call in (collect(runtime, request()), runtime.info()):
        error = await failure(call)
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "RUNTIME_UNAVAILABLE")
        assert error.retry_after
    await runtime.close()


# Cancellation: the engine stops working


async def test_a_sink_that_wants_no_more_ends_the_work() -> None:
    async with running(echo(fault=Fault("hang", after=2))) as (server, runtime):
        sink = Deltas(most=2)
        async with asyncio.timeout(SOON):
            await runtime.generate(request(), sink)
        assert tokens(sink.deltas) == [11, 12]
        await until(lambda: server.running == 0)
        assert server.cancelled == 1


async def test_a_paused_flow_stops_the_engines_stream() -> None:
    async with running(echo(chunk_sizes=(1,))) as (server, runtime):
        wanted = request(max_new_tokens=20_000)
        async with generating(runtime, wanted) as sink:
            await until(lambda: bool(sink.deltas))
            sink.flow.pause()
            await asyncio.sleep(0.1)
            held = len(sink.deltas)
            await asyncio.sleep(0.2)
            assert len(sink.deltas) == held
            assert server.running == 1
            sink.flow.resume()
            await until(lambda: sink.deltas[-1].finish is not None)
        assert tokens(sink.deltas) == [PROMPT[number % 3] for number in range(20_000)]


@pytest.mark.parametrize("stream", [True, False])
async def test_cancelling_the_task_ends_the_work(stream: bool) -> None:
    async with running(echo(fault=Fault("hang"))) as (server, runtime):
        task = asyncio.create_task(collect(runtime, request(stream=stream)))
        await until(lambda: server.running == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: server.running == 0)


# Health


@asynccontextmanager
async def watched(server: SimulatedRuntime) -> AsyncIterator[tuple[SchedulerRuntime, list[bool]]]:
    """A started runtime, and what `serving` was at each call of `on_change`."""
    seen: list[bool] = []
    runtime = SchedulerRuntime(server.address, on_change=lambda: seen.append(runtime.serving))
    assert not runtime.serving
    await runtime.start()
    try:
        yield runtime, seen
    finally:
        await runtime.close()


async def test_serving_follows_the_health_service() -> None:
    async with SimulatedRuntime() as server, watched(server) as (runtime, seen):
        await until(lambda: runtime.serving)
        server.serving = False
        await until(lambda: not runtime.serving)
        server.serving = True
        await until(lambda: runtime.serving)
        assert seen == [True, False, True]


async def test_restart_on_the_same_port_is_found() -> None:
    async with SimulatedRuntime() as server, watched(server) as (runtime, seen):
        await until(lambda: runtime.serving)
        await server.stop()
        await until(lambda: not runtime.serving)
        await server.start()
        await until(lambda: runtime.serving)
        assert tokens(await collect(runtime, request(max_new_tokens=3))) == [*PROMPT]
        assert seen == [True, False, True]


async def test_start_before_the_engine() -> None:
    async with SimulatedRuntime() as server:
        await server.stop()
        async with watched(server) as (runtime, seen):
            await server.start()
            await until(lambda: runtime.serving)
            assert seen == [True]


@pytest.mark.parametrize("stream", [True, False])
async def test_call_on_a_mute_dying_server_ends(stream: bool) -> None:
    """As the SMG servicer does when its scheduler dies: port closed, open calls kept and silent."""
    async with (
        SimulatedRuntime(echo(fault=Fault("hang", after=2))) as server,
        watched(server) as (runtime, _),
    ):
        await until(lambda: runtime.serving)
        call = asyncio.create_task(collect(runtime, request(stream=stream)))
        await until(lambda: server.running == 1)
        stopping = asyncio.create_task(server.stop(grace=60))
        error = await failure(call)
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "RUNTIME_UNAVAILABLE")
        await stopping


async def test_call_that_still_speaks_may_end() -> None:
    """A server that was told to stop lets its calls end, and so do we."""
    script = echo(tokens_per_second=10.0)
    async with SimulatedRuntime(script) as server, watched(server) as (runtime, _):
        await until(lambda: runtime.serving)
        call = asyncio.create_task(collect(runtime, request(max_new_tokens=20)))
        await until(lambda: server.running == 1)
        stopping = asyncio.create_task(server.stop(grace=60))
        async with asyncio.timeout(SOON):
            assert len(tokens(await call)) == 20
        assert not runtime.serving
        await stopping


async def test_not_serving_does_not_end_calls() -> None:
    async with SimulatedRuntime(echo(tokens_per_second=8.0)) as server, watched(server) as (runtime, _):
        await until(lambda: runtime.serving)
        call = asyncio.create_task(collect(runtime, request(stream=False, max_new_tokens=12)))
        await until(lambda: server.running == 1)
        server.serving = False
        async with asyncio.timeout(SOON):
            assert len(tokens(await call)) == 12
        assert not runtime.serving


async def test_server_without_a_health_service_serves() -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    pb_grpc.add_SglangSchedulerServicer_to_server(pb_grpc.SglangSchedulerServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    runtime = SchedulerRuntime(f"127.0.0.1:{port}")
    await runtime.start()
    await until(lambda: runtime.serving)
    await runtime.close()
    await server.stop(None)


# The rest


async def test_close_ends_calls_and_may_be_repeated() -> None:
    async with running(echo(fault=Fault("hang", after=1))) as (server, runtime):
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


async def test_info() -> None:
    async with running(echo(), model_path="/models/x", max_total_tokens=77) as (_, runtime):
        info = await runtime.info()
    assert info.model_path == "/models/x" and info.max_total_tokens == 77


async def test_simulated_runtime_as_a_process() -> None:
    arguments = [
        "-m",
        "tests.doubles.simulated_scheduler",
        "--token-ids",
        "[1, 2, 3]",
        "--tokens-per-chunk",
        "2",
    ]
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            line = (await process.stdout.readline()).decode()
        prefix, address = line.rsplit(" ", 1)
        assert prefix == "simulated runtime on"
        runtime = SchedulerRuntime(address.strip())
        assert tokens(await collect(runtime, request())) == [1, 2, 3]
        await runtime.close()
    finally:
        process.terminate()
        await process.wait()


def test_simulated_logprobs_are_exact_in_float32() -> None:
    """The tests above compare them for equality after the wire."""
    assert all(math.ldexp(logprob_of(i), 3).is_integer() for i in range(97))
    assert Reply(()).complete == "last_chunk"
