"""The queue of one process: its database, what it runs, and those who wait."""

import asyncio
import logging
import math
import os
import secrets
import socket
import time
from collections.abc import Callable

from inferd.services.config import QueueConfig
from inferd.services.errors import ServiceError
from inferd.services.fleet.catalog import Catalog
from inferd.services.net.wait import wait_for_event
from inferd.services.queue import sweep
from inferd.services.queue.batch import Batcher
from inferd.services.queue.claims import MOST_LOST, take_back
from inferd.services.queue.database import Database, Transaction, unavailable
from inferd.services.queue.deliveries import Deliveries, EncodeJob
from inferd.services.queue.endings import cancel, delete, not_found
from inferd.services.queue.job_id import seq_of
from inferd.services.queue.loop import forever
from inferd.services.queue.messages import attempts_lost, cancelled, expired
from inferd.services.queue.news import News
from inferd.services.queue.postgres import PostgresDatabase
from inferd.services.queue.runner import Runner
from inferd.services.queue.sqlite import SqliteDatabase
from inferd.services.queue.submission import Caps, Submission, Submitted, submit
from inferd.services.queue.tables import IS_RUNNING
from inferd.services.queue.watching import Watching

log = logging.getLogger("inferd.queue")

#: Seconds that a start waits for the database at most.
_START = 5.0
#: Seconds between sweeps, and at most where every job has ended; and between those that remove what was kept
#: long enough.
_SWEEP, _IDLE_SWEEP, _PURGE = 1.0, 5.0, 30.0


