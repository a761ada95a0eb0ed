"""A gRPC service of bytes, for tests of servers: it counts its calls and how they ended."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from tests.support.raw_http2 import PATIENCE

#: The size of a message, in bytes, that the tests' server accepts.
LIMIT = 1 << 20


class Service:
    """The methods under test, and what became of their calls."""

    def __init__(self) -> None:
        self.started = 0
        self.ended = 0
        self.cancelled = 0
        self.sent = 0
        self.metadata: list[tuple[str, str | bytes]] = []
        self.remaining: float | None = None
        self.peer = ""
        self.done: list[object] = []

    @contextlib.contextmanager
    def _running(self):
        self.started += 1
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise
        finally:
            self.ended += 1

    async def echo(self, request: bytes, context) -> bytes:
        with self._running():
            self.metadata = list(context.invocation_metadata())
            self.remaining = context.time_remaining()
            self.peer = context.peer()
            return request

    async def count(self, request: bytes, context) -> AsyncIterator[bytes]:
        with self._running():
            for number in range(int(request)):
                yield b"%d" % number
                self.sent += 1

    async def flood(self, request: bytes, context) -> AsyncIterator[bytes]:
        with self._running():
            while True:
                yield bytes(int(request))
                self.sent += 1

    async def hang(self, request: bytes, context) -> bytes:
        with self._running():
            context.add_done_callback(self.done.append)
            await asyncio.Event().wait()
            return b""

    async def tick(self, request: bytes, context) -> AsyncIterator[bytes]:
        with self._running():
            yield b"tick"
            await asyncio.Event().wait()

    async def write(self, request: bytes, context) -> None:
        await context.send_initial_metadata((("x-early", "yes"), ("x-raw-bin", b"\0\xff")))
        for word in request.split():
            await context.write(word)
        context.set_trailing_metadata((("x-late", "too"),))

    async def both(self, requests: AsyncIterator[bytes], context) -> AsyncIterator[bytes]:
        with self._running():
            async for request in requests:
                yield request.upper()

    async def total(self, requests: AsyncIterator[bytes], context) -> bytes:
        return b"%d" % sum([len(request) async for request in requests])

    async def refuse(self, request: bytes, context) -> bytes:
        detail = any_pb2.Any()
        detail.Pack(error_details_pb2.ErrorInfo(reason="NO"))
        status = status_pb2.Status(code=5, message="nein: 100 % €\n", details=[detail])
        await context.abort_with_status(rpc_status.to_status(status))

    async def refuse_late(self, request: bytes, context) -> AsyncIterator[bytes]:
        yield b"one"
        await context.abort(grpc.StatusCode.DATA_LOSS, "gone", (("x-why", "because"),))

    async def say(self, request: bytes, context) -> bytes:
        context.set_code(grpc.StatusCode.OUT_OF_RANGE)
        context.set_details("said")
        return b""

    async def fault(self, request: bytes, context) -> bytes:
        raise ValueError("a secret")

    def missing(self, request: bytes, context) -> bytes:
        context.set_code(grpc.StatusCode.UNIMPLEMENTED)
        context.set_details("Method not implemented!")
        raise NotImplementedError("Method not implemented!")

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        return {
            "Echo": unary(self.echo),
            "Count": stream(self.count),
            "Flood": stream(self.flood),
            "Hang": unary(self.hang),
            "Tick": stream(self.tick),
            "Write": stream(self.write),
            "Both": grpc.stream_stream_rpc_method_handler(self.both),
            "Total": grpc.stream_unary_rpc_method_handler(self.total),
            "Refuse": unary(self.refuse),
            "RefuseLate": stream(self.refuse_late),
            "Say": unary(self.say),
            "Fault": unary(self.fault),
            "Missing": unary(self.missing),
        }

    async def until(self, **counts: int) -> None:
        """Until as many calls have come that far."""
        async with asyncio.timeout(PATIENCE):
            while any(getattr(self, name) < count for name, count in counts.items()):
                await asyncio.sleep(0.005)


async def ends(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        async with asyncio.timeout(PATIENCE):
            await call
    return raised.value
