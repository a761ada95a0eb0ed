"""Each adapter against the real SGLang, by the same tests: the behaviour that the simulated runtimes copy.

Any model with the default model's tokenizer will do, because no test reads the meaning of a text.
"""

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest
from smg_grpc_proto import sglang_scheduler_pb2 as pb
from smg_grpc_proto import sglang_scheduler_pb2_grpc as pb_grpc
from tokenizers import Tokenizer

from inferd.services.errors import ServiceError
from inferd.services.runtimes.base import Constraint, Delta, Finish, GenerateRequest, Runtime, SamplingParams
from inferd.services.runtimes.http import HttpRuntime
from inferd.services.runtimes.scheduler import SchedulerRuntime
from tests.support.sinks import collect, generating

# "The capital of France is"
PROMPT = (504, 3575, 282, 4649, 314)


@pytest.fixture(params=["grpc", "http", "http, cumulative"])
async def runtime(request: pytest.FixtureRequest) -> AsyncIterator[Runtime]:
    runtime: Runtime
    if request.param == "grpc":
        runtime = SchedulerRuntime(request.getfixturevalue("sglang_address"))
    else:
        name = "sglang_url" if request.param == "http" else "sglang_cumulative_url"
        runtime = HttpRuntime(request.getfixturevalue(name))
    yield runtime
    await runtime.close()


async def generate(runtime: Runtime, stream: bool = True, **changes: Any) -> list[Delta]:
    """Greedy; `changes` are fields of the request, or of its sampling."""
    own = {name: changes.pop(name) for name in list(changes) if name in GenerateRequest.__slots__}
    sampling = SamplingParams(**{"max_new_tokens": 6, "temperature": 0.0, **changes})
    request = GenerateRequest(**{"token_ids": PROMPT, "sampling": sampling, "stream": stream, **own})
    return await collect(runtime, request)


def tokens(deltas: list[Delta]) -> list[int]:
    return [token_id for delta in deltas for token_id in delta.token_ids]


async def text(runtime: Runtime, deltas: list[Delta]) -> str:
    model_path = (await runtime.info()).model_path
    return str(Tokenizer.from_file(f"{model_path}/tokenizer.json").decode(tokens(deltas)))


async def test_serves(runtime: Runtime) -> None:
    await runtime.start()
    async with asyncio.timeout(30):
        while not runtime.serving:
            await asyncio.sleep(0.05)
    info = await runtime.info()
    assert info.model_path
    assert info.max_total_tokens and info.max_total_tokens > 0
    assert await runtime.waiting() == 0


async def test_stream_and_unary_have_the_same_tokens(runtime: Runtime) -> None:
    streamed = await generate(runtime, ignore_eos=True)
    (once,) = await generate(runtime, stream=False, ignore_eos=True)
    again = await generate(runtime, ignore_eos=True)
    assert tokens(streamed) == list(once.token_ids) == tokens(again)
    assert len(once.token_ids) == 6
    assert streamed[-1].finish == once.finish == Finish("length")


async def test_logprobs_agree_with_a_scored_prompt(runtime: Runtime) -> None:
    """The engine's score of prompt and answer together is what it said while it generated."""
    deltas = await generate(runtime, logprobs=True, top_logprobs=3, ignore_eos=True)
    parts = [delta.logprobs for delta in deltas if delta.logprobs]
    generated = [value for part in parts for value in part.values]
    assert [token_id for part in parts for token_id in part.token_ids] == tokens(deltas)
    for part in parts:
        for token_id, value, top in zip(part.token_ids, part.values, part.top, strict=True):
            assert top[0][0] == token_id and top[0][1] == pytest.approx(value, abs=1e-3)
            assert [pair[1] for pair in top] == sorted((pair[1] for pair in top), reverse=True)
            assert sum(math.exp(pair[1]) for pair in top) <= 1.001

    whole = (*PROMPT, *tokens(deltas))
    (scored,) = await generate(
        runtime, stream=False, token_ids=whole, max_new_tokens=0, prompt_logprobs=True, top_logprobs=2
    )
    assert not scored.token_ids and scored.finish == Finish("length")
    assert scored.prompt_logprobs is not None and scored.prompt_logprobs.token_ids == whole
    assert scored.prompt_logprobs.values[0] is None and scored.prompt_logprobs.top[0] == ()
    assert scored.prompt_logprobs.values[len(PROMPT) :] == pytest.approx(generated, abs=2e-2)
    assert all(len(top) == 2 for top in scored.prompt_logprobs.top[1:])


async def test_prompt_logprobs_come_with_the_first_delta(runtime: Runtime) -> None:
    deltas = await generate(runtime, max_new_tokens=2, prompt_logprobs=True)
    # Both tokens may come as one.
    first, *others = [delta.prompt_logprobs is not None for delta in deltas]
    assert first and not any(others)
    assert not any(delta.logprobs for delta in deltas)


