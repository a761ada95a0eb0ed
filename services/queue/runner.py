"""Runs the jobs of this process: claims them, renews their leases, preempts them, and writes how they ended.

`run` generates the answer, `preemption` decides how many jobs may run, and `claims` says which.
"""

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
from inferd.services.queue.job_end import RunEnded, RunRequeued, end_runs
from inferd.services.queue.job_id import Run
from inferd.services.queue.preemption import CHECK_SECONDS, Preemption
from inferd.services.queue.repeat import repeat
from inferd.services.queue.run import LocalRun, generate, outcome_of_error, timed_out, unexpected
from inferd.services.queue.stored_chunks import store_chunks

#: Seconds until a claim is tried without a known change.
_POLL = 5.0
#: Seconds between checks for ended interactive calls, while such calls take the slots of jobs.
_CALL_POLL = 0.1
#: Seconds between two checks of running jobs, so that many changes cost one query.
_GATHER = 0.01
#: Seconds between two writes of the chunks that clients of other processes watch.
_STORE_INTERVAL = 0.1


class Runner:
    """The jobs that run in this process.

    `worker` names this process in the database. A run may take `run_seconds`. `on_change` is called after the
    start or the end of runs was stored.
    """

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
        #: The runs of this process, by the number of the job.
        self._runs: dict[int, LocalRun] = {}
        self._preemption = Preemption(catalog, config.running_limit_of)
        self._ends: GroupCommit[RunEnded | RunRequeued, bool] = GroupCommit(self._write_ends)
        # Two writes of several rows at once could deadlock on PostgreSQL.
        self._writing = asyncio.Lock()
        self._wake = asyncio.Event()
        self._wake.set()
        self._reconciling = asyncio.Event()
        #: Set while at least one job runs.
        self._busy = asyncio.Event()
        self._next_claim = 0.0
        self._claiming = asyncio.Lock()
        self._draining = False

    def wake(self) -> None:
        """Try to claim now: there may be new jobs, or free slots."""
        self._wake.set()

    def local(self, seq: int, number: int) -> LocalRun | None:
        """Run `number` of job `seq`, if it is one of this process; else None."""
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
        """Claim no more jobs, give running ones `seconds` to end, and requeue the others."""
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
        limits = await self._wait_for_slots()
        async with self._claiming:
            if self._draining:
                return
            claimed = await self._database.write(claims.claim, self._worker, self._lease, limits)
            for job, data in claimed.jobs:
                self._start(job, data)
        wait = _POLL * random.uniform(0.8, 1.2)
        if claimed.due_in is not None:
            wait = min(wait, claimed.due_in / 1e6 + 0.001)
        self._next_claim = time.monotonic() + wait
        if claimed.jobs:
            self._on_change()

    async def _wait_for_slots(self) -> claims.RunLimits:
        """Wait until there may be jobs to claim, and return how many may run."""
        before = self._preemption.interactive_calls()
        while True:
            wait = self._next_claim - time.monotonic()
            if self._preemption.blocks_jobs(self._running()):
                # Nothing notifies us when an interactive call ends and frees a slot.
                wait = min(wait, _CALL_POLL)
            await wait_for_event(self._wake, max(0.0, wait))
            now = self._preemption.interactive_calls()
            fewer = any(now.get(model, 0) < count for model, count in before.items())
            before = now
            if not (self._wake.is_set() or fewer or time.monotonic() >= self._next_claim):
                continue
            self._wake.clear()
            if self._draining:
                await asyncio.Event().wait()  # until cancelled
            free = self._preemption.free_slots(self._running())
            if free:
                limits = {model: self._config.running_limit_of(model) for model in free}
                return claims.RunLimits(self._config.running_limit, limits, free)
            self._next_claim = time.monotonic() + _POLL

    def _running(self) -> Counter[str]:
        """How many jobs of each model run in this process."""
        return Counter(local.model for local in self._runs.values())

    async def _preempt(self) -> None:
        """If interactive calls wait in the engine, requeue the latest jobs that no client watches."""
        if not self._preemption.is_active:
            await self._busy.wait()
        preempted, raised = await self._preemption.check(self._running())
        for model, count in preempted.items():
            unfollowed = [
                local
                for local in self._runs.values()
                if local.model == model and not local.followers and not local.watched
            ]
            for local in unfollowed[-count:]:
                self._abort(local)
                await self._write_end(RunRequeued(local.run, 0, None))
        if raised:
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
                error = self._service_error(raised, job.id)
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

    def _service_error(self, raised: Exception, job_id: str) -> ServiceError:
        if isinstance(raised, ServiceError):
            return raised
        if isinstance(raised, TimeoutError):
            return timed_out(self._run_seconds)
        return unexpected(job_id)

    async def _write_end(self, outcome: RunEnded | RunRequeued) -> None:
        """Write the outcome. During an outage this tries until it succeeds, so that no answer is lost."""
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
        """Add the chunks that are not stored yet, if a client of another process watches the job."""
        local = self._runs.get(outcome.run.seq)
        if (
            not isinstance(outcome, RunEnded)
            or local is None
            or local.run != outcome.run
            or not local.watched
        ):
            return outcome
        return RunEnded(outcome.run, outcome.completion, outcome.error, local.unstored())

    # Leases

    async def _renew(self) -> None:
        # No claim may run meanwhile: a run that the database holds for us, but we do not know, came from a
        # claim whose reply was lost.
        async with self._claiming, self._writing:
            known = dict(self._runs)
            runs = {(seq, local.run.number) for seq, local in known.items()}
            held = await self._database.write(claims.renew_leases, self._worker, self._lease, runs)
        self._compare(known, held)

    def reconcile_soon(self) -> None:
        """Check the running jobs now: another process may have ended, requeued or begun to watch one."""
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
        """Abort the run of a job that was ended by a call or by expiry, if this process runs the job."""
        local = self._runs.get(seq)
        if local is not None:
            self._abort(local)

    def _abort(self, local: LocalRun) -> None:
        if local.task is not None:
            local.task.cancel()

    # Chunks for clients of other processes

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
            await self._database.write(_store_chunks_of_runs, [(local.run, chunks) for local, chunks in new])
            for local, chunks in new:
                local.stored = chunks[-1][0] + 1


def _store_chunks_of_runs(transaction: Transaction, new: list[tuple[Run, list[tuple[int, bytes]]]]) -> None:
    for run, chunks in new:
        store_chunks(transaction, run, chunks)
    transaction.announce()
