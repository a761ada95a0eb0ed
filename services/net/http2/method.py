"""A method as the server calls it, made from a grpc.RpcMethodHandler. Knows nothing of connections."""

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc

Behaviour = Callable[[Any, Any], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Method:
    """`behaviour` takes the request, or an async iterator of requests, and the context of the call.

    It returns the response. If `streams_responses` is set, it writes its responses to the context instead.
    """

    behaviour: Behaviour
    deserialize: Callable[[bytes], Any]
    serialize: Callable[[Any], bytes]
    streams_requests: bool
    streams_responses: bool


def method_of(handler: grpc.RpcMethodHandler) -> Method:
    """The method of a handler. Raises TypeError as `coroutine_of` does."""
    return Method(
        coroutine_of(handler),
        handler.request_deserializer or _unchanged,
        handler.response_serializer or _unchanged,
        streams_requests=handler.request_streaming,
        streams_responses=handler.response_streaming,
    )


def coroutine_of(handler: grpc.RpcMethodHandler) -> Behaviour:
    """The handler's behaviour as a coroutine function, whichever form it has.

    Raises TypeError for a generator that would block the event loop.
    """
    behaviour = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    if inspect.iscoroutinefunction(behaviour):
        return behaviour
    if inspect.isasyncgenfunction(behaviour) and handler.response_streaming:
        return _write_all(behaviour)
    if inspect.isasyncgenfunction(behaviour) or inspect.isgeneratorfunction(behaviour):
        raise TypeError(f"{behaviour!r} is not how responses are given here")
    return _in_thread(behaviour)


def _write_all(behaviour: Callable[[Any, Any], AsyncGenerator[Any, None]]) -> Behaviour:
    async def call(request: Any, context: Any) -> None:
        responses = behaviour(request, context)
        try:
            async for response in responses:
                await context.write(response)
        finally:
            await responses.aclose()

    return call


def _in_thread(behaviour: Callable[[Any, Any], Any]) -> Behaviour:
    """For plain functions. The generated code has one for each method that a servicer lacks."""

    async def call(request: Any, context: Any) -> Any:
        return await asyncio.to_thread(behaviour, request, context)

    return call


def _unchanged(message: Any) -> Any:
    return message
