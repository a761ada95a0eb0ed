"""What is served at one path: a grpc.RpcMethodHandler, looked into once."""

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc


@dataclass(frozen=True, slots=True)
class Method:
    """`behaviour` takes the request, or an async iterator of them, and the context of the call."""

    behaviour: Callable[[Any, Any], Any]
    deserialize: Callable[[bytes], Any]
    serialize: Callable[[Any], bytes]
    takes_stream: bool
    gives_stream: bool
    #: Otherwise a coroutine, which returns its response, or writes its responses to the context.
    is_generator: bool


def method_of(handler: grpc.RpcMethodHandler) -> Method:
    """Raises TypeError for a generator that would block the event loop."""
    behaviour = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    is_generator = inspect.isasyncgenfunction(behaviour)
    if inspect.isgeneratorfunction(behaviour) or (is_generator and not handler.response_streaming):
        raise TypeError(f"{behaviour!r} is not how responses are given here")
    if not is_generator and not inspect.iscoroutinefunction(behaviour):
        behaviour = _in_thread(behaviour)
    return Method(
        behaviour,
        handler.request_deserializer or _unchanged,
        handler.response_serializer or _unchanged,
        takes_stream=handler.request_streaming,
        gives_stream=handler.response_streaming,
        is_generator=is_generator,
    )


def _in_thread(behaviour: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """For functions, such as those that the generated code has for methods that a servicer lacks."""

    async def call(request: Any, context: Any) -> Any:
        return await asyncio.to_thread(behaviour, request, context)

    return call


def _unchanged(message: Any) -> Any:
    return message
