"""What all adapters share: the engine's health, the generations under way, aborts, and closing.

Knows no wire. A new adapter is a subclass of `RuntimeAdapter`, and one of `RunningGeneration`.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import grpc

from inferd.services.errors import ServiceError
from inferd.services.runtimes.base import GenerateRequest, RuntimeInfo
from inferd.services.runtimes.engine_errors import runtime_unavailable
from inferd.services.runtimes.health_watch import CHECK_INTERVAL, HealthWatch
from inferd.services.runtimes.running_generation import RunningGeneration
from inferd.services.runtimes.token_sink import TokenSink

log = logging.getLogger(__name__)

#: Seconds that the engine may take to answer a query about itself.
QUERY_TIMEOUT = 5.0


class RuntimeAdapter(ABC):
    """A `Runtime`, to be subclassed. To be made on the event loop that uses it.

    `on_change` is called on that loop whenever `serving` changed. `serving_interval` is the time between
    health checks of an engine that serves, in seconds.
    """

    unsupported: frozenset[str]
    media: frozenset[str]

    def __init__(
        self, name: str, on_change: Callable[[], None], *, serving_interval: float = CHECK_INTERVAL
    ) -> None:
        self.name = name
        self._health = HealthWatch(name, self._check_health, on_change, serving_interval=serving_interval)
        self._is_closed = False
        #: Kept from the garbage collector until they are done.
        self._aborts: set[asyncio.Task[None]] = set()

    # What a subclass does, beside `info`, `waiting` and `fetch_tokenizer` of `Runtime`.

    @abstractmethod
    def _new_generation(self, request: GenerateRequest, sink: TokenSink) -> RunningGeneration:
        """A generation that is ready to run. Raises ServiceError if the engine cannot take the request."""

    @abstractmethod
    async def _check_health(self) -> bool:
        """Ask the engine once, and tell the answer to `self._health.set_serving`.

        Returns whether the engine could be reached.
        """

    @abstractmethod
    async def _send_abort(self, request_id: str) -> None:
        """Tell the engine to end a request. Raises nothing if the engine cannot be told."""

    @abstractmethod
    async def _close_connections(self) -> None:
        """Close all connections to the engine."""

    # `Runtime`.

    @property
    def serving(self) -> bool:
        """The result of the last health check; False before the first."""
        return self._health.serving

    async def start(self) -> None:
        """Begin to watch the engine's health. Returns at once."""
        self._health.start()

    async def close(self) -> None:
        """Stop watching, and close the connections. Generations under way end with UNAVAILABLE."""
        if self._is_closed:
            return
        self._is_closed = True
        await self._health.close()
        for abort in list(self._aborts):
            abort.cancel()
        await asyncio.gather(*self._aborts, return_exceptions=True)
        await self._close_connections()
        self._health.set_serving(False)

    @abstractmethod
    async def info(self) -> RuntimeInfo:
        """See `Runtime.info`."""

    @abstractmethod
    async def waiting(self) -> int:
        """See `Runtime.waiting`."""

    @abstractmethod
    async def fetch_tokenizer(self, folder: Path) -> None:
        """See `Runtime.fetch_tokenizer`."""

    async def generate(self, request: GenerateRequest, sink: TokenSink) -> None:
        """Generate; see `Runtime.generate`. If `request.stream` is False, one delta is pushed.

        An empty prompt is INVALID_ARGUMENT, because it kills SGLang. Token ids beyond the model's vocabulary,
        in the prompt or in `logit_bias`, kill SGLang too, and so does a `top_logprobs` beyond the
        vocabulary's size. Those are checked by the caller.
        """
        self._check_open()
        if not request.token_ids:
            raise ServiceError(grpc.StatusCode.INVALID_ARGUMENT, "EMPTY_PROMPT", "the prompt has no tokens")
        generation = self._new_generation(request, sink)
        self._health.generations.add(generation)
        try:
            await generation.run()
        finally:
            self._health.generations.discard(generation)
            if generation.needs_abort and not self._is_closed:
                self._abort(generation.request_id)

    # For subclasses.

    def _check_open(self) -> None:
        if self._is_closed:
            raise runtime_unavailable("the runtime was closed")

    def _abort(self, request_id: str) -> None:
        """Begin to tell the engine to end a request.

        Closing the request's stream is not enough. An engine's server may notice that late or never, and the
        engine would then generate to the end. An abort of a request that has ended does no harm.
        """
        task = asyncio.create_task(self._send_abort(request_id), name=f"abort on {self.name}")
        self._aborts.add(task)
        task.add_done_callback(self._aborts.discard)
