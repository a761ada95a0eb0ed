"""Makes calls to one gRPC server, over as many connections as the calls need.

Makes a new connection for the next call if one was lost. Repeats no call.
"""

import asyncio
from collections.abc import Callable

import grpc

from inferd.services.net.http2.client_call import CallFailed, ClientCall
from inferd.services.net.http2.client_connection import ClientConnection
from inferd.services.net.http2.framing import encode_timeout
from inferd.services.net.http2.header_block import header_block

#: Seconds that a connection may take to be made.
CONNECT_TIMEOUT = 2.0
#: Calls that run on one connection at most, because servers may slow down with more.
CALLS_PER_CONNECTION = 200

_MAX_MESSAGE_BYTES = 256 << 20


class Channel:
    """To be used on one event loop. `address` is HOST:PORT, with an IPv6 host in brackets.

    A call fails with UNAVAILABLE if no connection can be made. A server that sends nothing for
    `quiet_seconds` gets a ping. If it does not answer the ping, its calls fail. `on_lost` is called whenever
    a connection is lost, or takes no more calls.
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
        self._address = address
        self._new_connection = lambda: ClientConnection(
            max_message_bytes=max_message_bytes,
            max_header_bytes=max_header_bytes,
            quiet_seconds=quiet_seconds,
            on_lost=on_lost,
        )
        self._authority = address.encode()
        #: Header blocks of calls, by the path of the method.
        self._headers: dict[str, bytes] = {}
        self._connections: list[ClientConnection] = []
        self._connecting: asyncio.Task[ClientConnection] | None = None
        self._is_closed = False

    async def start(self, path: str, message: bytes, *, seconds: float | None = None) -> ClientCall:
        """Call the method at `path` ("/package.Service/Method") with one request.

        `seconds` is the timeout that the server is sent. It is not enforced here. Raises CallFailed.
        """
        connection = self._with_room() or await self._connect()
        headers = self._headers.get(path)
        if headers is None:
            headers = self._headers[path] = self._header_block(path)
        if seconds is not None:
            headers += header_block([(b"grpc-timeout", encode_timeout(seconds).encode())])
        return await connection.start(headers, message)

    async def unary(self, path: str, message: bytes, *, seconds: float) -> bytes:
        """Call a unary method and return its response. Raises CallFailed, also after `seconds`."""
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
        """Close the connections. Running calls fail with UNAVAILABLE, and so does each new call."""
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

    def _with_room(self) -> ClientConnection | None:
        """The first connection that takes another call. Later ones become idle first."""
        for connection in self._connections:
            if connection.calls < CALLS_PER_CONNECTION and connection.takes_calls:
                return connection
        return None

    async def _connect(self) -> ClientConnection:
        """A new connection that takes another call. Callers at the same time share it while it has room."""
        while True:
            if self._is_closed:
                raise CallFailed(grpc.StatusCode.UNAVAILABLE, "the channel is closed")
            making = self._connecting
            if making is None:
                making = self._connecting = asyncio.create_task(
                    self._open_connection(), name=f"connect to {self._address}"
                )
                making.add_done_callback(self._on_connected)
            # Not awaited directly: a cancelled caller would cancel the connection for the other callers.
            await asyncio.wait([making])
            error = None if making.cancelled() else making.exception()
            if error is not None:
                raise CallFailed(grpc.StatusCode.UNAVAILABLE, f"{self._address}: {error or 'no answer'}")
            connection = self._with_room()
            if connection is not None:
                return connection
            if not making.result().calls:
                raise CallFailed(grpc.StatusCode.UNAVAILABLE, f"{self._address}: takes no calls")

    async def _open_connection(self) -> ClientConnection:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_TIMEOUT):
            _, connection = await loop.create_connection(self._new_connection, self._host, self._port)
            try:
                await connection.ready
            except BaseException:
                connection.transport.abort()
                raise
        if connection.is_lost:
            raise ConnectionError("the server closed the connection at once")
        return connection

    def _on_connected(self, task: asyncio.Task[ClientConnection]) -> None:
        self._connecting = None
        self._connections = [connection for connection in self._connections if not connection.is_lost]
        if not task.cancelled() and task.exception() is None:
            self._connections.append(task.result())
