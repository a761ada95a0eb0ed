"""Watches whether an engine can be reached, and ends the generations of an engine that is gone.

Knows no wire: the adapter asks the engine.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from inferd.services.net.wait import wait_for_event
from inferd.services.runtimes.running_generation import RunningGeneration

log = logging.getLogger(__name__)

#: Seconds between health checks.
CHECK_INTERVAL = 0.25
#: Seconds between health checks of an engine that serves, if its adapter learns of a lost connection by
#: itself and calls `check_soon`.
SERVING_INTERVAL = 1.0
#: Seconds after which a health check without an answer has failed. The engine's server answers from memory,
#: but the server is Python, and its machine may be busy.
CHECK_TIMEOUT = 5.0
#: Checks in a row that must find the engine out of reach before its generations are dropped.
GONE_CHECKS = 2
#: Seconds of silence after which a generation of an engine out of reach is dropped. A server whose scheduler
#: died may close its port and keep the open calls for seconds, without a message. A server that was told to
#: stop closes its port too, but its open calls still bring tokens.
SILENCE = 0.5

#: Seconds between a call of `check_soon` and the check after it.
_SETTLING_TIME = 0.05


class HealthWatch:
    """The health of the engine called `name`, and its generations under way.

    `check` asks the engine once: it calls `set_serving`, and returns whether the engine could be reached.
    `on_change` is called in the event loop whenever `serving` changed.
    """

    def __init__(
        self,
        name: str,
        check: Callable[[], Awaitable[bool]],
        on_change: Callable[[], None],
        *,
        serving_interval: float = CHECK_INTERVAL,
    ) -> None:
        self._name = name
        self._serving_interval = serving_interval
        self._check_requested = asyncio.Event()
        self._check = check
        self._on_change = on_change
        self._watcher: asyncio.Task[None] | None = None
        #: The result of the last health check; False before the first.
        self.serving = False
        self.generations: set[RunningGeneration] = set()

    def start(self) -> None:
        """Begin to watch. Returns at once."""
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._watch(), name=f"health of {self._name}")

    async def close(self) -> None:
        """Stop watching, and drop all generations."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
        for generation in list(self.generations):
            generation.drop()

    def check_soon(self) -> None:
        """Check now instead of at the next interval, because a connection was lost."""
        self._check_requested.set()

    def set_serving(self, serving: bool) -> None:
        """Take the result of a health check."""
        if serving != self.serving:
            self.serving = serving
            log.info("%s %s", self._name, "serves" if serving else "does not serve")
            self._on_change()

    async def _watch(self) -> None:
        failures = 0
        while True:
            failures = 0 if await self._check() else failures + 1
            if failures >= GONE_CHECKS:
                self._drop_silent_generations()
            seconds = self._serving_interval if self.serving and not failures else CHECK_INTERVAL
            if await wait_for_event(self._check_requested, seconds):
                self._check_requested.clear()
                # An engine stops in steps: its connections are lost one after the other, before its port.
                await asyncio.sleep(_SETTLING_TIME)

    def _drop_silent_generations(self) -> None:
        now = time.monotonic()
        for generation in list(self.generations):
            if now - generation.last_message_at >= SILENCE:
                log.warning("%s is gone: a call under way was dropped", self._name)
                generation.drop()
