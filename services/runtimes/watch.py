"""Watches whether an engine can be reached, and ends the calls of one that is gone.

How it is asked is its adapter's; a call is whatever can be dropped.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from inferd.services.net.wait import wait_for_event

log = logging.getLogger(__name__)

#: Seconds between health checks; and of an engine that serves, where its adapter tells by `look` that the
#: connection is lost.
CHECK_INTERVAL = 0.25
SERVING_INTERVAL = 1.0
#: Seconds after which a health check without an answer counts as failed. The engine's server answers from
#: memory; but it is Python, and its machine may be busy.
CHECK_TIMEOUT = 5.0
#: Checks in a row that must find the engine out of reach before its calls are dropped.
GONE_CHECKS = 2
#: Seconds of silence after which a call is dropped then. A server whose scheduler died may close its port
#: and keep the open calls, mute, for seconds; one that was told to stop does the same with calls that speak.
SILENCE = 0.5


#: Seconds between word that something happened, and the check.
_AFTER_LOOK = 0.05


class WatchedCall(Protocol):
    """A generation under way."""

    @property
    def heard(self) -> float:
        """When the engine sent its last message, in monotonic seconds."""
        ...

    def drop(self) -> None:
        """End it with UNAVAILABLE."""
        ...


class Watch:
    """The health of the engine called `name`, and its calls under way.

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
        self._look = asyncio.Event()
        self._check = check
        self._on_change = on_change
        self._watcher: asyncio.Task[None] | None = None
        #: What the last health check said; False before the first.
        self.serving = False
        self.calls: set[WatchedCall] = set()

    def start(self) -> None:
        """Begin to watch. Returns at once."""
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._watch(), name=f"health of {self._name}")

    async def close(self) -> None:
        """Stop watching and drop all calls."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
        for call in list(self.calls):
            call.drop()

    def look(self) -> None:
        """Something happened: check now."""
        self._look.set()

    def set_serving(self, serving: bool) -> None:
        """Tell of a change."""
        if serving != self.serving:
            self.serving = serving
            log.info("%s %s", self._name, "serves" if serving else "does not serve")
            self._on_change()

    async def _watch(self) -> None:
        failed = 0
        while True:
            failed = 0 if await self._check() else failed + 1
            if failed >= GONE_CHECKS:
                self._drop_silent_calls()
            wait = self._serving_interval if self.serving and not failed else CHECK_INTERVAL
            if await wait_for_event(self._look, wait):
                # What goes, goes in steps: the next look is not at once.
                self._look.clear()
                await asyncio.sleep(_AFTER_LOOK)

    def _drop_silent_calls(self) -> None:
        now = time.monotonic()
        for call in list(self.calls):
            if now - call.heard >= SILENCE:
                log.warning("%s is gone: a call under way was dropped", self._name)
                call.drop()
