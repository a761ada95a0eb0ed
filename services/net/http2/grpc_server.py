"""The gRPC server: listens, and serves handlers on the connections that clients make."""

import asyncio
import socket
from collections.abc import Iterable, Mapping
from typing import Any

import grpc
from inferd.services.net.http2.listening import listen
from inferd.services.net.http2.method import Method, method_of
from inferd.services.net.http2.server_connection import ServerConnection

#: Seconds that handlers have to end after they are cancelled, and clients to read what was sent to them.
_LAST_SECONDS = 2.0


class GrpcServer:
    """Stands in for a server in the generated `add_…Servicer_to_server` functions. To be used on one event
    loop. Requests are of `max_message_bytes` at most."""

    def __init__(self, *, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._methods: dict[str, Method] = {}
        self._sockets: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._connections: set[ServerConnection] = set()
        self._is_stopping = False
        #: Set while no connection is open.
        self._unused = asyncio.Event()
        self._unused.set()
        self._stopped = asyncio.Event()

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler]
    ) -> None:
        """Serve these methods of a service. Raises TypeError for one that is neither a coroutine nor an async
        generator."""
        for name, handler in handlers.items():
            self._methods[f"/{service}/{name}"] = method_of(handler)

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        """Called by the generated code with the same handlers again."""

    def bind(self, address: str, *, shared_port: bool = False) -> int:
        """Listen on HOST:PORT; the port. Clients wait until the start. Raises OSError."""
        sockets = listen(address, shared_port=shared_port)
        self._sockets += sockets
        port = sockets[0].getsockname()[1]
        assert isinstance(port, int)
        return port

    async def start(self) -> None:
        """Serve those who connect."""
        loop = asyncio.get_running_loop()
        for listener in self._sockets:
            self._servers.append(await loop.create_server(self._connect, sock=listener, backlog=2048))

    async def stop(self, grace: float | None = None) -> None:
        """Take no more calls, give those that run `grace` seconds, and cancel the others."""
        if self._is_stopping:
            await self._stopped.wait()
            return
        self._is_stopping = True
        for server in self._servers:
            server.close()
        for listener in self._sockets:
            listener.close()
        self._each("drain")
        await self._disused(grace or 0)
        self._each("cancel_calls")
        await self._disused(_LAST_SECONDS)
        self._each("abort")
        await self._disused(_LAST_SECONDS)
        self._stopped.set()

    async def wait_for_termination(self) -> None:
        """Until it has stopped."""
        await self._stopped.wait()

    def _connect(self) -> ServerConnection:
        return ServerConnection(self._methods, self._max_message_bytes, self._made, self._gone)

    def _made(self, connection: ServerConnection) -> None:
        self._connections.add(connection)
        self._unused.clear()
        if self._is_stopping:
            connection.drain()

    def _gone(self, connection: ServerConnection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._unused.set()

    def _each(self, action: str) -> None:
        for connection in list(self._connections):
            getattr(connection, action)()

    async def _disused(self, seconds: float) -> None:
        """Wait until no connection is left, or `seconds` have passed."""
        try:
            async with asyncio.timeout(seconds):
                await self._unused.wait()
        except TimeoutError:
            pass
