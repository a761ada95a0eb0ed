"""Alarms on a real event loop: each once, in order, none before its time, and none that was cancelled."""

import asyncio
import time

from inferd.services.net.timeouts import Alarms


async def test_each_is_called_once_in_its_time():
    alarms = Alarms(0.3)
    rung: list[tuple[int, float]] = []
    begin: dict[int, float] = {}

    def ring(number: int) -> None:
        rung.append((number, time.monotonic() - begin[number]))

    callbacks = [lambda number=number: ring(number) for number in range(6)]
    for number, callback in enumerate(callbacks):
        begin[number] = time.monotonic()
        alarms.set(callback)
        await asyncio.sleep(0.01)
    alarms.cancel(callbacks[1])
    alarms.cancel(callbacks[4])
    await asyncio.sleep(0.6)
    assert [number for number, _ in rung] == [0, 2, 3, 5]
    assert all(after > 0.29 for _, after in rung)


async def test_one_may_set_and_cancel_others():
    alarms = Alarms(0.01)
    rung: list[str] = []

    def never() -> None:
        rung.append("never")

    def again() -> None:
        rung.append("again")
        alarms.cancel(never)
        if len(rung) < 3:
            alarms.set(again)

    alarms.set(again)
    alarms.set(never)
    alarms.cancel(lambda: None)
    await asyncio.sleep(0.2)
    assert rung == ["again"] * 3


async def test_one_is_set_after_a_long_pause():
    alarms = Alarms(0.01)
    rung: list[int] = []
    for number in range(3):
        alarms.set(lambda number=number: rung.append(number))
        await asyncio.sleep(0.05)
        assert rung == list(range(number + 1))
