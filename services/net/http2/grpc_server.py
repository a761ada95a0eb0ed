"""The gRPC server: listens, accepts connections, and stops. Knows nothing of frames or calls."""

import asyncio
import socket
from collections.abc import Iterable, Mapping
from typing import Any

import grpc

from inferd.services.net.http2.listening import listen
from inferd.services.net.http2.method import Method, method_of
from inferd.services.net.http2.server_connection import ServerConnection

#: Seconds that cancelled handlers have to end, and that clients have to read the rest of their responses.
_CLOSE_SECONDS = 2.0


class GrpcServer:
    """Takes the place of a grpc.aio server in the generated `add_…Servicer_to_server` functions.

    To be used on one event loop. A request has at most `max_message_bytes`.
    """

    def __init__(self, *, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._methods: dict[str, Method] = {}
        self._sockets: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._connections: set[ServerConnection] = set()
        self._is_stopping = False
        #: Set while no connection is open.
        self._all_closed = asyncio.Event()
        self._all_closed.set()
        self._stopped = asyncio.Event()

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler]
    ) -> None:
        """Serve methods of a service. Raises TypeError for a handler that is a plain generator."""
        for name, handler in handlers.items():
            self._methods[f"/{service}/{name}"] = method_of(handler)

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        """Called by the generated code with the same handlers again."""

    def bind(self, address: str, *, shared_port: bool = False) -> int:
        """Listen on HOST:PORT, and return the port. Clients wait until `start`. Raises OSError."""
        sockets = listen(address, shared_port=shared_port)
        self._sockets += sockets
        port = sockets[0].getsockname()[1]
        assert isinstance(port, int)
        return port

    async def start(self) -> None:
        """Begin to accept connections."""
        loop = asyncio.get_running_loop()
        for listener in self._sockets:
            self._servers.append(await loop.create_server(self._connect, sock=listener, backlog=2048))

    async def stop(self, grace: float | None = None) -> None:
        """Take no more calls, and cancel those that still run after `grace` seconds."""
        if self._is_stopping:
            await self._stopped.wait()
            return
        self._is_stopping = True
        for server in self._servers:
            server.close()
        for listener in self._sockets:
            listener.close()
        self._for_each("drain")
        await self._wait_until_closed(grace or 0)
        self._for_each("cancel_calls")
        await self._wait_until_closed(_CLOSE_SECONDS)
        self._for_each("abort")
        await self._wait_until_closed(_CLOSE_SECONDS)
        self._stopped.set()

    async def wait_for_termination(self) -> None:
        """Wait until the server has stopped."""
        await self._stopped.wait()

    def _connect(self) -> ServerConnection:
        return ServerConnection(self._methods, self._max_message_bytes, self._on_open, self._on_closed)

    def _on_open(self, connection: ServerConnection) -> None:
        self._connections.add(connection)
        self._all_closed.clear()
        if self._is_stopping:
            connection.drain()

    def _on_closed(self, connection: ServerConnection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._all_closed.set()

    def _for_each(self, action: str) -> None:
        for connection in list(self._connections):
            getattr(connection, action)()

    async def _wait_until_closed(self, seconds: float) -> None:
        """Wait until all connections are closed, or `seconds` have passed."""
        try:
            async with asyncio.timeout(seconds):
                await self._all_closed.wait()
        except TimeoutError:
            pass
