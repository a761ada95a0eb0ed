"""Calls to one server, over as many connections as they need; a lost one is made again for the next call."""

import asyncio
from collections.abc import Callable

import grpc
from inferd.services.net.http2.client_call import CallFailed, ClientCall
from inferd.services.net.http2.client_connection import ClientConnection
from inferd.services.net.http2.framing import encode_timeout
from inferd.services.net.http2.header_block import header_block

#: Seconds that a connection may take to be made.
CONNECT_TIMEOUT = 2.0
#: Calls on a connection after which another one is made: servers may slow down with many on one.
CALLS_PER_CONNECTION = 200

_MAX_MESSAGE_BYTES = 256 << 20


class Channel:
    """To be used on one event loop. `address` is HOST:PORT, an IPv6 host in brackets.

    Calls fail with UNAVAILABLE where no connection can be made; nothing is tried again. A server that is
    silent for `quiet_seconds` is pinged; without an answer its calls fail. `on_lost` is called whenever a
    connection is lost, or is to take no more calls.
    """

    def __init__(
        self,
        address: str,
        *,
        max_message_bytes: int = _MAX_MESSAGE_BYTES,
        max_header_bytes: int = 1 << 20,
        quiet_seconds: float = 15.0,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._where = address
        self._new_connection = lambda: ClientConnection(
            max_message_bytes=max_message_bytes,
            max_header_bytes=max_header_bytes,
            quiet_seconds=quiet_seconds,
            on_lost=on_lost,
        )
        self._authority = address.encode()
        #: The headers of calls, by their path.
        self._headers: dict[str, bytes] = {}
        self._connections: list[ClientConnection] = []
        self._connecting: asyncio.Task[ClientConnection] | None = None
        self._is_closed = False

    async def start(self, path: str, message: bytes, *, seconds: float | None = None) -> ClientCall:
        """Call the method at `path` ("/package.Service/Method") with its one request.

        `seconds` are told to the server, which is to end the call then. Raises CallFailed.
        """
        connection = self._free() or await self._connect()
        headers = self._headers.get(path)
        if headers is None:
            headers = self._headers[path] = self._header_block(path)
        if seconds is not None:
            headers += header_block([(b"grpc-timeout", encode_timeout(seconds).encode())])
        return await connection.start(headers, message)

    async def unary(self, path: str, message: bytes, *, seconds: float) -> bytes:
        """The one response of the method at `path`, within that many seconds. Raises CallFailed."""
        try:
            async with asyncio.timeout(seconds):
                call = await self.start(path, message, seconds=seconds)
                try:
                    responses: list[bytes] = []
                    while read := await call.read():
                        responses += read
                finally:
                    call.cancel()
        except TimeoutError:
            raise CallFailed(grpc.StatusCode.DEADLINE_EXCEEDED, "the server did not answer in time") from None
        if len(responses) != 1:
            raise CallFailed(grpc.StatusCode.INTERNAL, f"the server sent {len(responses)} responses, not one")
        return responses[0]

    async def close(self) -> None:
        """Close the connections: calls that run fail with UNAVAILABLE, and so does each new one."""
        self._is_closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        for connection in self._connections:
            connection.close()

    def _header_block(self, path: str) -> bytes:
        return header_block(
            [
                (b":method", b"POST"),
                (b":scheme", b"http"),
                (b":path", path.encode()),
                (b":authority", self._authority),
                (b"te", b"trailers"),
                (b"content-type", b"application/grpc"),
                (b"user-agent", b"inferd"),
            ]
        )

    def _free(self) -> ClientConnection | None:
        """The first connection with room: later ones fall idle when there is less to do."""
        for connection in self._connections:
            if connection.calls < CALLS_PER_CONNECTION and connection.takes_calls:
                return connection
        return None

    async def _connect(self) -> ClientConnection:
        """A connection with room, made by the first of those who ask at once."""
        while True:
            if self._is_closed:
                raise CallFailed(grpc.StatusCode.UNAVAILABLE, "the channel is closed")
            making = self._connecting
            if making is None:
                making = self._connecting = asyncio.create_task(
                    self._make(), name=f"connect to {self._where}"
                )
                making.add_done_callback(self._made)
            # Others may wait for it too: not ours to cancel.
            await asyncio.wait([making])
            error = None if making.cancelled() else making.exception()
            if error is not None:
                raise CallFailed(grpc.StatusCode.UNAVAILABLE, f"{self._where}: {error or 'no answer'}")
            connection = self._free()
            if connection is not None:
                return connection
            if not making.result().calls:
                raise CallFailed(grpc.StatusCode.UNAVAILABLE, f"{self._where}: takes no calls")

    async def _make(self) -> ClientConnection:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_TIMEOUT):
            _, connection = await loop.create_connection(self._new_connection, self._host, self._port)
            try:
                await connection.greeted
            except BaseException:
                connection.transport.abort()
                raise
        if connection.is_lost:
            raise ConnectionError("the server closed the connection at once")
        return connection

    def _made(self, task: asyncio.Task[ClientConnection]) -> None:
        self._connecting = None
        self._connections = [connection for connection in self._connections if not connection.is_lost]
        if not task.cancelled() and task.exception() is None:
            self._connections.append(task.result())
