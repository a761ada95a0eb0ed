"""Waiting for an event, but not for ever."""

import asyncio
import contextlib


async def happened(event: asyncio.Event, seconds: float | None) -> bool:
    """Wait until `event` is set, for at most so many seconds; whether it is.

    Python 3.11's asyncio.wait_for makes a task for that, and costs several times as much.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
