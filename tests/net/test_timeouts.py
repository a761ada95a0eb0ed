"""Timeouts on a real event loop: each fires once, in order, not early, and not after it was cancelled."""

import asyncio
import time

from inferd.services.net.timeouts import SharedTimeout


async def test_each_is_called_once_in_its_time():
    timeout = SharedTimeout(0.3)
    called: list[tuple[int, float]] = []
    begin: dict[int, float] = {}

    def call(number: int) -> None:
        called.append((number, time.monotonic() - begin[number]))

    callbacks = [lambda number=number: call(number) for number in range(6)]
    for number, callback in enumerate(callbacks):
        begin[number] = time.monotonic()
        timeout.start(callback)
        await asyncio.sleep(0.01)
    timeout.cancel(callbacks[1])
    timeout.cancel(callbacks[4])
    await asyncio.sleep(0.6)
    assert [number for number, _ in called] == [0, 2, 3, 5]
    assert all(after > 0.29 for _, after in called)


async def test_one_may_set_and_cancel_others():
    timeout = SharedTimeout(0.01)
    called: list[str] = []

    def never() -> None:
        called.append("never")

    def again() -> None:
        called.append("again")
        timeout.cancel(never)
        if len(called) < 3:
            timeout.start(again)

    timeout.start(again)
    timeout.start(never)
    timeout.cancel(lambda: None)
    await asyncio.sleep(0.2)
    assert called == ["again"] * 3


async def test_one_is_set_after_a_long_pause():
    timeout = SharedTimeout(0.01)
    called: list[int] = []
    for number in range(3):
        timeout.start(lambda number=number: called.append(number))
        await asyncio.sleep(0.05)
        assert called == list(range(number + 1))
