"""A gRPC server of the tests' service, and two clients of it: one well behaved, one of raw frames."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from inferd.services.net.http2.grpc_server import GrpcServer
from tests.net.http2.service import LIMIT, Service
from tests.support.raw_http2 import RawClient, connected


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
async def server(service) -> AsyncIterator[GrpcServer]:
    server = GrpcServer(max_message_bytes=LIMIT)
    server.add_registered_method_handlers("t.T", service.handlers())
    server.port = server.bind("127.0.0.1:0")
    await server.start()
    yield server
    await server.stop()
    assert service.started == service.ended
    others = {task for task in asyncio.all_tasks() if "ServerCall" in repr(task.get_coro())}
    assert not others


@pytest.fixture
async def channel(server) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel


@pytest.fixture
async def raw(server) -> AsyncIterator[RawClient]:
    async with connected(server.port) as client:
        yield client
