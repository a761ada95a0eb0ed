"""The bridge: an ASGI application that answers HTTP requests by RPCs, in `Bridge._serve`.

It is compiled from service descriptors, and names no method, field or path itself.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.descriptor import Descriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from starlette.types import Receive, Scope, Send

from inferd.rest_bridge import errors, query, sse
from inferd.rest_bridge.decode import Decoder
from inferd.rest_bridge.dialects import Dialect
from inferd.rest_bridge.encode import Encoder
from inferd.rest_bridge.errors import ErrorResponse, Headers, HttpError
from inferd.rest_bridge.event_writer import EventWriter
from inferd.rest_bridge.events import EventEncoder, event_encoders
from inferd.rest_bridge.exchange import EXCHANGE, Exchange
from inferd.rest_bridge.field_spelling import field_speller
from inferd.rest_bridge.json_body import flag, parse
from inferd.rest_bridge.request_body import ClientDisconnected, DisconnectWatch, discard_body, read_body
from inferd.rest_bridge.request_headers import RequestHeaders, read_headers
from inferd.rest_bridge.response import Response, metadata_headers
from inferd.rest_bridge.router import Match, Router
from inferd.rest_bridge.routes import Route, StreamingRule
from inferd.rest_bridge.transport import RpcCall, RpcFailed, Transport
from inferd.services.errors import ServiceError
from inferd.services.net.timeouts import SharedTimeout

log = logging.getLogger("inferd.rest")

_Reply = TypeVar("_Reply")


@dataclass(frozen=True)
class _Rpc:
    """An RPC that a route calls.

    `encode` makes the body of a unary response. `begin_events` returns what makes the events of one stream.
    `done` is the last event of a complete stream; empty if there is none.
    """

    method: MethodDescriptor
    encode: Callable[[Message], bytes]
    begin_events: Callable[[], EventEncoder]
    done: bytes = b""


@dataclass(frozen=True)
class _Endpoint:
    """A compiled route. `decode` makes the request's message, or its body field, from a JSON document.
    `spell` spells the paths of the request's fields as they are in its JSON.

    `default_rpc` calls the route's method. `streaming_rpc` calls the method that the request may select for a
    stream; None if the route has no such method.
    """

    route: Route
    request_type: Descriptor
    new_request: Callable[[], Message]
    decode: Callable[[object], Message]
    spell: Callable[[str], str]
    default_rpc: _Rpc
    streaming_rpc: _Rpc | None


class Bridge:
    """Serves the HTTP rules of `services` over `transport`. Raises RouteError or SpellingError for protos
    that cannot be served.

    A request body over `max_body_bytes` is refused. If a stream sends nothing for `keep_alive_seconds`, a
    comment is sent. An error before the first event or comment has its own HTTP status.
    """

    def __init__(
        self,
        services: Iterable[ServiceDescriptor],
        transport: Transport,
        *,
        max_body_bytes: int = 8 * 1024 * 1024,
        keep_alive_seconds: float = 5.0,
    ) -> None:
        self._router = Router(services)
        self._transport = transport
        self._max_body_bytes = max_body_bytes
        self._idle_timeout = SharedTimeout(keep_alive_seconds)
        self._endpoints = {route: _compile(route) for route in self._router.routes}

    @property
    def routes(self) -> tuple[Route, ...]:
        """The routes, in the order of the protos."""
        return self._router.routes

    @property
    def fixed_paths(self) -> frozenset[bytes]:
        """The paths of routes without variables, as they are on the wire."""
        return self._router.fixed_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the bridge serves HTTP, not {scope['type']}")
        head = read_headers(scope["headers"])
        exchange = scope.get("extensions", {}).get(EXCHANGE)
        response = Response(exchange, send, head.request_id)
        try:
            await self._serve(scope, exchange, head, receive, response)
        except ClientDisconnected:
            log.debug("the client has gone; request id %s", head.request_id)
        except asyncio.CancelledError:
            # The HTTP server stops, and cancels the requests that still run. Nothing is raised.
            stopping = HttpError(503, "shutting_down", "the server is stopping")
            await response.fail(_error_response(stopping, response))
            await response.close()
        except Exception as error:
            await response.fail(_error_response(error, response))
            if isinstance(error, HttpError) and error.status == 413:
                await discard_body(receive)
            await response.close()

    async def _serve(
        self,
        scope: Scope,
        exchange: Exchange | None,
        head: RequestHeaders,
        receive: Receive,
        response: Response,
    ) -> None:
        # HEAD is GET without a response body (RFC 9110, 9.3.2). The HTTP server drops the body.
        verb = "GET" if scope["method"] == "HEAD" else scope["method"]
        match = self._router.match(verb, scope["raw_path"])
        endpoint = self._endpoints[match.route]
        response.error_form = match.route.dialect.errors
        head.check_idempotency_key()
        body = b""
        if match.route.body:
            head.check_body()
            length = head.values.get(b"content-length")
            body = await read_body(exchange, receive, length, self._max_body_bytes)
        timeout = head.timeout
        request, rpc = _decode_request(endpoint, match, body, scope["query_string"])
        call = RpcCall(rpc.method, request, head.metadata, timeout)
        try:
            if rpc.method.server_streaming:
                await self._stream(call, rpc, exchange, receive, response)
            else:
                await self._unary(call, rpc, match.route, head, exchange, receive, response)
        except RpcFailed as failed:
            failed.spell = endpoint.spell
            raise

    async def _unary(
        self,
        call: RpcCall,
        rpc: _Rpc,
        route: Route,
        head: RequestHeaders,
        exchange: Exchange | None,
        receive: Receive,
        response: Response,
    ) -> None:
        wait = route.preferred_wait
        applied = wait.apply(call.request, head.wait) if wait is not None else []
        reply = await _while_client_waits(self._transport.unary(call), exchange, receive)
        status, headers = _status_and_headers(route, reply.message)
        headers += applied + metadata_headers(reply.metadata)
        await response.send(status, rpc.encode(reply.message), headers)

    async def _stream(
        self, call: RpcCall, rpc: _Rpc, exchange: Exchange | None, receive: Receive, response: Response
    ) -> None:
        with EventWriter(exchange, response, rpc.begin_events(), self._idle_timeout) as writer:
            try:
                await _while_client_waits(self._transport.stream(call, writer), exchange, receive)
            except ClientDisconnected:
                raise
            except Exception:
                # The events before the error must be sent before it.
                await writer.finish()
                raise
            await writer.finish()
            if writer.failure is not None:
                await response.fail(_error_response(writer.failure, response))
                if not response.is_stream:
                    await response.close()
                    return
            # Without a message, the headers were not sent yet.
            await response.start_events(lambda: metadata_headers(writer.metadata))
        await response.end(rpc.done)


async def _while_client_waits(
    call: Coroutine[Any, Any, _Reply], exchange: Exchange | None, receive: Receive
) -> _Reply:
    """Await a call. If the client disconnects, cancel the call and raise ClientDisconnected."""
    task = asyncio.current_task()
    assert task is not None
    with DisconnectWatch(exchange, receive, task.cancel) as watch:
        try:
            return await call
        except asyncio.CancelledError:
            if watch.has_disconnected and task.uncancel() == 0:
                raise ClientDisconnected from None
            if not task.cancelling():
                raise RuntimeError("the call was cancelled") from None
            raise


def _compile(route: Route) -> _Endpoint:
    request_type = route.method.input_type
    body_type = request_type
    if route.body not in ("", "*"):
        field_type = request_type.fields_by_name[route.body].message_type
        assert field_type is not None
        body_type = field_type
    streaming = route.streaming
    return _Endpoint(
        route=route,
        request_type=request_type,
        new_request=GetMessageClass(request_type),
        decode=Decoder(body_type, route.dialect.name).decode,
        spell=field_speller(request_type),
        default_rpc=_rpc(route.method, route.dialect, route.stream),
        streaming_rpc=_rpc(streaming.method, route.dialect, streaming) if streaming is not None else None,
    )


def _rpc(method: MethodDescriptor, dialect: Dialect, streaming: StreamingRule | None) -> _Rpc:
    done = sse.event(streaming.done.encode()) if streaming is not None and streaming.done else b""
    reply, name = method.output_type, dialect.name
    return _Rpc(method, Encoder(reply, name).encode, event_encoders(reply, name), done)


def _decode_request(
    endpoint: _Endpoint, match: Match, body: bytes, query_string: bytes
) -> tuple[Message, _Rpc]:
    """The request's message, and the RPC to call. A value in the path replaces the same field of the body."""
    route, rpc = endpoint.route, endpoint.default_rpc
    document = parse(body) if body or route.needs_body else {}
    parameters = query.parse(query_string) if query_string and route.body != "*" else ()
    if endpoint.streaming_rpc is not None and route.streaming is not None:
        selector = route.streaming.selector
        is_streamed = flag(document, selector) if route.body else query.flag(parameters, selector)
        rpc = endpoint.streaming_rpc if is_streamed else rpc
        document.pop(selector, None)
    elif route.stream is not None:
        # On a path that always streams, clients send the member too.
        document.pop(route.stream.selector, None)
    if route.body == "*":
        request = endpoint.decode(document)
    else:
        request = endpoint.new_request()
        query.bind(request, endpoint.request_type, parameters, route.body, route.dialect.name)
        if route.body:
            getattr(request, route.body).CopyFrom(endpoint.decode(document))
    for field, text in zip(route.path_fields, match.texts, strict=True):
        if text:
            field.set(request, [text])
    return request, rpc


def _status_and_headers(route: Route, message: Message) -> tuple[int, Headers]:
    """The HTTP status of a unary answer, and its headers Location and Retry-After if the route has them."""
    status, headers = route.success_status, list[tuple[bytes, bytes]]()
    if route.location is not None and (path := route.location.of(message)):
        headers.append((b"location", path.encode("ascii")))
    if route.pending is not None and (seconds := route.pending.retry_after(message)) is not None:
        status = route.pending.status
        headers.append((b"retry-after", b"%d" % seconds))
    return status, headers


def _error_response(error: Exception, response: Response) -> ErrorResponse:
    form, request_id = response.error_form, response.request_id
    match error:
        case HttpError():
            return errors.from_http(error, form, request_id)
        case ServiceError():
            return errors.from_status(error.to_status(), form=form, request_id=request_id)
        case RpcFailed():
            made = errors.from_status(error.status, error.spell, form, request_id)
            if not made.keeps_message and made.status != 501:
                log.error("%s; request id %s", error.status, request_id)
            made.headers.extend(metadata_headers(error.metadata))
            return made
        case _:
            log.error("unexpected error; request id %s", request_id, exc_info=error)
            return errors.unexpected(form, request_id)
