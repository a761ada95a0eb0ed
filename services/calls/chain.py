"""The chain around every call: its links, and their order.

A call over gRPC and a call by the REST bridge pass the same chain. Each link is one file of this package.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

import grpc

from inferd.services.calls.admission import Admission
from inferd.services.calls.call import Call
from inferd.services.calls.context import CallContext
from inferd.services.calls.deadline import DeadlineLink
from inferd.services.calls.errors import service_error, status_with_request_id
from inferd.services.calls.field_limits import FieldLimits
from inferd.services.calls.request_form import RequestForm, refusing_deserializer, tolerant_deserializer
from inferd.services.calls.request_id import RequestId
from inferd.services.errors import ServiceError
from inferd.services.net.http2.method import coroutine_of
from inferd.services.net.timeouts import SharedTimeout

_Answer = TypeVar("_Answer")


class Link(Protocol):
    """One step of the chain. A link keeps no state of a call but in the call itself."""

    def enter(self, call: Call) -> None:
        """Called before the handler. May add to the call. Raises ServiceError to refuse it."""
        ...

    def leave(self, call: Call) -> None:
        """Called at the call's end, if `enter` did not raise. `call.error` tells how the call ended."""
        ...


def call_links(max_concurrent: int, max_seconds: float) -> Sequence[Link]:
    """The links around every method of the contract, in the order in which a call meets them.

    Comments mark the places of links that do not exist yet. `max_concurrent` calls run at once, each for at
    most `max_seconds`.
    """
    return (
        RequestId(),
        # Traces and metrics: before any link that may refuse, so that refused calls are counted.
        # Identity: who calls. Before Admission, so that nobody unknown takes a place.
        # Quota: how much the caller may still ask for.
        Admission(max_concurrent),
        DeadlineLink(SharedTimeout(max_seconds)),
        RequestForm(),
        FieldLimits(),
    )


def standard_links() -> Sequence[Link]:
    """The links around the standard services (health, reflection) and the bridge's own pages.

    These have no limits of their own: a call that watches the health lasts as long as its client wants.
    """
    return (RequestId(), RequestForm())


class Chain:
    """Runs calls through links. Errors become a status in one place, for all calls."""

    def __init__(self, links: Sequence[Link]) -> None:
        self._links = tuple(links)

    async def run(self, call: Call, work: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """Do the call's work behind all links. Raises ServiceError, whatever was raised."""
        entered = 0
        try:
            for link in self._links:
                link.enter(call)
                entered += 1
            if call.deadline is None:
                return await work()
            return await call.deadline.wait(work())
        except Exception as raised:
            call.error = service_error(raised, call.request_id)
        finally:
            for link in reversed(self._links[:entered]):
                link.leave(call)
        # Without its traceback: that refers to this frame, which refers to the error. That is a cycle.
        raise call.error.with_traceback(None)

    def around(self, method: str, handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        """The handler of `method` ("package.Service/Method"), with the chain around it."""
        behaviour = coroutine_of(handler)

        async def serve(request: Any, context: CallContext) -> Any:
            call = Call(method, request, context.invocation_metadata() or (), context.time_remaining())
            try:
                return await self.run(call, lambda: behaviour(request, context))
            except ServiceError as error:
                status = status_with_request_id(error.with_traceback(None), call.request_id)
            return await context.abort_with_status(status)

        wrap = refusing_deserializer if handler.request_streaming else tolerant_deserializer
        deserializer = wrap(handler.request_deserializer)
        kind = _KINDS[handler.request_streaming, handler.response_streaming]
        return kind(serve, deserializer, handler.response_serializer)


_KINDS: dict[tuple[bool, bool], Callable[..., grpc.RpcMethodHandler]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
