"""Idle HTTP connections are closed after a time without a request, and not before."""

import asyncio
import time

from starlette.types import Receive, Scope, Send

from inferd.rest_bridge.http_server import HttpServer, listen

IDLE_SECONDS = 1
REQUEST = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def test_a_connection_is_kept_for_its_next_request_and_then_closed() -> None:
    server = HttpServer(app, keep_alive_seconds=IDLE_SECONDS)
    listener = listen("127.0.0.1", 0)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    for _ in range(3):
        # Longer than the limit together, shorter each.
        writer.write(REQUEST)
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        answered = time.monotonic()
        await asyncio.sleep(0.5 * IDLE_SECONDS)
    assert await asyncio.wait_for(reader.read(), 30) == b""
    assert time.monotonic() - answered > 0.9 * IDLE_SECONDS
    writer.close()
    server.stop()
    await serving
