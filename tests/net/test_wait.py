"""Waits until an event is set or a time has passed, also if both happen at once."""

import asyncio

import pytest

from inferd.services.net.wait import wait_for_event


async def test_an_event_that_is_set_is_not_waited_for():
    event = asyncio.Event()
    event.set()
    assert await wait_for_event(event, 0.0)
    assert await wait_for_event(event, None)


async def test_the_wait_ends_with_the_event_or_with_the_time():
    event = asyncio.Event()
    assert not await wait_for_event(event, 0.01)
    asyncio.get_running_loop().call_later(0.01, event.set)
    assert await wait_for_event(event, 30.0)


async def test_an_event_with_the_end_of_the_time_is_not_lost():
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    waiting = asyncio.create_task(wait_for_event(event, 0.05))
    await asyncio.sleep(0)
    # In one turn of the loop: the time is up, and before the task hears of it, the event is set.
    loop.call_at(loop.time() + 0.05, event.set)
    assert await waiting == event.is_set()


async def test_a_cancelled_wait_is_cancelled():
    waiting = asyncio.create_task(wait_for_event(asyncio.Event(), 30.0))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
