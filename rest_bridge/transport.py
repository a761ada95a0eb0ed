"""How the bridge calls RPCs: in this process, or over a gRPC channel. Both look the same to the bridge.

Nothing is checked, retried or logged here.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from dataclasses import dataclass
from typing import Any, Protocol, Self

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2
from grpc_status import rpc_status
from inferd.services.calls.in_process import InProcessContext, Metadata
from inferd.services.calls.methods import Methods
from inferd.services.net.message_sink import MessageSink


class RpcFailed(Exception):
    """An RPC ended other than OK. `metadata` is what the server sent before: its initial metadata."""

    def __init__(self, status: status_pb2.Status, metadata: Metadata = ()) -> None:
        super().__init__(status.message)
        self.status = status
        self.metadata = metadata


# Neither is frozen, which costs a microsecond more.
@dataclass(slots=True)
class Call:
    """A call to make. `timeout` is in seconds; None: no deadline. `sink` is a short way for a stream's
    responses, which a transport may pass on to the servicer."""

    method: MethodDescriptor
    request: Message
    metadata: Metadata
    timeout: float | None
    sink: MessageSink | None = None


@dataclass(slots=True)
class Reply:
    """A unary call's response, and its initial metadata."""

    message: Message
    metadata: Metadata


class MessageStream(Protocol):
    """The responses of a server-streaming call; iterating raises RpcFailed.

    To be closed, whatever happened: that cancels a call that still runs. `metadata` is the initial metadata,
    known from the first message on.
    """

    @property
    def metadata(self) -> Metadata: ...

    def __aiter__(self) -> Self: ...

    def __anext__(self) -> Awaitable[Message]: ...

    async def aclose(self) -> None: ...


class Transport(Protocol):
    """Makes calls. Cancelling the caller cancels the call."""

    async def unary(self, call: Call) -> Reply:
        """Call a unary method. Raises RpcFailed."""
        ...

    def stream(self, call: Call) -> MessageStream:
        """Call a server-streaming method. Raises RpcFailed, or leaves that to the stream."""
        ...


class InProcess:
    """Calls the servicers of this process, with no serialization and no wire."""

    def __init__(self, methods: Methods) -> None:
        self._methods = methods

    async def unary(self, call: Call) -> Reply:
        context = InProcessContext(RpcFailed, call.metadata, call.timeout)
        message = await self._handler(call.method).unary_unary(call.request, context)
        return Reply(message, context.initial_metadata)

    def stream(self, call: Call) -> MessageStream:
        context = InProcessContext(RpcFailed, call.metadata, call.timeout, call.sink)
        return _InProcessStream(self._handler(call.method).unary_stream(call.request, context), context)

    def _handler(self, method: MethodDescriptor) -> grpc.RpcMethodHandler:
        handler = self._methods.find(method.containing_service.full_name, method.name)
        if handler is None:
            raise RpcFailed(_status(grpc.StatusCode.UNIMPLEMENTED, "Method not found!"))
        return handler


class _InProcessStream:
    def __init__(self, messages: AsyncGenerator[Message, None], context: InProcessContext) -> None:
        self._messages = messages
        self._context = context

    @property
    def metadata(self) -> Metadata:
        return self._context.initial_metadata

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[Message]:
        return anext(self._messages)

    async def aclose(self) -> None:
        await self._messages.aclose()


class OverChannel:
    """Calls a remote server. The channel is the caller's, who also closes it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._callables: dict[str, Any] = {}

    async def unary(self, call: Call) -> Reply:
        running = self._start(call)
        try:
            message = await running
            return Reply(message, tuple(await running.initial_metadata()))
        except grpc.aio.AioRpcError as error:
            raise _failed(error) from None
        except asyncio.CancelledError:
            _raise_if_closed()
            raise

    def stream(self, call: Call) -> MessageStream:
        return _ChannelStream(self._start(call))

    def _start(self, call: Call) -> Any:
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


class _ChannelStream:
    def __init__(self, call: grpc.aio.UnaryStreamCall) -> None:
        self._call = call
        self._metadata: Metadata | None = None

    @property
    def metadata(self) -> Metadata:
        return self._metadata or ()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        try:
            message = await self._call.read()
            if self._metadata is None:
                self._metadata = tuple(await self._call.initial_metadata())
        except grpc.aio.AioRpcError as error:
            raise _failed(error) from None
        except asyncio.CancelledError:
            _raise_if_closed()
            raise
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return message

    async def aclose(self) -> None:
        self._call.cancel()


def _failed(error: grpc.aio.AioRpcError) -> RpcFailed:
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # the details contradict the call's code or message
        status = None
    if status is None:
        status = _status(error.code(), error.details() or "")
    return RpcFailed(status, tuple(error.initial_metadata() or ()))


def _raise_if_closed() -> None:
    """Raises RpcFailed where it is the channel that cancelled, by being closed, and not the caller."""
    task = asyncio.current_task()
    if task is not None and not task.cancelling():
        raise RpcFailed(_status(grpc.StatusCode.UNAVAILABLE, "the channel was closed")) from None


def _status(code: grpc.StatusCode, message: str) -> status_pb2.Status:
    return status_pb2.Status(code=code.value[0], message=message)
