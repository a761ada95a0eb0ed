"""Word of writes to a file, whichever process writes: from the kernel (inotify), where it can tell."""

import asyncio
import logging
from pathlib import Path
from types import TracebackType
from typing import Self

from inferd.services.net.wait import wait_for_event
from inotify_simple import INotify, flags

log = logging.getLogger("inferd.queue")

#: Seconds in which writes gather, so that many cost one look.
_GATHER = 0.05
#: Seconds between looks that no write asked for; and where the kernel tells of none.
_POLL, _BLIND_POLL = 5.0, 0.25


class FileWatcher:
    """Watches the file from the beginning of its context on. To be made on the loop that uses it."""

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
        """Wait until the file was written to, or may have been."""
        if self._inotify is None:
            await asyncio.sleep(_BLIND_POLL)
        elif await wait_for_event(self._written, _POLL):
            await asyncio.sleep(_GATHER)
            self._arm(self._inotify)

    def _arm(self, inotify: INotify) -> None:
        inotify.read(timeout=0)
        self._written.clear()
        self._loop.add_reader(inotify.fileno(), self._tell, inotify)

    def _tell(self, inotify: INotify) -> None:
        # Once for a burst of writes.
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
