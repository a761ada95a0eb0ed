"""Sinks for tests that drive a runtime or a generation without a server around it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from inferd.services.net.flow import Flow
from inferd.services.runtimes.base import Delta, GenerateRequest, Runtime
from inferd.services.runtimes.token_sink import TokenSink


class Deltas(TokenSink):
    """Keeps the deltas that a runtime pushes, and wants no more after `most` of them."""

    def __init__(self, most: int | None = None) -> None:
        super().__init__(Flow())
        self.deltas: list[Delta] = []
        self.came = asyncio.Event()
        self._most = most

    def push(self, delta: Delta) -> bool:
        if not self.has_begun:
            self.begin()
        self.deltas.append(delta)
        self.came.set()
        return delta.finish is None and len(self.deltas) != self._most

    def push_token(self, token_id: int) -> bool:
        return self.push(Delta((token_id,)))


async def collect(runtime: Runtime, request: GenerateRequest) -> list[Delta]:
    """The deltas of a whole generation."""
    sink = Deltas()
    await runtime.generate(request, sink)
    return sink.deltas


@asynccontextmanager
async def generating(runtime: Runtime, request: GenerateRequest) -> AsyncIterator[Deltas]:
    """A generation that runs beside the test, and is cancelled at the end if it still runs."""
    sink = Deltas()
    task = asyncio.create_task(runtime.generate(request, sink))
    try:
        yield sink
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
