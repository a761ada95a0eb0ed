"""The id of a request is the same over gRPC and REST: given back once, and named in errors."""

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from inferd.v1 import chat_pb2, chat_pb2_grpc, message_pb2

MINE = (("x-request-id", "mine"),)
JSON = {"model": "small", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}


def hello(model: str = "small") -> chat_pb2.CreateChatCompletionRequest:
    content = [message_pb2.ContentPart(text="Hello")]
    messages = [message_pb2.Message(role=message_pb2.ROLE_USER, content=content)]
    return chat_pb2.CreateChatCompletionRequest(model=model, messages=messages, max_tokens=2)


def ids(metadata: grpc.aio.Metadata) -> list[object]:
    return [value for key, value in metadata if key == "x-request-id"]


def id_in_error(error: grpc.aio.AioRpcError) -> str:
    for detail in rpc_status.from_call(error).details:
        if detail.Is(error_details_pb2.RequestInfo.DESCRIPTOR):
            return error_details_pb2.RequestInfo.FromString(detail.value).request_id
    raise AssertionError("no RequestInfo")


@pytest.mark.parametrize("transport", ["in process"])
async def test_every_grpc_call_gives_the_clients_id_back(start_inferd):
    inferd = await start_inferd()
    async with inferd.channel() as channel:
        chat = chat_pb2_grpc.ChatServiceStub(channel)
        health = health_pb2_grpc.HealthStub(channel)
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        listing = reflection_pb2.ServerReflectionRequest(list_services="")
        watch = health.Watch(health_pb2.HealthCheckRequest(), metadata=MINE)
        for call in (
            chat.CreateChatCompletion(hello(), metadata=MINE),
            chat.StreamChatCompletion(hello(), metadata=MINE),
            health.Check(health_pb2.HealthCheckRequest(), metadata=MINE),
            watch,
            reflection.ServerReflectionInfo(iter([listing]), metadata=MINE),
        ):
            assert ids(await call.initial_metadata()) == ["mine"]
        watch.cancel()


@pytest.mark.parametrize("transport", ["in process"])
@pytest.mark.parametrize("given", [MINE, ()], ids=["given", "not given"])
async def test_an_error_names_the_id_of_the_metadata(start_inferd, given):
    inferd = await start_inferd()
    async with inferd.channel() as channel:
        chat = chat_pb2_grpc.ChatServiceStub(channel)
        for call in (
            chat.CreateChatCompletion(hello("other"), metadata=given),
            chat.StreamChatCompletion(hello("other"), metadata=given).read(),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call
            (sent,) = ids(raised.value.trailing_metadata())
            assert id_in_error(raised.value) == sent
            assert (sent == "mine") == bool(given)


@pytest.mark.parametrize("body", [JSON, {**JSON, "stream": True}, {**JSON, "model": "other"}], ids=str)
async def test_the_bridge_gives_the_clients_id_back_once(start_inferd, body):
    inferd = await start_inferd()
    async with inferd.http() as http:
        response = await http.post("/v1/chat/completions", json=body, headers={"x-request-id": "mine"})
        assert response.headers.get_list("x-request-id") == ["mine"]
        response = await http.post("/v1/chat/completions", json=body)
        (made,) = response.headers.get_list("x-request-id")
        assert len(made) == 32
