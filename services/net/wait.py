"""Waits until an event is set, or until a number of seconds has passed.

It knows only asyncio.Event; other awaitables have asyncio.timeout.
"""

import asyncio
import contextlib


async def wait_for_event(event: asyncio.Event, seconds: float | None) -> bool:
    """Wait for `event`, at most `seconds` (None: without limit). Returns whether the event is set.

    asyncio.wait_for of Python 3.11 does the same, but it starts a task, which costs several times as much.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
