"""Runs this process's share of the jobs: claims them, holds their leases, writes how they ended."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from inferd.services.config import QueueConfig
from inferd.services.errors import ServiceError
from inferd.services.fleet.catalog import Catalog
from inferd.services.net.wait import wait_for_event
from inferd.services.queue import claims
from inferd.services.queue.database import Database, Transaction
from inferd.services.queue.group_commit import GroupCommit
from inferd.services.queue.job_end import Run, RunEnded, RunRequeued, end_runs, store_chunks
from inferd.services.queue.preemption import CHECK_SECONDS, Preemption
from inferd.services.queue.repeat import repeat
from inferd.services.queue.run import LocalRun, generate, outcome_of_error, timed_out, unexpected

#: Seconds between looks for jobs that nobody told of.
_POLL = 5.0
#: Seconds between looks at interactive calls, while they hold jobs back.
_CALL_POLL = 0.1
#: Seconds in which word of changes gathers, so that many cost one look.
_GATHER = 0.01
#: Seconds between stores of the chunks that others watch.
_STORE_INTERVAL = 0.1


class Runner:
    """`worker` names this process in the database; a run may take `run_seconds`. `on_change` is called
    whenever runs have begun or ended, which is stored by then."""

    def __init__(
        self,
        database: Database,
        catalog: Catalog,
        config: QueueConfig,
        worker: str,
        run_seconds: float,
        on_change: Callable[[], None],
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._config = config
        self._worker = worker
        self._run_seconds = run_seconds
        self._on_change = on_change
        self._lease = int(config.lease * 1e6)
        self._ttl = int(config.result_ttl * 1e6)
        #: By the job's number.
        self._runs: dict[int, LocalRun] = {}
        self._preemption = Preemption(catalog, config.running_limit_of)
        self._ends: GroupCommit[RunEnded | RunRequeued, bool] = GroupCommit(self._write_ends)
        # Writes of several of our rows: on PostgreSQL two at once could wait for each other.
        self._writing = asyncio.Lock()
        self._wake = asyncio.Event()
        self._wake.set()
        self._reconciling = asyncio.Event()
        #: Set while something runs.
        self._busy = asyncio.Event()
        self._next_look = 0.0
        self._claiming = asyncio.Lock()
        self._draining = False

    def wake(self) -> None:
        """There may be jobs to claim, or room for them."""
        self._wake.set()

    def local(self, seq: int, number: int) -> LocalRun | None:
        """That run of the job, where it is this process's."""
        local = self._runs.get(seq)
        return local if local is not None and local.run.number == number else None

    async def work(self) -> None:
        """Run jobs until cancelled."""
        loops = [
            asyncio.create_task(repeat("claiming queued jobs", self._claim)),
            asyncio.create_task(repeat("holding running jobs", self._renew, self._config.lease / 4)),
            asyncio.create_task(repeat("storing chunks", self._store_chunks, _STORE_INTERVAL)),
            asyncio.create_task(repeat("checking running jobs", self._reconcile, _GATHER)),
            asyncio.create_task(repeat("giving way to callers", self._preempt, CHECK_SECONDS)),
        ]
        try:
            await asyncio.gather(*loops)
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)

    async def drain(self, seconds: float) -> None:
        """Start nothing more, and let what runs end within that time; the rest is for others to run."""
        self._draining = True
        async with self._claiming:
            pass
        tasks = [local.task for local in self._runs.values() if local.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(ServiceError):
            await self._database.write(claims.release_claims, self._worker)

    # Claiming

    async def _claim(self) -> None:
        room = await self._room()
        async with self._claiming:
            if self._draining:
                return
            claimed = await self._database.write(claims.claim, self._worker, self._lease, room)
            for job, data in claimed.jobs:
                self._start(job, data)
        wait = _POLL * random.uniform(0.8, 1.2)
        if claimed.due_in is not None:
            wait = min(wait, claimed.due_in / 1e6 + 0.001)
        self._next_look = time.monotonic() + wait
        if claimed.jobs:
            self._on_change()

    async def _room(self) -> claims.RunLimits:
        """Wait until there may be something to claim; the room for it."""
        before = self._preemption.interactive_calls()
        while True:
            wait = self._next_look - time.monotonic()
            if self._preemption.blocks_jobs(self._running()):
                # The end of a call makes room, and nobody tells of it.
                wait = min(wait, _CALL_POLL)
            await wait_for_event(self._wake, max(0.0, wait))
            now = self._preemption.interactive_calls()
            fewer = any(now.get(model, 0) < count for model, count in before.items())
            before = now
            if not (self._wake.is_set() or fewer or time.monotonic() >= self._next_look):
                continue
            self._wake.clear()
            if self._draining:
                await asyncio.Event().wait()  # until cancelled
            own = self._preemption.free_slots(self._running())
            if own:
                limits = {model: self._config.running_limit_of(model) for model in own}
                return claims.RunLimits(self._config.running_limit, limits, own)
            self._next_look = time.monotonic() + _POLL

    def _running(self) -> Counter[str]:
        """How many jobs of each model run in this process."""
        return Counter(local.model for local in self._runs.values())

    async def _preempt(self) -> None:
        """Queue again the latest jobs that nobody follows, where calls that are waited for wait for them."""
        if not self._preemption.is_active:
            await self._busy.wait()
        giving, risen = await self._preemption.check(self._running())
        for model, count in giving.items():
            unfollowed = [
                local
                for local in self._runs.values()
                if local.model == model and not local.followers and not local.watched
            ]
            for local in unfollowed[-count:]:
                self._abort(local)
                await self._write_end(RunRequeued(local.run, 0, None))
        if risen:
            self._wake.set()

    # Running

    def _start(self, job: Any, data: bytes) -> None:
        local = LocalRun(Run(job.seq, job.runs, self._worker), job.model)
        before = self._runs.get(job.seq)
        if before is not None and before.task is not None:
            before.task.cancel()
        self._runs[job.seq] = local
        self._busy.set()
        local.task = asyncio.create_task(self._run(local, job, data), name=f"job {job.id}")

    async def _run(self, local: LocalRun, job: Any, data: bytes) -> None:
        run = local.run
        outcome: RunEnded | RunRequeued
        try:
            try:
                async with asyncio.timeout(self._run_seconds):
                    completion = await generate(self._catalog, job.id, job.created // 1_000_000, data, local)
                outcome = RunEnded(run, completion, None)
            except Exception as raised:
                error = self._error(raised, job.id)
                outcome = outcome_of_error(
                    run, error, attempts=job.attempts, most=job.max_attempts, lost=job.lost_attempts
                )
            await self._write_end(outcome)
        finally:
            if self._runs.get(run.seq) is local:
                del self._runs[run.seq]
                if not self._runs:
                    self._busy.clear()
            local.end()
            self._wake.set()

    def _error(self, raised: Exception, job_id: str) -> ServiceError:
        if isinstance(raised, ServiceError):
            return raised
        if isinstance(raised, TimeoutError):
            return timed_out(self._run_seconds)
        return unexpected(job_id)

    async def _write_end(self, outcome: RunEnded | RunRequeued) -> None:
        """Until it is written: the work is done, and is not to be lost to an outage."""
        failures = 0
        while True:
            try:
                await self._ends.commit(outcome)
                return
            except ServiceError:
                failures += 1
                await asyncio.sleep(min(2.0, 0.05 * 2.0 ** min(failures, 10)))

    async def _write_ends(self, outcomes: list[RunEnded | RunRequeued]) -> list[bool]:
        async with self._writing:
            outcomes = [self._with_chunks(outcome) for outcome in outcomes]
            written = await self._database.write(end_runs, outcomes, self._ttl)
        self._on_change()
        return written

    def _with_chunks(self, outcome: RunEnded | RunRequeued) -> RunEnded | RunRequeued:
        """The same, with the chunks that those who watch from elsewhere have not seen."""
        local = self._runs.get(outcome.run.seq)
        if (
            not isinstance(outcome, RunEnded)
            or local is None
            or local.run != outcome.run
            or not local.watched
        ):
            return outcome
        return RunEnded(outcome.run, outcome.completion, outcome.error, local.unstored())

    # Holding

    async def _renew(self) -> None:
        # Nothing is claimed meanwhile: what the database says is ours, and we do not know, was lost.
        async with self._claiming, self._writing:
            known = dict(self._runs)
            runs = {(seq, local.run.number) for seq, local in known.items()}
            held = await self._database.write(claims.renew_leases, self._worker, self._lease, runs)
        self._compare(known, held)

    def reconcile_soon(self) -> None:
        """Others may have cancelled, deleted, taken over or begun to watch what runs here."""
        self._reconciling.set()

    async def _reconcile(self) -> None:
        await self._reconciling.wait()
        self._reconciling.clear()
        if self._runs:
            known = dict(self._runs)
            self._compare(known, await self._database.read(claims.held_runs, self._worker))

    def _compare(self, known: dict[int, LocalRun], held: list[Any]) -> None:
        ours = {(seq, number): watched for seq, number, watched in held}
        for seq, local in known.items():
            watched = ours.get((seq, local.run.number))
            if watched is None:
                self._abort(local)
            elif watched:
                local.watched = True

    def abort(self, seq: int) -> None:
        """Abort the run of a job that has ended otherwise, if it is this process's."""
        local = self._runs.get(seq)
        if local is not None:
            self._abort(local)

    def _abort(self, local: LocalRun) -> None:
        if local.task is not None:
            local.task.cancel()

    # Chunks, for those who watch from other processes

    async def _store_chunks(self) -> None:
        await self._busy.wait()
        new = []
        for local in self._runs.values():
            unstored = local.unstored()
            if unstored:
                new.append((local, unstored))
        if not new:
            return
        async with self._writing:
            await self._database.write(_store_all, [(local.run, chunks) for local, chunks in new])
            for local, chunks in new:
                local.stored = chunks[-1][0] + 1


def _store_all(transaction: Transaction, new: list[tuple[Run, list[tuple[int, bytes]]]]) -> None:
    for run, chunks in new:
        store_chunks(transaction, run, chunks)
    transaction.announce()
