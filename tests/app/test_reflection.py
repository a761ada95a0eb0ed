"""Reflection, as real clients use it: grpcurl, buf, and grpcio-reflection's descriptor database."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_reflection.v1alpha.reflection_pb2 import (
    ExtensionRequest,
    ServerReflectionRequest,
    ServerReflectionResponse,
)

from inferd.services.app.service_descriptors import SERVICES

VERSIONS = ("v1", "v1alpha")
NAMES = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "inferd.v1.ChatService",
    "inferd.v1.CompletionService",
    "inferd.v1.ModelService",
    "inferd.v1.QueueService",
    "inferd.v1.TokenizeService",
]
CHAT = "inferd/v1/chat.proto"


@pytest.fixture
def transport() -> str:
    """The bridge plays no part here."""
    return "in process"


def asking(channel: Any, version: str) -> Any:
    """The method of a version, of a channel or an asynchronous channel."""
    return channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        ServerReflectionRequest.SerializeToString,
        ServerReflectionResponse.FromString,
    )


async def run(program: str, *arguments: str, code: int = 0) -> str:
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name(program), *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == code, output
    return output.decode()


async def test_grpcurl_shows_the_comments(start_inferd):
    inferd = await start_inferd()

    async def describe(symbol: str) -> str:
        return await run("grpcurl", "-plaintext", f"127.0.0.1:{inferd.grpc_port}", "describe", symbol)

    assert "// Answers conversations." in await describe("inferd.v1.ChatService")
    method = await describe("inferd.v1.ChatService.CreateChatCompletion")
    assert "// Answers a conversation in one message" in method
    assert 'post:"/v1/chat/completions"' in method
    message = await describe("inferd.v1.CreateChatCompletionRequest")
    assert "// A conversation, and the options of its answer." in message
    assert "// Sampling temperature" in message
    assert "(.inferd.options.v1.limits)" in message
    assert "// " in await describe("inferd.v1.ErrorReason")
    for symbol in (*NAMES, "google.rpc.Status", "google.protobuf.Timestamp", "google.api.HttpRule"):
        assert symbol in await describe(symbol)


async def test_grpcurl_shows_the_details_of_an_error(start_inferd):
    inferd = await start_inferd()
    address, method = f"127.0.0.1:{inferd.grpc_port}", "inferd.v1.ModelService/GetModel"
    # grpcurl's exit code is 64 and the gRPC code.
    shown = await run("grpcurl", "-plaintext", "-d", '{"model": "other"}', address, method, code=64 + 5)
    assert "google.rpc.ErrorInfo" in shown
    assert "MODEL_NOT_FOUND" in shown
    assert "not recognized" not in shown


@pytest.mark.parametrize("version", VERSIONS)
async def test_buf_lists_and_calls_all_methods(start_inferd, version):
    inferd = await start_inferd()
    url = f"http://127.0.0.1:{inferd.grpc_port}"
    options = (
        "curl",
        "--protocol",
        "grpc",
        "--http2-prior-knowledge",
        "--reflect-protocol",
        f"grpc-{version}",
    )
    listed = (await run("buf", *options, "--list-methods", url)).split()
    methods = {f"{service.full_name}/{method.name}" for service in SERVICES for method in service.methods}
    assert methods <= set(listed)
    answer = await run("buf", *options, f"{url}/inferd.v1.ModelService/ListModels")
    assert '"small"' in answer


@pytest.mark.parametrize("version", VERSIONS)
async def test_grpcio_builds_its_messages_from_the_descriptors(start_inferd, version):
    inferd = await start_inferd()

    def read() -> None:
        with grpc.insecure_channel(f"127.0.0.1:{inferd.grpc_port}") as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            database._stub.ServerReflectionInfo = asking(channel, version)
            assert sorted(database.get_services()) == NAMES
            pool = DescriptorPool(database)
            for service in SERVICES:
                found = pool.FindServiceByName(service.full_name)
                assert [method.name for method in found.methods] == [each.name for each in service.methods]
            method_options = pool.FindMessageTypeByName("google.protobuf.MethodOptions")
            (extension,) = [
                each for each in pool.FindAllExtensions(method_options) if each.full_name == "google.api.http"
            ]
            assert extension.number == 72295728

    await asyncio.to_thread(read)


@pytest.mark.parametrize("version", VERSIONS)
async def test_each_kind_of_request(start_inferd, version):
    inferd = await start_inferd()
    async with inferd.channel() as channel:
        call = asking(channel, version)()

        async def ask(**fields: Any) -> ServerReflectionResponse:
            request = ServerReflectionRequest(host="a host", **fields)
            await call.write(request)
            response: ServerReflectionResponse = await call.read()
            assert response.original_request == request
            assert response.valid_host == "a host"
            return response

        async def files(**fields: Any) -> list[FileDescriptorProto]:
            found = (await ask(**fields)).file_descriptor_response.file_descriptor_proto
            return [FileDescriptorProto.FromString(data) for data in found]

        listed = (await ask(list_services="")).list_services_response
        assert [service.name for service in listed.service] == NAMES

        first = await files(file_by_filename=CHAT)
        assert first[0].name == CHAT
        assert any("A conversation" in each.leading_comments for each in first[0].source_code_info.location)
        names = {file.name for file in first}
        assert all(name in names for file in first for name in file.dependency)
        # What the stream has sent before is not sent again, unless it is asked for.
        assert [file.name for file in await files(file_by_filename=CHAT)] == [CHAT]
        for symbol in (
            "inferd.v1.ChatService",
            "inferd.v1.ChatService.StreamChatCompletion",
            "inferd.v1.CreateChatCompletionRequest",
            "inferd.v1.CreateChatCompletionRequest.temperature",
        ):
            assert [file.name for file in await files(file_containing_symbol=symbol)] == [CHAT], symbol
        (found,) = await files(file_containing_symbol="inferd.v1.MODEL_NOT_FOUND")
        assert found.name == "inferd/v1/error_reason.proto"

        extension = ExtensionRequest(
            containing_type="google.protobuf.MethodOptions", extension_number=72295728
        )
        (found,) = await files(file_containing_extension=extension)
        assert found.name == "google/api/annotations.proto"
        numbers = await ask(all_extension_numbers_of_type=extension.containing_type)
        assert numbers.all_extension_numbers_response.base_type_name == extension.containing_type
        assert 72295728 in numbers.all_extension_numbers_response.extension_number
        none = (await ask(all_extension_numbers_of_type="inferd.v1.Message")).all_extension_numbers_response
        assert (none.base_type_name, list(none.extension_number)) == ("inferd.v1.Message", [])

        for fields in (
            {"file_by_filename": "nope.proto"},
            {"file_containing_symbol": "inferd.v1.Nope"},
            {"all_extension_numbers_of_type": "inferd.v1.ChatService"},
            {"file_containing_extension": {"containing_type": "inferd.v1.Message", "extension_number": 1}},
        ):
            error = (await ask(**fields)).error_response
            assert error.error_code == grpc.StatusCode.NOT_FOUND.value[0], fields
        assert (await ask()).error_response.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
