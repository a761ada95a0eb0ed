"""A server that webhooks are posted to, and senders that post to it."""

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from inferd.services.queue.webhook_sender import DeliveryResult, WebhookSender

KEY = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
BODY = '{"type": "chat.completion.succeeded", "data": {"text": "né"}}'.encode()
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Received:
    """A request, as a receiver got it."""

    line: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """A server that answers each request with `answer`, and keeps the requests."""

    answer: Answer
    port: int = 0
    connections: int = 0
    received: list[Received] = field(default_factory=list)
    #: Set when a sender has closed its connection, or lost it.
    left: asyncio.Event = field(default_factory=asyncio.Event)

    def url(self, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}/hook?a=b%20c"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        # The sender may leave at any time, as some tests make it do.
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            pairs = [line.split(": ", 1) for line in head[1:] if line]
            headers = {name.lower(): value for name, value in pairs}
            body = await reader.readexactly(int(headers["content-length"]))
            self.received.append(Received(head[0], headers, body))
            await self.answer(reader, writer)
        self.left.set()
        writer.close()


def replies(reply: bytes) -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply)
        await writer.drain()

    return answer


def status(line: str, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {line}", *headers, "content-length: 0", "", ""]).encode()


@contextlib.asynccontextmanager
async def receiving(
    answer: bytes | Answer = OK,
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
) -> AsyncIterator[Receiver]:
    receiver = Receiver(replies(answer) if isinstance(answer, bytes) else answer)
    server = await asyncio.start_server(receiver.serve, host, 0, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    async with server:
        yield receiver


@contextlib.asynccontextmanager
async def sending(*, allow_private: bool = True, timeout: float = 15) -> AsyncIterator[WebhookSender]:  # noqa: ASYNC109
    sender = WebhookSender(allow_private=allow_private, timeout=timeout)
    yield sender
    await sender.close()


async def post(url: str, *, allow_private: bool = True, timeout: float = 15) -> DeliveryResult:  # noqa: ASYNC109
    async with sending(allow_private=allow_private, timeout=timeout) as sender:
        return await sender.send(url, KEY, "msg_1", BODY)


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says nothing until the sender leaves."""
    await reader.read()
