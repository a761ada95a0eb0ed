"""Calls that somebody waits for come before queued jobs: how many jobs of each model may run here.

An interactive call takes a job's place from its beginning. Where it waits in the engine all the same, jobs
give way: as many as wait there are queued again, and fewer run until nothing waits any more.
"""

import time
from collections.abc import Callable, Mapping

import grpc
from inferd.services.errors import ServiceError
from inferd.services.fleet.catalog import Catalog, ServedModel

#: Seconds between looks at calls that have no answer yet.
CHECK_SECONDS = 0.25
#: Seconds after which one more job may run, where nothing waits in the engine.
_RISE_SECONDS = 1.0


class Preemption:
    """`limit_of` gives the configured limit of a model, by its id."""

    def __init__(self, catalog: Catalog, limit_of: Callable[[str], int]) -> None:
        self._catalog = catalog
        self._limit_of = limit_of
        #: Lower limits, where jobs gave way; and when they are to rise.
        self._caps: dict[str, int] = {}
        self._rises: dict[str, float] = {}

    def free_slots(self, running: Mapping[str, int]) -> dict[str, int]:
        """How many more jobs may run of each model that is served now, where `running` do."""
        found = {}
        for model in self._catalog:
            limit = self._limit_of(model.id) - model.replicas.interactive
            limit = min(limit, self._caps.get(model.id, limit))
            if model.replicas.serving and limit > running.get(model.id, 0):
                found[model.id] = limit - running.get(model.id, 0)
        return found

    @property
    def is_active(self) -> bool:
        """Whether jobs gave way, and fewer may run since."""
        return bool(self._caps)

    def interactive_calls(self) -> dict[str, int]:
        """How many interactive calls of each model are under way."""
        return {model.id: model.replicas.interactive for model in self._catalog}

    def blocks_jobs(self, running: Mapping[str, int]) -> bool:
        """Whether interactive calls leave no more room for jobs of some model, where `running` do."""
        return any(
            model.replicas.interactive
            and model.replicas.interactive + running.get(model.id, 0) >= self._limit_of(model.id)
            for model in self._catalog
        )

    async def check(self, running: Mapping[str, int]) -> tuple[dict[str, int], bool]:
        """How many jobs of each model are to give way; and whether there is more room than before."""
        giving: dict[str, int] = {}
        risen = False
        for model in self._catalog:
            jobs = running.get(model.id, 0)
            if jobs and model.replicas.unstarted:
                waiting = await _waiting(model)
                if waiting:
                    giving[model.id] = min(waiting, jobs)
                    self._caps[model.id] = jobs - giving[model.id]
                    self._rises[model.id] = time.monotonic() + _RISE_SECONDS
            elif model.id in self._caps and time.monotonic() >= self._rises[model.id]:
                self._rises[model.id] = time.monotonic() + _RISE_SECONDS
                if not await _waiting(model):
                    self._rise(model.id)
                    risen = True
        return giving, risen

    def _rise(self, model: str) -> None:
        self._caps[model] += 1
        if self._caps[model] >= self._limit_of(model):
            del self._caps[model], self._rises[model]


async def _waiting(model: ServedModel) -> int:
    """How many requests wait in the model's engines; 0 where they do not tell."""
    try:
        return await model.replicas.waiting()
    except ServiceError as error:
        if error.code not in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE):
            raise
        return 0
