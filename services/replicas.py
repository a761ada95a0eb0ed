"""The replicas of one model: picks a runtime for each request, and another where one is down.

Knows runtimes by their interface only.
"""

from collections.abc import AsyncGenerator, Sequence

import grpc

from services.errors import ServiceError
from services.runtimes.base import Delta, GenerateRequest, Runtime


class Replicas:
    """One or more runtimes that serve the same model."""

    def __init__(self, model: str, runtimes: Sequence[Runtime]) -> None:
        self._model = model
        self.runtimes = runtimes
        self._running = [0] * len(runtimes)
        #: Generations under way that are not background work; and those of them with no delta yet.
        self.interactive = 0
        self.unstarted = 0

    @property
    def serving(self) -> bool:
        """Whether any of them takes requests."""
        return any(runtime.serving for runtime in self.runtimes)

    @property
    def unsupported(self) -> frozenset[str]:
        """Names of `SamplingParams` fields that some of them cannot honour."""
        if len(self.runtimes) == 1:
            return self.runtimes[0].unsupported
        return frozenset().union(*(runtime.unsupported for runtime in self.runtimes))

    @property
    def media(self) -> frozenset[str]:
        """Kinds of media that all of them take."""
        return frozenset.intersection(*(runtime.media for runtime in self.runtimes))

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        """Generate on the least busy serving runtime; closing the generator aborts the work.

        Where a runtime fails before its first delta, another one is asked. Raises ServiceError as
        `Runtime.generate` does, and UNAVAILABLE where none serves.
        """
        untried = set(range(len(self.runtimes)))
        while True:
            index = self._pick(untried)
            untried.discard(index)
            self._running[index] += 1
            waited_for = not request.background
            self.interactive += waited_for
            self.unstarted += waited_for
            deltas = self.runtimes[index].generate(request)
            started = False
            try:
                async for delta in deltas:
                    if not started:
                        started = True
                        self.unstarted -= waited_for
                    yield delta
                return
            except ServiceError as error:
                retry = error.code is grpc.StatusCode.UNAVAILABLE and not started
                if not retry or not any(self.runtimes[i].serving for i in untried):
                    raise
            finally:
                self._running[index] -= 1
                self.interactive -= waited_for
                self.unstarted -= waited_for and not started
                await deltas.aclose()

    async def waiting(self) -> int:
        """How many requests wait in the serving runtimes for others to end; see `Runtime.waiting`."""
        return sum([await runtime.waiting() for runtime in self.runtimes if runtime.serving])

    def _pick(self, candidates: set[int]) -> int:
        serving = [index for index in candidates if self.runtimes[index].serving]
        if not serving:
            raise ServiceError(
                grpc.StatusCode.UNAVAILABLE,
                "MODEL_UNAVAILABLE",
                f"no runtime of model {self._model} is serving now: it is starting, or has failed",
                retry_after=1,
                metadata={"model": self._model},
            )
        return min(serving, key=self._running.__getitem__)
