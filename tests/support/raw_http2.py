"""A client of raw HTTP/2 frames, for behaviour that well-behaved clients do not show."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import h2.events
from h2.config import H2Configuration
from h2.connection import H2Connection

from inferd.services.net.http2.framing import frame

#: Seconds to wait for an event that must come.
PATIENCE = 20


class RawClient:
    """One connection. `events` are all that came."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.h2 = H2Connection(
            H2Configuration(
                client_side=True,
                header_encoding="utf-8",
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.events: list[h2.events.Event] = []

    async def greet(self) -> None:
        """Exchange settings."""
        self.h2.initiate_connection()
        self.flush()
        await self.until(lambda: self.of(h2.events.SettingsAcknowledged))

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def open(self, path: str, message: bytes | None = b"", **fields: str) -> int:
        """Start a call, and send its request unless that is None; its stream. `fields` replace headers."""
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":authority": "test",
            ":path": path,
            "te": "trailers",
            "content-type": "application/grpc",
            **{name.replace("_", "-"): value for name, value in fields.items()},
        }
        method = headers.pop("method", None)
        if method:
            headers[":method"] = method
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, headers.items())
        if message is not None:
            self.send(stream, frame(message), end=True)
        self.flush()
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        self.h2.send_data(stream, data, end_stream=end)
        self.flush()

    def reset(self, stream: int) -> None:
        self.h2.reset_stream(stream, 8)
        self.flush()

    async def until(self, found: Callable[[], object]) -> None:
        """Read until `found` holds. Raises ConnectionError where the connection ends before."""
        async with asyncio.timeout(PATIENCE):
            while not found():
                data = await self.reader.read(65536)
                if not data:
                    raise ConnectionError("the server closed the connection")
                self.events += self.h2.receive_data(data)
                self.flush()

    async def closed(self) -> None:
        """Read until the server has closed the connection."""
        with contextlib.suppress(ConnectionError):
            await self.until(lambda: False)

    def of(self, kind: type, stream: int | None = None) -> list:
        """The events of a kind."""
        return [
            event
            for event in self.events
            if isinstance(event, kind) and (stream is None or event.stream_id == stream)
        ]

    def headers(self, stream: int) -> dict[str, str]:
        """What the server has said of a stream, in headers and trailers."""
        said: dict[str, str] = {}
        for event in self.events:
            kinds = (h2.events.ResponseReceived, h2.events.TrailersReceived)
            if isinstance(event, kinds) and event.stream_id == stream:
                said.update(event.headers)
        return said

    async def answer(self, stream: int) -> tuple[dict[str, str], bytes]:
        """The headers and trailers of a stream, and its data, at its end."""
        await self.until(
            lambda: self.of(h2.events.StreamEnded, stream) or self.of(h2.events.StreamReset, stream)
        )
        data = b"".join(event.data for event in self.of(h2.events.DataReceived, stream))
        return self.headers(stream), data

    async def status(self, stream: int) -> str:
        return (await self.answer(stream))[0]["grpc-status"]


@contextlib.asynccontextmanager
async def connected(port: int, *, greet: bool = True) -> AsyncIterator[RawClient]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    client = RawClient(reader, writer)
    try:
        if greet:
            await client.greet()
        yield client
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
