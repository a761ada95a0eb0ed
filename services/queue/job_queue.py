"""The job queue of one process: opens the database, starts the periodic work, and ends jobs for callers.

It puts the parts together. The transactions are in `submission`, `claims`, `job_end` and `sweep`; `servicer`
has the RPCs.
"""

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
from inferd.services.queue.claims import MAX_LOST_ATTEMPTS, requeue_lost
from inferd.services.queue.database import Database, Transaction, unavailable
from inferd.services.queue.group_commit import GroupCommit
from inferd.services.queue.job_end import cancel, delete, not_found
from inferd.services.queue.job_id import seq_of
from inferd.services.queue.job_message import attempts_lost_error, cancelled_error, expired_error
from inferd.services.queue.postgres import PostgresDatabase
from inferd.services.queue.repeat import repeat
from inferd.services.queue.runner import Runner
from inferd.services.queue.sqlite import SqliteDatabase
from inferd.services.queue.submission import QueueLimits, Submission, Submitted, submit
from inferd.services.queue.subscriptions import Subscriptions
from inferd.services.queue.tables import IS_RUNNING
from inferd.services.queue.watching import JobWatcher
from inferd.services.queue.webhook_deliveries import EncodeJob, WebhookDeliveries

log = logging.getLogger("inferd.queue")

#: Seconds that `start` waits for the database at most.
_OPEN_SECONDS = 5.0
#: Seconds between sweeps; between sweeps while all jobs have ended; between purges.
_SWEEP_INTERVAL, _IDLE_SWEEP_INTERVAL, _PURGE_INTERVAL = 1.0, 5.0, 30.0


