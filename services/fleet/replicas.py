"""The replicas of one model: picks a runtime for each request, and another where one is down.

Knows runtimes by their interface only.
"""

from collections.abc import Sequence, Set
from typing import Self

import grpc
from inferd.services.errors import ServiceError
from inferd.services.generation.stream import Stream
from inferd.services.runtimes.base import Delta, GenerateRequest, Runtime


class Replicas:
    """One or more runtimes that serve the same model."""

    def __init__(self, model: str, runtimes: Sequence[Runtime]) -> None:
        self._model = model
        self.runtimes = runtimes
        #: Names of `SamplingParams` fields that some of them cannot honour.
        self.unsupported: frozenset[str] = frozenset().union(*(runtime.unsupported for runtime in runtimes))
        #: Generations under way, of each runtime.
        self.running = [0] * len(runtimes)
        #: Generations under way that are not background work; and those of them with no delta yet.
        self.interactive = 0
        self.unstarted = 0

    @property
    def serving(self) -> bool:
        """Whether any of them takes requests."""
        return any(runtime.serving for runtime in self.runtimes)

    @property
    def media(self) -> frozenset[str]:
        """Kinds of media that all of them take."""
        return frozenset.intersection(*(runtime.media for runtime in self.runtimes))

    def generate(self, request: GenerateRequest) -> Stream[Delta]:
        """Generate on the least busy serving runtime; closing the stream aborts the work.

        Where a runtime fails before its first delta, another one is asked. Iterating raises ServiceError as
        `Runtime.generate` does, and UNAVAILABLE where none serves.
        """
        return _Generation(self, request)

    async def waiting(self) -> int:
        """How many requests wait in the serving runtimes for others to end; see `Runtime.waiting`."""
        return sum([await runtime.waiting() for runtime in self.runtimes if runtime.serving])

    def pick(self, candidates: Set[int]) -> int:
        """The runtime to ask next, by its index, of those."""
        serving = [index for index in candidates if self.runtimes[index].serving]
        if len(serving) == 1:
            return serving[0]
        if not serving:
            raise ServiceError(
                grpc.StatusCode.UNAVAILABLE,
                "MODEL_UNAVAILABLE",
                f"no runtime of model {self._model} is serving now: it is starting, or has failed",
                retry_after=1,
                metadata={"model": self._model},
            )
        return min(serving, key=self.running.__getitem__)


class _Generation:
    """One generation: the deltas of the first runtime that begins it."""

    __slots__ = (
        "_begun",
        "_deltas",
        "_index",
        "_is_over",
        "_is_waited_for",
        "_replicas",
        "_request",
        "_untried",
    )

    def __init__(self, replicas: Replicas, request: GenerateRequest) -> None:
        self._replicas = replicas
        self._request = request
        self._is_waited_for = not request.background
        self._untried = set(range(len(replicas.runtimes)))
        self._begun = False
        self._is_over = False
        #: The runtime that was asked, and what it gives; None: none is being asked.
        self._index = 0
        self._deltas: Stream[Delta] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        while not self._is_over:
            try:
                delta = await anext(self._deltas or self._ask())
            except ServiceError as error:
                await self._leave()
                retry = error.code is grpc.StatusCode.UNAVAILABLE and not self._begun
                if not retry or not any(self._replicas.runtimes[index].serving for index in self._untried):
                    self._is_over = True
                    raise
            except BaseException:
                await self.aclose()
                raise
            else:
                if not self._begun:
                    self._begun = True
                    self._replicas.unstarted -= self._is_waited_for
                return delta
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._is_over = True
        await self._leave()

    def _ask(self) -> Stream[Delta]:
        """Ask a runtime that was not asked before."""
        replicas = self._replicas
        self._index = index = replicas.pick(self._untried)
        self._untried.discard(index)
        replicas.running[index] += 1
        replicas.interactive += self._is_waited_for
        replicas.unstarted += self._is_waited_for
        self._deltas = deltas = replicas.runtimes[index].generate(self._request)
        return deltas

    async def _leave(self) -> None:
        """End what is asked of a runtime, where one is."""
        deltas, self._deltas = self._deltas, None
        if deltas is None:
            return
        replicas = self._replicas
        replicas.running[self._index] -= 1
        replicas.interactive -= self._is_waited_for
        replicas.unstarted -= self._is_waited_for and not self._begun
        await deltas.aclose()
