"""Decides how many jobs of each model this process may run, so that interactive calls come before queued
jobs.

An interactive call takes the slot of a job while it runs. If interactive calls wait in the engine
nevertheless, as many running jobs are preempted, and the model's limit is lowered until no request waits in
the engine. This module only decides; `runner` claims and requeues the jobs.
"""

import time
from collections.abc import Callable, Mapping

import grpc

from inferd.services.errors import ServiceError
from inferd.services.fleet.catalog import Catalog, ServedModel

#: Seconds between checks for calls that wait in the engine.
CHECK_SECONDS = 0.25
#: Seconds until one more job may run, if no request waits in the engine.
_RAISE_SECONDS = 1.0


class Preemption:
    """The limits of one process. `limit_of` returns the configured limit of a model, by the model's id."""

    def __init__(self, catalog: Catalog, limit_of: Callable[[str], int]) -> None:
        self._catalog = catalog
        self._limit_of = limit_of
        #: The lowered limits of models whose jobs were preempted, and when each is raised (monotonic
        #: seconds).
        self._lowered: dict[str, int] = {}
        self._raise_times: dict[str, float] = {}

    def free_slots(self, running: Mapping[str, int]) -> dict[str, int]:
        """How many more jobs of each model may run, beside the `running` ones. Models with none are left
        out."""
        found = {}
        for model in self._catalog:
            limit = self._limit_of(model.id) - model.replicas.interactive
            limit = min(limit, self._lowered.get(model.id, limit))
            if model.replicas.serving and limit > running.get(model.id, 0):
                found[model.id] = limit - running.get(model.id, 0)
        return found

    @property
    def is_active(self) -> bool:
        """Whether the limit of a model is lowered."""
        return bool(self._lowered)

    def interactive_calls(self) -> dict[str, int]:
        """The number of interactive calls of each model."""
        return {model.id: model.replicas.interactive for model in self._catalog}

    def blocks_jobs(self, running: Mapping[str, int]) -> bool:
        """Whether interactive calls leave no slot for jobs of some model, beside the `running` ones."""
        return any(
            model.replicas.interactive
            and model.replicas.interactive + running.get(model.id, 0) >= self._limit_of(model.id)
            for model in self._catalog
        )

    async def check(self, running: Mapping[str, int]) -> tuple[dict[str, int], bool]:
        """How many jobs of each model to preempt, and whether a lowered limit was raised."""
        preempted: dict[str, int] = {}
        raised = False
        for model in self._catalog:
            jobs = running.get(model.id, 0)
            if jobs and model.replicas.unstarted:
                waiting = await _waiting(model)
                if waiting:
                    preempted[model.id] = min(waiting, jobs)
                    self._lowered[model.id] = jobs - preempted[model.id]
                    self._raise_times[model.id] = time.monotonic() + _RAISE_SECONDS
            elif model.id in self._lowered and time.monotonic() >= self._raise_times[model.id]:
                self._raise_times[model.id] = time.monotonic() + _RAISE_SECONDS
                if not await _waiting(model):
                    self._raise_limit(model.id)
                    raised = True
        return preempted, raised

    def _raise_limit(self, model: str) -> None:
        self._lowered[model] += 1
        if self._lowered[model] >= self._limit_of(model):
            del self._lowered[model], self._raise_times[model]


async def _waiting(model: ServedModel) -> int:
    """How many requests wait in the model's engines; 0 if an engine does not report it."""
    try:
        return await model.replicas.waiting()
    except ServiceError as error:
        if error.code not in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE):
            raise
        return 0