class JobQueue:
    """To be made on the loop that uses it. `run_seconds` is the longest time that a run may take; `encode`
    makes a job's JSON; `on_available` is told whenever the database begins or ceases to do its work."""

    def __init__(
        self,
        config: QueueConfig,
        catalog: Catalog,
        *,
        run_seconds: float,
        encode: EncodeJob,
        on_available: Callable[[bool], None],
    ) -> None:
        self._ttl = int(config.result_ttl * 1e6)
        self._caps = Caps(config.max_queued, config.max_queued_per_caller)
        self._on_available = on_available
        self._available: bool | None = None
        self._opened = False
        self._lease = config.lease
        #: When the database last failed to do its work (monotonic seconds).
        self._broken = -math.inf
        self._why = "it is being opened"
        self._worker = worker = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._database = self._make_database(config.url, worker)
        self._news = News(self._database)
        self._runner = Runner(self._database, catalog, config, worker, run_seconds, self._after_runs)
        self._deliveries = Deliveries(self._database, config.webhooks, encode)
        self._submissions: Batcher[Submission, Submitted] = Batcher(self._submit)
        self._watching = Watching(self._database, self._runner, self._news)
        #: Set while there may be jobs that have yet to end.
        self._any_left = asyncio.Event()
        self._any_left.set()
        self._tasks: list[asyncio.Task[None]] = []

    def _make_database(self, url: str, worker: str) -> Database:
        if url.startswith("sqlite:"):
            return SqliteDatabase(url, self._take_back_all)
        return PostgresDatabase(url, worker)

    def _take_back_all(self, transaction: Transaction) -> None:
        take_back(transaction, IS_RUNNING, attempts_lost(MOST_LOST), self._ttl)

    @property
    def database(self) -> Database:
        """The database. Raises ServiceError UNAVAILABLE where it could not be opened yet."""
        self._check_opened()
        return self._database

    @property
    def watching(self) -> Watching:
        """Who follows jobs. Raises ServiceError UNAVAILABLE where the database could not be opened yet."""
        self._check_opened()
        return self._watching

    def _check_opened(self) -> None:
        if not self._opened:
            raise unavailable(self._why)

    def wake(self) -> None:
        """A runtime may serve that did not before."""
        self._runner.wake()

    # Its life

    async def start(self) -> None:
        """Open the database, however long that takes, and work. Returns once the first try has succeeded or
        failed, and soon in any case."""
        self._tell(False)
        tried = asyncio.Event()
        self._tasks.append(asyncio.create_task(self._work(tried), name="queue"))
        await wait_for_event(tried, _START)

    async def close(self, grace: float) -> None:
        """Start nothing more; let what runs end within `grace` seconds; leave the rest for others."""
        self._watching.stop()
        if self._opened:
            await self._runner.drain(grace)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._database.close()

    async def _work(self, tried: asyncio.Event) -> None:
        await self._open(tried)
        loops = [
            self._runner.work(),
            self._news.work(),
            self._deliveries.work(),
            forever("listening for changes of the queue", self._listen),
            forever("sweeping the queue", self._sweep, _SWEEP, self._swept),
            forever("purging the queue", self._purge, _PURGE),
        ]
        tasks = [asyncio.create_task(loop) for loop in loops]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _open(self, tried: asyncio.Event) -> None:
        wait = 0.1
        while not self._opened:
            try:
                await self._database.open()
            except Exception as error:
                why = str(error) if isinstance(error, ServiceError) else f"{type(error).__name__}: {error}"
                if why != self._why:
                    log.error("the queue cannot be opened: %s", why)
                self._why = why
                self._tell(False)
                tried.set()
                await asyncio.sleep(wait)
                wait = min(2.0, wait * 2)
            else:
                self._opened = True
                self._tell(True)
                tried.set()

    def _swept(self, well: bool) -> None:
        if not well:
            self._broken = time.monotonic()
        self._tell(well)

    def _tell(self, available: bool) -> None:
        if available != self._available:
            self._available = available
            self._on_available(available)

    async def _listen(self) -> None:
        await self._database.listen(self._changed)

    def _changed(self) -> None:
        """Another process has changed something: perhaps what we run, what we wait for, what we may run."""
        self._any_left.set()
        self._news.touch()
        self._runner.wake()
        self._runner.reconcile_soon()

    def _after_runs(self) -> None:
        self._news.touch()
        self._deliveries.wake()

    async def _sweep(self) -> None:
        await wait_for_event(self._any_left, _IDLE_SWEEP)
        self._any_left.clear()
        # After an outage others are as alive as we are, and have yet to say so.
        lost = attempts_lost(MOST_LOST) if time.monotonic() - self._broken > self._lease else None
        any_left = True
        try:
            swept = await self._database.write(sweep.sweep, self._worker, lost, expired(), self._ttl)
            any_left = swept.any_left
        finally:
            if any_left:
                self._any_left.set()
        if swept.taken:
            self._runner.wake()
            self._news.touch()
        ended = swept.expired
        self._ended(*ended)
        while sweep.is_full(len(ended)):
            ended = await self._database.write(sweep.expire, expired(), self._ttl)
            self._ended(*ended)

    async def _purge(self) -> None:
        await self._database.write(sweep.drop_chunks)
        while sweep.is_full(await self._database.write(sweep.purge)):
            pass

    def _ended(self, *seqs: int) -> None:
        """These jobs have ended otherwise than by their runs."""
        for seq in seqs:
            self._runner.abort(seq)
        if seqs:
            self._news.touch()
            self._runner.wake()
            self._deliveries.wake()

    # What callers ask of it

    async def submit(self, submission: Submission) -> Submitted:
        """Queue a job: once this returns, it is stored. Raises ServiceError."""
        self._check_opened()
        return await self._submissions.do(submission)

    async def _submit(self, submissions: list[Submission]) -> list[Submitted | ServiceError]:
        results = await self._database.write(submit, submissions, self._caps)
        self._any_left.set()
        self._runner.wake()
        self._news.touch()
        return results

    async def cancel(self, job_id: str) -> None:
        """Cancel a job. Raises ServiceError."""
        seq = _seq(job_id)
        await self.database.write(cancel, seq, job_id, cancelled(), self._ttl)
        self._ended(seq)

    async def delete(self, job_id: str) -> None:
        """Delete a job. Raises ServiceError."""
        seq = _seq(job_id)
        await self.database.write(delete, seq, job_id)
        self._ended(seq)


def _seq(job_id: str) -> int:
    """The number of the job with that id. Raises NOT_FOUND where it is the id of no job."""
    seq = seq_of(job_id)
    if seq is None:
        raise not_found(job_id)
    return seq
