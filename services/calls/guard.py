"""The guard around every RPC handler, the same for gRPC and for calls in this process: bounded work,
checked requests, deadlines, and one mapping of errors to google.rpc.Status.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from inferd.services.calls.field_limits import check_limits
from inferd.services.errors import ServiceError
from inferd.services.net.random_id import random_id
from inferd.services.net.timeouts import SharedTimeout

log = logging.getLogger("inferd.rpc")

REQUEST_ID = "x-request-id"

_Answer = TypeVar("_Answer")


class Guard:
    """Wraps RPC handlers. `max_concurrent` calls run at once; each for `max_seconds` at most."""

    def __init__(self, max_concurrent: int, max_seconds: float) -> None:
        self._max_concurrent = max_concurrent
        self._limit = SharedTimeout(max_seconds)
        self._running = 0

    def wrap(self, handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        """The same handler, guarded. Raises ValueError for a client-streaming one: there is none."""
        deserializer = _safe(handler.request_deserializer)
        if handler.request_streaming:
            raise ValueError("client streaming is not guarded")
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(handler.unary_stream), deserializer, handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(handler.unary_unary), deserializer, handler.response_serializer
        )

    def _unary(self, behaviour: Callable[..., Any]) -> Callable[..., Any]:
        async def call(request: Any, context: Any) -> Message:
            try:
                deadline = self._admit(context)
                try:
                    _check(request)
                    return await deadline.wait(behaviour(request, context))
                finally:
                    self._release(deadline)
            except TimeoutError:
                error = _deadline_exceeded()
            except ServiceError as raised:
                # Else its traceback knows this frame, which knows it.
                error = raised.with_traceback(None)
            except Exception:
                error = _unexpected(context)
            return await _abort(context, error)

        return call

    def _stream(self, behaviour: Callable[..., AsyncGenerator[Message, None]]) -> Callable[..., Any]:
        async def call(request: Any, context: Any) -> AsyncIterator[Message]:
            try:
                deadline = self._admit(context)
                try:
                    _check(request)
                    messages = behaviour(request, context)
                    try:
                        while (message := await deadline.wait(anext(messages, None))) is not None:
                            yield message
                            deadline.check()
                    finally:
                        await messages.aclose()
                finally:
                    self._release(deadline)
                return
            except TimeoutError:
                error = _deadline_exceeded()
            except ServiceError as raised:
                # Else its traceback knows this frame, which knows it.
                error = raised.with_traceback(None)
            except Exception:
                error = _unexpected(context)
            await _abort(context, error)

        return call

    def _admit(self, context: Any) -> "_Deadline":
        """Count a call as running, and start its time. To be released. Raises RESOURCE_EXHAUSTED."""
        if self._running >= self._max_concurrent:
            raise ServiceError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "OVERLOADED",
                f"the server is answering {self._max_concurrent} calls, which is its limit",
                retry_after=1,
            )
        self._running += 1
        remaining = context.time_remaining()
        is_sooner = remaining is not None and remaining < self._limit.seconds
        return _Deadline(self._limit, remaining if is_sooner else None)

    def _release(self, deadline: "_Deadline") -> None:
        deadline.close()
        self._running -= 1


class _Deadline:
    """Ends the wait for a call's answer, or for a stream's next message, at a fixed time.

    One timer at most, where asyncio.timeout around each message would be one a message. It cancels the
    task only while that waits: never while the reader of a stream has the control.
    """

    def __init__(self, limit: SharedTimeout, seconds: float | None) -> None:
        """In `seconds`; None: when `limit` is over."""
        self._limit = limit
        self._timer: asyncio.TimerHandle | None = None
        if seconds is None:
            limit.start(self._expire)
        else:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._expire)
        self._waiting: asyncio.Task[Any] | None = None
        self._expired = False

    def _expire(self) -> None:
        self._expired = True
        if self._waiting:
            self._waiting.cancel()

    def check(self) -> None:
        """Raises TimeoutError where the time is up."""
        if self._expired:
            raise TimeoutError

    async def wait(self, answer: Awaitable[_Answer]) -> _Answer:
        """Wait for it. Raises TimeoutError when the time is up meanwhile."""
        self._waiting = task = asyncio.current_task()
        try:
            return await answer
        except asyncio.CancelledError:
            # Ours only, where nobody else has cancelled the task as well.
            if self._expired and task is not None and task.uncancel() == 0:
                raise TimeoutError from None
            raise
        finally:
            self._waiting = None

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        else:
            self._limit.cancel(self._expire)


class _Malformed:
    """Stands for a request that is no message of the method's type."""


def _safe(deserializer: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """grpc answers INTERNAL where a deserializer raises; the fault is the request's."""
    if deserializer is None:
        return None

    def parse(data: bytes) -> Any:
        try:
            return deserializer(data)
        except (DecodeError, ValueError):
            return _Malformed()

    return parse


def _check(request: Any) -> None:
    if isinstance(request, _Malformed):
        raise ServiceError(
            grpc.StatusCode.INVALID_ARGUMENT,
            "MALFORMED_MESSAGE",
            "the request is no valid message of this method's type",
        )
    check_limits(request)


def _deadline_exceeded() -> ServiceError:
    return ServiceError(
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "DEADLINE_EXCEEDED",
        "the call's deadline passed before the answer was complete",
    )


def _unexpected(context: Any) -> ServiceError:
    log.exception("unexpected error; request id %s", _request_id(context))
    return ServiceError(
        grpc.StatusCode.INTERNAL,
        "INTERNAL",
        "an unexpected error, which the server has logged under the request's id",
    )


def _request_id(context: Any) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID:
            return str(value)
    return random_id()


async def _abort(context: Any, error: ServiceError) -> Any:
    request_id = _request_id(context)
    log.debug("%s %s; request id %s", error.code.name, error.reason, request_id)
    status = error.to_status()
    detail = AnyMessage()
    detail.Pack(error_details_pb2.RequestInfo(request_id=request_id))
    status.details.append(detail)
    return await context.abort_with_status(rpc_status.to_status(status))
