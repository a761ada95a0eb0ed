"""Calls RPCs for the bridge: in this process, or over a gRPC channel. Both have the same interface.

Checks, repeats and logs nothing.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2
from grpc_status import rpc_status

from inferd.services.calls.in_process import InProcessContext
from inferd.services.calls.methods import Methods
from inferd.services.net.message_writer import MessageWriter, Metadata


class RpcFailed(Exception):
    """An RPC ended with a status other than OK. `metadata` is the server's initial metadata.

    `spell` spells the paths of the request's fields as they are in its JSON.
    """

    def __init__(self, status: status_pb2.Status, metadata: Metadata = ()) -> None:
        super().__init__(status.message)
        self.status = status
        self.metadata = metadata
        self.spell: Callable[[str], str] = str


# Neither is frozen, because a frozen dataclass costs a microsecond more.
@dataclass(slots=True)
class RpcCall:
    """A call to make. `timeout` is in seconds; None: no deadline."""

    method: MethodDescriptor
    request: Message
    metadata: Metadata
    timeout: float | None


@dataclass(slots=True)
class Reply:
    """A unary call's response, and its initial metadata."""

    message: Message
    metadata: Metadata


class StreamWriter(MessageWriter, Protocol):
    """Takes the responses of a call. `metadata` is its initial metadata, set before the first response."""

    metadata: Metadata


class Transport(Protocol):
    """Makes calls. Cancelling the caller cancels the call. Both methods raise RpcFailed."""

    async def unary(self, call: RpcCall) -> Reply:
        """Call a unary method."""
        ...

    async def stream(self, call: RpcCall, writer: StreamWriter) -> None:
        """Call a server-streaming method, and push its responses to `writer` until the call has ended."""
        ...


class InProcessTransport:
    """Calls the servicers of this process, without serialization."""

    def __init__(self, methods: Methods) -> None:
        self._methods = methods

    async def unary(self, call: RpcCall) -> Reply:
        context = InProcessContext(RpcFailed, call.metadata, call.timeout)
        message = await self._handler(call.method).unary_unary(call.request, context)
        return Reply(message, context.initial_metadata)

    async def stream(self, call: RpcCall, writer: StreamWriter) -> None:
        def set_metadata(metadata: Metadata) -> None:
            writer.metadata = metadata

        context = InProcessContext(RpcFailed, call.metadata, call.timeout, writer, set_metadata)
        await self._handler(call.method).unary_stream(call.request, context)

    def _handler(self, method: MethodDescriptor) -> grpc.RpcMethodHandler:
        handler = self._methods.find(method.containing_service.full_name, method.name)
        if handler is None:
            raise RpcFailed(_status(grpc.StatusCode.UNIMPLEMENTED, "Method not found!"))
        return handler


class ChannelTransport:
    """Calls a remote server. The channel stays open: the caller closes it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._callables: dict[str, Any] = {}

    async def unary(self, call: RpcCall) -> Reply:
        running = self._start(call)
        try:
            message = await running
            return Reply(message, tuple(await running.initial_metadata()))
        except grpc.aio.AioRpcError as error:
            raise _failed(error) from None
        except asyncio.CancelledError:
            _raise_if_closed()
            raise

    async def stream(self, call: RpcCall, writer: StreamWriter) -> None:
        running = self._start(call)
        try:
            message = await running.read()
            writer.metadata = tuple(await running.initial_metadata())
            while message is not grpc.aio.EOF:
                writer.push(message)
                await writer.flow.room()
                message = await running.read()
        except grpc.aio.AioRpcError as error:
            raise _failed(error) from None
        except asyncio.CancelledError:
            _raise_if_closed()
            raise
        finally:
            running.cancel()

    def _start(self, call: RpcCall) -> Any:
        method = call.method
        start = self._callables.get(method.full_name)
        if start is None:
            kind = self._channel.unary_stream if method.server_streaming else self._channel.unary_unary
            start = self._callables[method.full_name] = kind(
                f"/{method.containing_service.full_name}/{method.name}",
                request_serializer=GetMessageClass(method.input_type).SerializeToString,
                response_deserializer=GetMessageClass(method.output_type).FromString,
            )
        return start(call.request, metadata=tuple(call.metadata), timeout=call.timeout)


def _failed(error: grpc.aio.AioRpcError) -> RpcFailed:
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # The details contradict the call's code or message.
        status = None
    if status is None:
        status = _status(error.code(), error.details() or "")
    return RpcFailed(status, tuple(error.initial_metadata() or ()))


def _raise_if_closed() -> None:
    """Raise RpcFailed if the call was cancelled because the channel was closed, and not by the caller."""
    task = asyncio.current_task()
    if task is not None and not task.cancelling():
        raise RpcFailed(_status(grpc.StatusCode.UNAVAILABLE, "the channel was closed")) from None


def _status(code: grpc.StatusCode, message: str) -> status_pb2.Status:
    return status_pb2.Status(code=code.value[0], message=message)
