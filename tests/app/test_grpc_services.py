"""The gRPC services over a real socket: health, reflection, deadlines, cancellation, errors, limits."""

import asyncio
import contextlib
import json
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from inferd.services.errors import DOMAIN
from inferd.v1 import (
    chat_pb2,
    chat_pb2_grpc,
    completion_pb2,
    completion_pb2_grpc,
    message_pb2,
    prompt_pb2,
    tokenize_pb2,
    tokenize_pb2_grpc,
)
from tests.doubles.simulated_scheduler import Fault, SimulatedRuntime, echo
from tests.support.running import running_bridge, running_front

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def transport() -> str:
    """The bridge plays no part here."""
    return "in process"


def hello(**fields) -> chat_pb2.CreateChatCompletionRequest:
    content = [message_pb2.ContentPart(text="Hello")]
    messages = [message_pb2.Message(role=message_pb2.ROLE_USER, content=content)]
    return chat_pb2.CreateChatCompletionRequest(model="small", messages=messages, **fields)


async def fails(call) -> tuple[grpc.aio.AioRpcError, list]:
    """The error that a call ends with, and its details."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    status = rpc_status.from_call(raised.value)
    kinds = (
        error_details_pb2.ErrorInfo,
        error_details_pb2.BadRequest,
        error_details_pb2.RetryInfo,
        error_details_pb2.ResourceInfo,
        error_details_pb2.RequestInfo,
    )
    details = []
    for packed in status.details if status else ():
        for kind in kinds:
            if packed.Is(kind.DESCRIPTOR):
                details.append(kind.FromString(packed.value))
    return raised.value, details


async def test_grpcurl_needs_no_protos(start_inferd):
    inferd = await start_inferd(echo())
    grpcurl = Path(sys.executable).with_name("grpcurl")
    address = f"127.0.0.1:{inferd.grpc_port}"

    async def run(*arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            grpcurl, "-plaintext", *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, output
        return output.decode()

    listed = (await run(address, "list")).split()
    assert listed == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "inferd.v1.ChatService",
        "inferd.v1.CompletionService",
        "inferd.v1.ModelService",
        "inferd.v1.QueueService",
        "inferd.v1.TokenizeService",
    ]
    for symbol in (*listed, "inferd.v1.CreateChatCompletionRequest"):
        assert symbol in await run(address, "describe", symbol)
    body = json.dumps({"model": "small", "prompt": [{"text": "Hello"}], "maxTokens": 2, "n": 2})
    answer = json.loads(await run("-d", body, address, "inferd.v1.CompletionService/CreateCompletion"))
    assert [choice.get("index", 0) for choice in answer["choices"]] == [0, 1]
    assert answer["choices"][0]["finishReason"] == "FINISH_REASON_LENGTH"
    chunks = await run("-d", body, address, "inferd.v1.CompletionService/StreamCompletion")
    assert chunks.count('"choices"') >= 2


async def test_health_is_true_to_the_runtime_for_each_service(start_inferd):
    inferd = await start_inferd()
    async with inferd.channel() as channel:
        health = health_pb2_grpc.HealthStub(channel)

        async def status(service: str) -> int:
            return (await health.Check(health_pb2.HealthCheckRequest(service=service))).status

        names = ("", "inferd.v1.ChatService", "inferd.v1.CompletionService")
        assert [await status(name) for name in names] == [SERVING] * 3
        watch = health.Watch(health_pb2.HealthCheckRequest(service="inferd.v1.ChatService"))
        assert (await watch.read()).status == SERVING
        inferd.runtime.serving = False
        async with asyncio.timeout(10):
            assert (await watch.read()).status == NOT_SERVING
        assert [await status(name) for name in names] == [NOT_SERVING] * 3
        # These need no runtime.
        assert await status("inferd.v1.TokenizeService") == SERVING
        assert await status("inferd.v1.ModelService") == SERVING
        error, details = await fails(health.Check(health_pb2.HealthCheckRequest(service="nope")))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert details[0].reason == "SERVICE_NOT_FOUND"
        listed = (await health.List(health_pb2.HealthListRequest())).statuses
        assert {name for name, found in listed.items() if found.status == NOT_SERVING} == set(names)
        assert "inferd.v1.QueueService" in listed
        watch.cancel()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_deadline_ends_the_work(start_inferd, stream):
    inferd = await start_inferd(echo(tokens_per_second=10))
    async with inferd.channel() as channel:
        chat = chat_pb2_grpc.ChatServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            if stream:
                async for _ in chat.StreamChatCompletion(hello(), timeout=0.5):
                    pass
            else:
                await chat.CreateChatCompletion(hello(), timeout=0.5)
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await no_work(inferd)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_servers_own_time_limit_ends_the_work(start_inferd, stream):
    inferd = await start_inferd(echo(tokens_per_second=10), request_timeout=0.4)
    async with inferd.channel() as channel:
        chat = chat_pb2_grpc.ChatServiceStub(channel)
        call = chat.StreamChatCompletion(hello()).read() if stream else chat.CreateChatCompletion(hello())
        if stream:
            stream_call = chat.StreamChatCompletion(hello())

            async def drain() -> None:
                async for _ in stream_call:
                    pass

            call.close()
            error, details = await fails(drain())
        else:
            error, details = await fails(call)
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert details[0].reason == "DEADLINE_EXCEEDED"
        await no_work(inferd)


@pytest.mark.parametrize("stream", [False, True])
async def test_cancelling_ends_the_work(start_inferd, stream):
    inferd = await start_inferd(echo(tokens_per_second=5))
    async with inferd.channel() as channel:
        chat = chat_pb2_grpc.ChatServiceStub(channel)
        call = chat.StreamChatCompletion(hello(n=3)) if stream else chat.CreateChatCompletion(hello(n=3))
        async with asyncio.timeout(10):
            while inferd.runtime.running < 3:
                await asyncio.sleep(0.01)
        call.cancel()
        await no_work(inferd)
        assert inferd.runtime.cancelled == 3


async def no_work(inferd) -> None:
    async with asyncio.timeout(5):
        while inferd.runtime.running:
            await asyncio.sleep(0.01)


async def test_errors_say_what_and_where(start_inferd):
    inferd = await start_inferd()
    async with inferd.channel() as channel:
        chat = chat_pb2_grpc.ChatServiceStub(channel)
        request = hello()
        request.model = "other"
        error, details = await fails(chat.CreateChatCompletion(request, metadata=(("x-request-id", "abc"),)))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        info, bad, resource, request_info = details
        assert (resource.resource_type, resource.resource_name) == ("inferd.v1.Model", "other")
        assert (info.reason, info.domain, info.metadata["model"]) == ("MODEL_NOT_FOUND", DOMAIN, "other")
        assert bad.field_violations[0].field == "model"
        assert request_info.request_id == "abc"

        error, details = await fails(chat.CreateChatCompletion(hello(max_tokens=600)))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert details[0].reason == "CONTEXT_LENGTH_EXCEEDED"
        assert "512" in error.details()
        assert "600" in error.details()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 1.5}, "min_p"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"presence_penalty": -3}, "presence_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 600, "max_tokens": 3}, "max_completion_tokens"),
        ({"regex": ""}, "regex"),
        ({"ebnf": ""}, "ebnf"),
        ({"tools": [{"function": {"name": "f", "parameters": "[]"}}]}, "tools[0].function.parameters"),
        ({"n": 0}, "n"),
        ({"n": 1_000_000}, "n"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"min_tokens": 9, "max_tokens": 3}, "min_tokens"),
        ({"min_tokens": 2, "choice": ["a"]}, "min_tokens"),
        ({"stop": ["a"] * 33}, "stop"),
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"stop": ["a" * 1025]}, "stop[0]"),
        ({"stop_token_ids": [7, 1_000_000]}, "stop_token_ids[1]"),
        ({"logit_bias": {5: 101}}, 'logit_bias["5"]'),
        ({"logit_bias": {1_000_000: 1}}, 'logit_bias["1000000"]'),
        ({"regex": "a", "ebnf": "root ::= x"}, "ebnf"),
        (
            {"response_format": {"json_schema": {"name": "x", "schema": "{"}}},
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": {"json_schema": {"name": "x", "schema": "3"}}},
            "response_format.json_schema.schema",
        ),
        ({"response_format": {"json_schema": {"schema": "{}"}}}, "response_format.json_schema.name"),
        ({"tool_choice": {"mode": "TOOL_CHOICE_MODE_REQUIRED"}}, "tool_choice"),
    ],
)
async def test_values_out_of_range_are_named(start_inferd, fields, field):
    inferd = await start_inferd()
    async with inferd.channel() as channel:
        error, details = await fails(
            chat_pb2_grpc.ChatServiceStub(channel).CreateChatCompletion(hello(**fields))
        )
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert details[1].field_violations[0].field == field
        assert not inferd.runtime.requests


async def test_a_part_that_is_nothing_is_named(start_inferd):
    inferd = await start_inferd()
    request = hello()
    request.messages[0].content.add()
    async with inferd.channel() as channel:
        _, details = await fails(chat_pb2_grpc.ChatServiceStub(channel).CreateChatCompletion(request))
        assert details[1].field_violations[0].field == "messages[0].content[1]"


async def test_prompts_that_would_kill_an_engine_do_not_reach_it(start_inferd):
    inferd = await start_inferd()
    async with inferd.channel() as channel:
        stub = completion_pb2_grpc.CompletionServiceStub(channel)
        for prompts, field in (
            ([], "prompt"),
            ([prompt_pb2.Prompt()], "prompt[0]"),
            ([prompt_pb2.Prompt(text="")], "prompt[0]"),
            ([prompt_pb2.Prompt(text="a"), prompt_pb2.Prompt(token_ids=prompt_pb2.TokenIds())], "prompt[1]"),
            ([prompt_pb2.Prompt(token_ids=prompt_pb2.TokenIds(ids=[1, 99_999]))], "prompt[0][1]"),
        ):
            request = completion_pb2.CreateCompletionRequest(model="small", prompt=prompts)
            _, details = await fails(stub.CreateCompletion(request))
            assert details[1].field_violations[0].field == field
        many = [prompt_pb2.Prompt(text="a")] * 1000
        _, details = await fails(
            stub.CreateCompletion(completion_pb2.CreateCompletionRequest(model="small", prompt=many, n=2))
        )
        assert details[1].field_violations[0].field == "n"
        assert not inferd.runtime.requests


async def test_a_message_that_is_none_is_the_clients_fault(start_inferd):
    inferd = await start_inferd()
    async with inferd.channel() as channel:
        call = channel.unary_unary("/inferd.v1.ChatService/CreateChatCompletion")
        for data in (b"\xff\xff\xff", b"\x0a\x02\xff\xfe"):
            error, details = await fails(call(data))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert details[0].reason == "MALFORMED_MESSAGE"
        call = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        error, details = await fails(call(iter([b"\xff\xff\xff"])).read())
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert details[0].reason == "MALFORMED_MESSAGE"


async def test_too_many_calls_are_told_to_come_back(start_inferd):
    inferd = await start_inferd(echo(fault=Fault("hang")), max_concurrent_requests=2)
    async with inferd.channel() as channel:
        chat = chat_pb2_grpc.ChatServiceStub(channel)
        calls = [chat.CreateChatCompletion(hello()) for _ in range(2)]
        async with asyncio.timeout(10):
            while inferd.runtime.running < 2:
                await asyncio.sleep(0.01)
        error, details = await fails(chat.CreateChatCompletion(hello()))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert details[0].reason == "OVERLOADED"
        assert details[1].retry_delay.seconds == 1
        for call in calls:
            call.cancel()
        await no_work(inferd)
        inferd.runtime.script = echo()
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await chat.CreateChatCompletion(hello(max_tokens=1))
                    break


async def test_a_message_over_the_limit_is_refused(start_inferd):
    inferd = await start_inferd(max_body_bytes=4096)
    async with inferd.channel() as channel:
        stub = tokenize_pb2_grpc.TokenizeServiceStub(channel)
        request = tokenize_pb2.TokenizeRequest(
            completion={"model": "small", "prompt": [{"text": "a" * 5000}]}
        )
        error, (info, request_info) = await fails(stub.Tokenize(request))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert info.reason == "BODY_TOO_LARGE"
        assert dict(info.metadata) == {"limit": "4096", "value": str(request.ByteSize())}
        assert request_info.request_id
        assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "-1"


async def test_a_bridge_tells_the_limit_of_the_server_behind_it(start_inferd, make_config):
    inferd = await start_inferd(max_body_bytes=4096)
    inferd.rest_port = await inferd.stack.enter_async_context(
        running_bridge(inferd.grpc_port, make_config("127.0.0.1:1"))
    )
    async with inferd.http() as http:
        response = await http.post("/v1/tokenize", json={"model": "small", "prompt": "a" * 5000})
    assert response.status_code == 413
    error = response.json()["error"]
    assert (error["code"], error["metadata"]["limit"]) == ("body_too_large", "4096")


async def test_a_seed_that_is_ignored_is_said_to_be(start_inferd):
    inferd = await start_inferd()
    async with inferd.channel() as channel:
        call = chat_pb2_grpc.ChatServiceStub(channel).CreateChatCompletion(hello(seed=1, max_tokens=1))
        assert ("x-inferd-ignored", "seed") in tuple(await call.initial_metadata())
        await call
        call = chat_pb2_grpc.ChatServiceStub(channel).CreateChatCompletion(hello(max_tokens=1))
        assert "x-inferd-ignored" not in dict(await call.initial_metadata())
        await call


async def test_another_replica_answers_where_one_fails_before_its_first_token(make_config):

    async with SimulatedRuntime(echo(fault=Fault("status"))) as broken, SimulatedRuntime() as sound:
        async with running_front(make_config(broken.address, sound.address)) as (port, _):
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                chat = chat_pb2_grpc.ChatServiceStub(channel)
                for _ in range(4):
                    async with asyncio.timeout(10):
                        answer = await chat.CreateChatCompletion(hello(max_tokens=3), wait_for_ready=True)
                    assert answer.usage.completion_tokens == 3
        assert len(sound.requests) == 4
