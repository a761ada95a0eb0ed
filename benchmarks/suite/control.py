"""How the suite talks with its own processes: a line of JSON in, a line of JSON out."""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any


async def serve_control(answer: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]) -> None:
    """Answer the lines of standard input until it closes, which it does when the suite's process ends."""
    reader = asyncio.StreamReader(limit=1 << 24)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        say(await answer(json.loads(line)))


def say(message: dict[str, Any]) -> None:
    """Write one line to standard output, unbuffered."""
    os.write(sys.stdout.fileno(), json.dumps(message).encode() + b"\n")
