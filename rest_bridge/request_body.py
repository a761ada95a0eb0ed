"""Reads a request's body, up to a limit, and notices when the client disconnects. Parses nothing."""

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.types import Receive

from inferd.rest_bridge.errors import HttpError
from inferd.rest_bridge.exchange import Exchange

#: Seconds in which the rest of a refused body is read and dropped. Some clients read the response only after
#: they have sent the whole body, and closing at once would reset the connection before.
_LINGER_SECONDS = 2.0
#: Seconds that a client may take to send a body.
_BODY_SECONDS = 60.0


class ClientDisconnected(Exception):
    """The client has closed the connection."""


async def read_body(
    exchange: Exchange | None, receive: Receive, content_length: bytes | None, limit: int
) -> bytes:
    """Read the whole body.

    Raises HttpError 413 as soon as the body is known to be over `limit` bytes, HttpError 408 if it does not
    arrive in time, and ClientDisconnected.
    """
    if content_length is not None and int(content_length) > limit:
        raise _too_large(limit)
    if exchange is not None and (body := exchange.take_whole_body()) is not None:
        if len(body) > limit:
            raise _too_large(limit)
        return body
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            return await _read(receive, limit)
    except TimeoutError:
        message = f"the body did not arrive within {_BODY_SECONDS:g} seconds"
        raise HttpError(408, "request_timeout", message, [(b"connection", b"close")]) from None


async def _read(receive: Receive, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        event = await receive()
        if event["type"] != "http.request":
            raise ClientDisconnected
        part = event.get("body", b"")
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
        if not event.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def discard_body(receive: Receive) -> None:
    """Read and drop the rest of a body, for `_LINGER_SECONDS` at most."""
    try:
        async with asyncio.timeout(_LINGER_SECONDS):
            while (await receive()).get("more_body", False):
                pass
    except TimeoutError:
        pass


class DisconnectWatch:
    """A context in which `on_disconnect` is called, once, if the client closes the connection.

    Without an exchange, `receive` is read. Nothing else may read it at the same time.
    """

    def __init__(
        self, exchange: Exchange | None, receive: Receive, on_disconnect: Callable[[], object]
    ) -> None:
        self._exchange = exchange
        self._receive = receive
        self._on_disconnect = on_disconnect
        self._task: asyncio.Task[None] | None = None
        self.has_disconnected = False

    def __enter__(self) -> "DisconnectWatch":
        if self._exchange is None or self._exchange.is_disconnected:
            self._task = asyncio.get_running_loop().create_task(self._watch())
        else:
            self._exchange.watch_disconnect(self._set_disconnected)
        return self

    def __exit__(self, *_: Any) -> None:
        if self._exchange is not None:
            self._exchange.on_disconnect = None
        if self._task is not None:
            self._task.cancel()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._set_disconnected()

    def _set_disconnected(self) -> None:
        self.has_disconnected = True
        self._on_disconnect()


def _too_large(limit: int) -> HttpError:
    return HttpError(413, "body_too_large", f"the body is over {limit} bytes", [(b"connection", b"close")])
