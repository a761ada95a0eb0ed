"""The replicas of one model: picks a runtime for each request, and another one if the first is down.

It uses only the interface `Runtime`, and neither starts nor checks runtimes.
"""

from collections.abc import Callable, Sequence, Set

import grpc

from inferd.services.errors import ServiceError
from inferd.services.runtimes.base import GenerateRequest, Runtime
from inferd.services.runtimes.token_sink import TokenSink


class Replicas:
    """The runtimes that serve the same model; at least one."""

    def __init__(self, model: str, runtimes: Sequence[Runtime]) -> None:
        self._model = model
        self.runtimes = runtimes
        #: Names of the `SamplingParams` fields that at least one runtime does not support.
        self.unsupported: frozenset[str] = frozenset().union(*(runtime.unsupported for runtime in runtimes))
        #: The number of running generations, by the index of the runtime.
        self.running = [0] * len(runtimes)
        #: Running generations that are not background work, and how many of them have no token yet.
        self.interactive = 0
        self.unstarted = 0

    @property
    def serving(self) -> bool:
        """Whether at least one runtime serves."""
        return any(runtime.serving for runtime in self.runtimes)

    @property
    def media(self) -> frozenset[str]:
        """The kinds of media that all runtimes accept."""
        return frozenset.intersection(*(runtime.media for runtime in self.runtimes))

    async def generate(self, request: GenerateRequest, sink: TokenSink) -> None:
        """Generate on the serving runtime with the fewest generations, and push the tokens to `sink`.

        If a runtime is unavailable before its first token, another one is tried. Cancelling aborts the work.
        Raises ServiceError as `Runtime.generate` does, and UNAVAILABLE if no runtime serves.
        """
        untried = set(range(len(self.runtimes)))
        on_begin = sink.on_begin
        while True:
            index = self.pick(untried)
            untried.discard(index)
            running = _Running(self, index, is_interactive=not request.background)
            sink.on_begin = running.begin if on_begin is None else _both(running.begin, on_begin)
            try:
                await self.runtimes[index].generate(request, sink)
                return
            except ServiceError as error:
                may_retry = error.code is grpc.StatusCode.UNAVAILABLE and not sink.has_begun
                if not may_retry or not any(self.runtimes[other].serving for other in untried):
                    raise
            finally:
                running.end()
                # The callback refers to the replicas, and the sink may live longer.
                sink.on_begin = None

    async def waiting(self) -> int:
        """How many requests wait in the serving runtimes for other requests to end; see `Runtime.waiting`."""
        return sum([await runtime.waiting() for runtime in self.runtimes if runtime.serving])

    def pick(self, candidates: Set[int]) -> int:
        """The index of the runtime to try next, out of `candidates`. Raises ServiceError UNAVAILABLE."""
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


class _Running:
    """Counts one generation on one runtime, from its start to its end."""

    __slots__ = ("_index", "_is_interactive", "_is_unstarted", "_replicas")

    def __init__(self, replicas: Replicas, index: int, *, is_interactive: bool) -> None:
        self._replicas = replicas
        self._index = index
        self._is_interactive = self._is_unstarted = is_interactive
        replicas.running[index] += 1
        replicas.interactive += is_interactive
        replicas.unstarted += is_interactive

    def begin(self) -> None:
        """Count the generation as started. Does nothing the second time."""
        self._replicas.unstarted -= self._is_unstarted
        self._is_unstarted = False

    def end(self) -> None:
        """Count the generation no longer."""
        self.begin()
        self._replicas.running[self._index] -= 1
        self._replicas.interactive -= self._is_interactive


def _both(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    def call() -> None:
        first()
        second()

    return call