@pytest.mark.parametrize(
    ("kind", "form", "pattern"),
    [
        ("regex", "[0-9]{3}", "[0-9]{3}"),
        ("ebnf", 'root ::= "yes" | "no"', "yes|no"),
        ("json_schema", json.dumps({"enum": ["red", "green"]}), '"red"|"green"'),
        (
            "structural_tag",
            json.dumps(
                {
                    "type": "structural_tag",
                    "format": {
                        "type": "tag",
                        "begin": "<call>",
                        "content": {"type": "json_schema", "json_schema": {"enum": [1, 2]}},
                        "end": "</call>",
                    },
                }
            ),
            "<call>[12]</call>",
        ),
    ],
)
async def test_constraint_is_honoured(runtime: Runtime, kind: Any, form: str, pattern: str) -> None:
    deltas = await generate(runtime, max_new_tokens=16, constraint=Constraint(kind, form))
    assert re.fullmatch(pattern, await text(runtime, deltas))
    assert deltas[-1].finish and deltas[-1].finish.reason == "stop"
    # The end token is delivered, and named.
    assert deltas[-1].finish.matched_token_id == tokens(deltas)[-1]


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("regex", "[0-9"),
        ("ebnf", "root := ((("),
        ("json_schema", '{"type": 12}'),
        ("json_schema", "{"),
        ("structural_tag", '{"type": "nope"}'),
    ],
)
async def test_bad_constraint(runtime: Runtime, kind: Any, form: str) -> None:
    with pytest.raises(ServiceError) as caught:
        await generate(runtime, constraint=Constraint(kind, form, "the field"))
    assert caught.value.field == "the field"
    assert (caught.value.code, caught.value.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_CONSTRAINT",
    )
    assert caught.value.message and ".cc:" not in caught.value.message


async def test_prompt_beyond_the_context_is_refused(runtime: Runtime) -> None:
    with pytest.raises(ServiceError) as caught:
        await generate(runtime, token_ids=PROMPT * 4000)
    assert (caught.value.code, caught.value.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "CONTEXT_LENGTH_EXCEEDED",
    )


async def test_stop_token_is_delivered_and_named(runtime: Runtime) -> None:
    free = tokens(await generate(runtime, ignore_eos=True))
    stop = free[2]
    deltas = await generate(runtime, stop_token_ids=(stop,))
    assert tokens(deltas) == free[: free.index(stop) + 1]
    assert deltas[-1].finish == Finish("stop", stop)


async def test_stop_string_finishes(runtime: Runtime) -> None:
    """Its tokens are delivered: cutting them off is for whoever makes text of them."""
    constraint = Constraint("regex", "hello wonderful world")
    deltas = await generate(runtime, max_new_tokens=30, constraint=constraint, stop=("derf",))
    said = await text(runtime, deltas)
    assert "derf" in said and "world" not in said
    assert deltas[-1].finish == Finish("stop", matched_text="derf")


async def test_logit_bias_is_honoured(runtime: Runtime) -> None:
    deltas = await generate(runtime, max_new_tokens=2, logit_bias=((30, 100.0),))
    assert tokens(deltas) == [30, 30]


@pytest.mark.parametrize("stream", [True, False])
async def test_cancelling_ends_the_work(runtime: Runtime, stream: bool) -> None:
    """In the engine, and at once."""
    before = await active(runtime)
    call = asyncio.create_task(generate(runtime, stream, max_new_tokens=2000, ignore_eos=True))
    async with asyncio.timeout(30):
        while await active(runtime) == before:
            await asyncio.sleep(0.02)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    async with asyncio.timeout(10):
        while await active(runtime) > before:
            await asyncio.sleep(0.02)


async def test_a_sink_that_wants_no_more_ends_the_work(runtime: Runtime) -> None:
    sampling = SamplingParams(max_new_tokens=2000, ignore_eos=True)
    before = await active(runtime)
    async with generating(runtime, GenerateRequest(PROMPT, sampling, stream=True)) as sink:
        await sink.came.wait()
        # What the engine says of itself lags by some steps.
        async with asyncio.timeout(30):
            while await active(runtime) == before:
                await asyncio.sleep(0.02)
    async with asyncio.timeout(10):
        while await active(runtime) > before:
            await asyncio.sleep(0.05)


async def active(runtime: Runtime) -> int:
    """How many requests are in the engine, by what it says itself."""
    _, _, place = runtime.name.rpartition("grpc ")
    if runtime.name.startswith("http"):
        async with httpx.AsyncClient() as http:
            loads = (await http.get(f"{place}/v1/loads?include=core")).json()["loads"]
        return sum(load["num_running_reqs"] + load["num_waiting_reqs"] for load in loads)
    async with grpc.aio.insecure_channel(place) as channel:
        scheduler = pb_grpc.SglangSchedulerStub(channel)
        # Requests the servicer holds, and those the scheduler runs: its own count lags by a step.
        info = await scheduler.GetServerInfo(pb.GetServerInfoRequest())
        answer = await scheduler.GetLoads(pb.GetLoadsRequest(include=["core"]))
        return int(info.active_requests + sum(load.num_total_reqs for load in answer.loads))


async def test_both_adapters_say_the_same(
    sglang_address: str, sglang_url: str, sglang_cumulative_url: str
) -> None:
    """Greedy tokens, and their log probabilities."""
    said = []
    for runtime in (
        SchedulerRuntime(sglang_address),
        HttpRuntime(sglang_url),
        HttpRuntime(sglang_cumulative_url),
    ):
        for stream in (True, False):
            deltas = await generate(
                runtime, stream, max_new_tokens=20, ignore_eos=True, logprobs=True, top_logprobs=3
            )
            values = [value for delta in deltas if delta.logprobs for value in delta.logprobs.values]
            said.append((tokens(deltas), values))
        await runtime.close()
    for others in said[1:]:
        assert others[0] == said[0][0]
        assert others[1] == pytest.approx(said[0][1], abs=1e-3)