class JobQueue:
    """The queue of one process. Must be created on the event loop that uses it.

    `run_seconds` limits the time of a run. `encode` makes the JSON of a job for webhooks. `on_available` is
    called with whether the database can be used, at start and at each change.
    """

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
        self._caps = QueueLimits(config.max_queued, config.max_queued_per_caller)
        self._on_available = on_available
        self._available: bool | None = None
        self._opened = False
        self._lease = config.lease
        #: When a sweep last failed (monotonic seconds).
        self._last_failure = -math.inf
        self._open_error = "it is being opened"
        self._worker = worker = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._database = self._make_database(config.url, worker)
        self._subscriptions = Subscriptions(self._database)
        self._runner = Runner(self._database, catalog, config, worker, run_seconds, self._after_runs)
        self._deliveries = WebhookDeliveries(self._database, config.webhooks, encode)
        self._submissions: GroupCommit[Submission, Submitted] = GroupCommit(self._submit)
        self._watcher = JobWatcher(self._database, self._runner, self._subscriptions)
        #: Set while there may be jobs that have not ended.
        self._any_unended = asyncio.Event()
        self._any_unended.set()
        self._tasks: list[asyncio.Task[None]] = []

    def _make_database(self, url: str, worker: str) -> Database:
        if url.startswith("sqlite:"):
            return SqliteDatabase(url, self._requeue_all)
        return PostgresDatabase(url, worker)

    def _requeue_all(self, transaction: Transaction) -> None:
        requeue_lost(transaction, IS_RUNNING, attempts_lost_error(MAX_LOST_ATTEMPTS), self._ttl)

    @property
    def database(self) -> Database:
        """The database. Raises ServiceError UNAVAILABLE if it is not open yet."""
        self._check_opened()
        return self._database

    @property
    def watcher(self) -> JobWatcher:
        """Finds and watches jobs. Raises ServiceError UNAVAILABLE if the database is not open yet."""
        self._check_opened()
        return self._watcher

    def _check_opened(self) -> None:
        if not self._opened:
            raise unavailable(self._open_error)

    def wake(self) -> None:
        """Try to claim jobs now, because a runtime may have begun to serve."""
        self._runner.wake()

    # Start and stop

    async def start(self) -> None:
        """Begin to open the database and to run jobs.

        Returns after the first attempt to open the database, or after 5 seconds. Opening goes on until it
        succeeds.
        """
        self._set_available(False)
        tried = asyncio.Event()
        self._tasks.append(asyncio.create_task(self._work(tried), name="queue"))
        await wait_for_event(tried, _OPEN_SECONDS)

    async def close(self, grace: float) -> None:
        """Start no more jobs, give running ones `grace` seconds to end, and requeue the others."""
        self._watcher.stop()
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
            self._subscriptions.work(),
            self._deliveries.work(),
            repeat("listening for changes of the queue", self._listen),
            repeat("sweeping the queue", self._sweep, _SWEEP_INTERVAL, self._swept),
            repeat("purging the queue", self._purge, _PURGE_INTERVAL),
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
                if why != self._open_error:
                    log.error("the queue cannot be opened: %s", why)
                self._open_error = why
                self._set_available(False)
                tried.set()
                await asyncio.sleep(wait)
                wait = min(2.0, wait * 2)
            else:
                self._opened = True
                self._set_available(True)
                tried.set()

    def _swept(self, succeeded: bool) -> None:
        if not succeeded:
            self._last_failure = time.monotonic()
        self._set_available(succeeded)

    def _set_available(self, available: bool) -> None:
        if available != self._available:
            self._available = available
            self._on_available(available)

    async def _listen(self) -> None:
        await self._database.listen(self._changed)

    def _changed(self) -> None:
        """Another process has changed jobs, which may run, be watched or be claimed here."""
        self._any_unended.set()
        self._subscriptions.check_soon()
        self._runner.wake()
        self._runner.reconcile_soon()

    def _after_runs(self) -> None:
        self._subscriptions.check_soon()
        self._deliveries.wake()

    async def _sweep(self) -> None:
        await wait_for_event(self._any_unended, _IDLE_SWEEP_INTERVAL)
        self._any_unended.clear()
        # After an outage, the other processes need the time of a lease to renew theirs.
        lost = (
            attempts_lost_error(MAX_LOST_ATTEMPTS)
            if time.monotonic() - self._last_failure > self._lease
            else None
        )
        any_unended = True
        try:
            swept = await self._database.write(sweep.sweep, self._worker, lost, expired_error(), self._ttl)
            any_unended = swept.any_unended
        finally:
            if any_unended:
                self._any_unended.set()
        if swept.requeued:
            self._runner.wake()
            self._subscriptions.check_soon()
        ended = swept.expired
        self._ended(*ended)
        while sweep.is_full(len(ended)):
            ended = await self._database.write(sweep.expire, expired_error(), self._ttl)
            self._ended(*ended)

    async def _purge(self) -> None:
        await self._database.write(sweep.drop_chunks)
        while sweep.is_full(await self._database.write(sweep.purge)):
            pass

    def _ended(self, *seqs: int) -> None:
        """Jobs were ended by a call or by expiry: stop their runs, and notify those who wait for them."""
        for seq in seqs:
            self._runner.abort(seq)
        if seqs:
            self._subscriptions.check_soon()
            self._runner.wake()
            self._deliveries.wake()

    # Calls

    async def submit(self, submission: Submission) -> Submitted:
        """Queue a job. When this returns, the job is on the disk. Raises ServiceError."""
        self._check_opened()
        return await self._submissions.commit(submission)

    async def _submit(self, submissions: list[Submission]) -> list[Submitted | ServiceError]:
        results = await self._database.write(submit, submissions, self._caps)
        self._any_unended.set()
        self._runner.wake()
        self._subscriptions.check_soon()
        return results

    async def cancel(self, job_id: str) -> None:
        """Cancel a job. Raises ServiceError."""
        seq = _seq_or_not_found(job_id)
        await self.database.write(cancel, seq, job_id, cancelled_error(), self._ttl)
        self._ended(seq)

    async def delete(self, job_id: str) -> None:
        """Delete a job. Raises ServiceError."""
        seq = _seq_or_not_found(job_id)
        await self.database.write(delete, seq, job_id)
        self._ended(seq)


def _seq_or_not_found(job_id: str) -> int:
    """The number of the job. Raises ServiceError NOT_FOUND if `job_id` is not an id of a job."""
    seq = seq_of(job_id)
    if seq is None:
        raise not_found(job_id)
    return seq
