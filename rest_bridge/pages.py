"""The bridge's own pages (health, documentation) behind the chain of calls.

Requests that become RPCs pass the chain of their method, and not this one.
"""

from collections.abc import Awaitable

from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inferd.rest_bridge.errors import from_status
from inferd.rest_bridge.request_headers import read_headers
from inferd.services.calls.call import Call
from inferd.services.calls.chain import Chain, standard_links
from inferd.services.errors import ServiceError


def put_behind_chain(routes: list[BaseRoute]) -> None:
    """Let all requests of `routes` pass the links around pages. Their responses have the request's id."""
    chain = Chain(standard_links())
    for route in routes:
        if isinstance(route, Route):
            route.app = _Page(route.app, chain)


class _Page:
    """An ASGI application that calls another one behind the chain."""

    def __init__(self, app: ASGIApp, chain: Chain) -> None:
        self._app = app
        self._chain = chain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        metadata = read_headers(scope["headers"]).metadata
        call = Call(f"{scope['method']} {scope['path']}", None, metadata, None)

        def send_with_id(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", call.request_id.encode())]
            return send(message)

        try:
            await self._chain.run(call, lambda: self._app(scope, receive, send_with_id))
        except ServiceError as error:
            failed = from_status(error.to_status())
            headers = {name.decode(): value.decode() for name, value in failed.headers}
            response = Response(failed.body, failed.status, headers, "application/json")
            await response(scope, receive, send_with_id)
