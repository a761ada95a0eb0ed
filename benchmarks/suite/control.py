"""How the suite speaks to the processes it starts itself: a line of JSON in, a line of JSON out."""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any


async def serve_control(answer: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]) -> None:
    """Answer lines from standard input until it closes: whoever started this process is gone then."""
    reader = asyncio.StreamReader(limit=1 << 24)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        say(await answer(json.loads(line)))


def say(message: dict[str, Any]) -> None:
    """Write one line, at once."""
    os.write(sys.stdout.fileno(), json.dumps(message).encode() + b"\n")
