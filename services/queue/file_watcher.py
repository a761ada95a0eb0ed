"""Waits for writes to a file by any process, with the kernel's inotify.

It polls if inotify cannot be used. It does not read the file.
"""

import asyncio
import logging
from pathlib import Path
from types import TracebackType
from typing import Self

from inotify_simple import INotify, flags

from inferd.services.net.wait import wait_for_event

log = logging.getLogger("inferd.queue")

#: Seconds to wait after a write, so that a burst of writes counts as one.
_GATHER = 0.05
#: Seconds until `wait` returns without a write: with inotify, and without it.
_POLL, _BLIND_POLL = 5.0, 0.25


class FileWatcher:
    """Watches a file while its context is open. Must be created on the event loop that uses it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._written = asyncio.Event()
        self._inotify: INotify | None = None

    def __enter__(self) -> Self:
        try:
            self._inotify = INotify(nonblocking=True)
            self._inotify.add_watch(self._path, flags.MODIFY)
        except OSError as error:
            log.warning("%s is polled, as it cannot be watched: %s", self._path.name, error)
            self._close()
        else:
            self._arm(self._inotify)
        return self

    async def wait(self) -> None:
        """Wait until the file was written to, or may have been written to."""
        if self._inotify is None:
            await asyncio.sleep(_BLIND_POLL)
        elif await wait_for_event(self._written, _POLL):
            await asyncio.sleep(_GATHER)
            self._arm(self._inotify)

    def _arm(self, inotify: INotify) -> None:
        inotify.read(timeout=0)
        self._written.clear()
        self._loop.add_reader(inotify.fileno(), self._on_write, inotify)

    def _on_write(self, inotify: INotify) -> None:
        # A burst of writes would call this once for each write.
        self._loop.remove_reader(inotify.fileno())
        self._written.set()

    def _close(self) -> None:
        if self._inotify is not None:
            self._loop.remove_reader(self._inotify.fileno())
            self._inotify.close()
            self._inotify = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
