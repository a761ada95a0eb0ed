"""The HTTP server: uvicorn, as one task of a process. Handles no signals, and starts no processes."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import uvicorn
from starlette.types import ASGIApp

from inferd.rest_bridge.http_protocol import HttpProtocol
from inferd.services.net.timeouts import SharedTimeout
from inferd.services.net.wait import wait_for_event

_BACKLOG = 2048


class HttpServer(uvicorn.Server):
    """Serves by `await server.serve(sockets=[…])` until `stop` is called.

    Handles no signals: the process calls `stop`.
    """

    def __init__(self, app: ASGIApp, *, grace_seconds: float = 10.0, keep_alive_seconds: int = 75) -> None:
        """A connection is kept `keep_alive_seconds` for its next request. After `stop`, requests may run for
        `grace_seconds`, and are then cancelled."""
        super().__init__(
            uvicorn.Config(
                app,
                interface="asgi3",
                http=partial(HttpProtocol, idle=SharedTimeout(keep_alive_seconds)),  # type: ignore[arg-type]
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=keep_alive_seconds,
                timeout_graceful_shutdown=max(1, round(grace_seconds)),
            )
        )

        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Take no more requests. `serve` returns when the running requests are done."""
        self.should_exit = True
        self._stopping.set()

    async def main_loop(self) -> None:
        """Update the Date header each second. uvicorn's own loop wakes up ten times a second."""
        while not await self.on_tick(0):
            await wait_for_event(self._stopping, 1.0)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(host: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """A listening socket. Port 0 is any free port. Raises OSError, which names the address.

    If `reuse_port` is set, other processes may listen on the same port, and share its connections.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's algorithm off only if the protocol is given.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"REST cannot listen on {host}:{port}: {error.strerror}") from error
    return listener
