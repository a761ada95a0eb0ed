"""The service config for clients: it agrees with the protos, and grpcio follows it."""

import asyncio
import contextlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message_factory import GetMessageClass

from inferd.services.app.service_descriptors import SERVICES
from inferd.services.calls.chain import Chain, standard_links
from inferd.services.calls.methods import Methods
from inferd.services.errors import ServiceError
from inferd.services.net.http2.grpc_server import GrpcServer

FILE = Path(__file__).parents[2] / "protos/inferd/v1/service_config.json"
CONFIG = json.loads(FILE.read_text())
METHODS = {(service.full_name, method.name): method for service in SERVICES for method in service.methods}
#: The config of each method that has one.
CONFIGURED = [
    ((name["service"], name["method"]), entry) for entry in CONFIG["methodConfig"] for name in entry["name"]
]


def may_be_repeated(method: MethodDescriptor) -> bool:
    return method.GetOptions().idempotency_level in (MethodOptions.NO_SIDE_EFFECTS, MethodOptions.IDEMPOTENT)


def test_each_method_is_named_once_and_exists():
    names = [name for name, _ in CONFIGURED]
    assert len(names) == len(set(names))
    assert set(names) <= set(METHODS)


def test_exactly_the_methods_that_may_be_repeated_are():
    repeated = {name for name, entry in CONFIGURED if "retryPolicy" in entry}
    assert repeated == {name for name, method in METHODS.items() if may_be_repeated(method)}
    for _, entry in CONFIGURED:
        assert entry["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
        assert not entry.get("waitForReady", False)


def test_no_timeout_ends_a_wait_that_a_request_asks_for():
    for name, entry in CONFIGURED:
        method = METHODS[name]
        waits = {"wait", "timeout"} & set(method.input_type.fields_by_name)
        assert ("timeout" in entry) == (not waits and not method.server_streaming), name


@pytest.fixture
async def attempts() -> Any:
    """A server that fails the first two attempts of each method: its port, and its count of attempts."""
    counted: Counter[str] = Counter()

    def handler(method: MethodDescriptor) -> grpc.RpcMethodHandler:
        async def answer(request: Any, context: Any) -> Any:
            counted[method.full_name] += 1
            if counted[method.full_name] <= 2:
                # Without a time to wait, clients would wait as their config says.
                raise ServiceError(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", "later", retry_after=0.01)
            response = GetMessageClass(method.output_type)()
            if not method.server_streaming:
                return response
            await context.write(response)
            return None

        kind = (
            grpc.unary_stream_rpc_method_handler
            if method.server_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        request_type, response_type = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        return kind(answer, request_type.FromString, response_type.SerializeToString)

    methods = Methods(Chain(standard_links()))
    for service in SERVICES:
        handlers = {method.name: handler(method) for method in service.methods}
        methods.add_registered_method_handlers(service.full_name, handlers)
    server = GrpcServer(max_message_bytes=1 << 20)
    methods.attach(server)
    port = server.bind("127.0.0.1:0")
    await server.start()
    yield port, counted
    await server.stop()


async def test_grpcio_repeats_calls_as_the_config_says(attempts):
    port, counted = attempts
    # Each failed call takes a token of all calls of a channel. Here, most calls fail.
    config = json.dumps({"methodConfig": CONFIG["methodConfig"]})

    async def outcome(channel: grpc.aio.Channel, method: MethodDescriptor) -> grpc.StatusCode:
        kind = channel.unary_stream if method.server_streaming else channel.unary_unary
        call = kind(f"/{method.containing_service.full_name}/{method.name}")(b"", timeout=30)
        with contextlib.suppress(grpc.aio.AioRpcError):
            await (call.read() if method.server_streaming else call)
            return grpc.StatusCode.OK
        return await call.code()

    options = [("grpc.service_config", config)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        codes = await asyncio.gather(*(outcome(channel, method) for method in METHODS.values()))
    for method, code in zip(METHODS.values(), codes, strict=True):
        repeated = may_be_repeated(method)
        assert code is (grpc.StatusCode.OK if repeated else grpc.StatusCode.UNAVAILABLE), method.full_name
        assert counted[method.full_name] == (3 if repeated else 1), method.full_name


async def test_the_whole_file_is_taken_by_grpcio(attempts):
    port, counted = attempts
    options = [("grpc.service_config", FILE.read_text())]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        await channel.unary_unary("/inferd.v1.ModelService/ListModels")(b"", timeout=30)
    assert counted["inferd.v1.ModelService.ListModels"] == 3
