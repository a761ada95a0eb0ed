"""The runtime behind SGLang's scheduler protocol: `sglang.launch_server --smg-grpc-mode`.

Tokens in and tokens out over one gRPC channel, and whether the engine can be reached. What the messages
mean is in `scheduler_wire`.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from smg_grpc_proto import sglang_scheduler_pb2 as pb
from smg_grpc_proto import sglang_scheduler_pb2_grpc as pb_grpc
from smg_grpc_proto.generated import common_pb2

from services.errors import ServiceError
from services.runtimes.base import Delta, GenerateRequest, RuntimeInfo
from services.runtimes.engine_errors import aborted, adapter_missing, unavailable
from services.runtimes.scheduler_wire import ResponseReader, to_message, to_service_error
from services.runtimes.tokenizer_bundle import BundleError, unpack
from services.runtimes.watch import CHECK_TIMEOUT, Watch

log = logging.getLogger(__name__)

#: Seconds that `info` may take.
INFO_TIMEOUT = 5.0
#: Seconds that fetching a tokenizer may take.
TOKENIZER_TIMEOUT = 60.0

# Answers of a server that lives and has no health service, or knows none of this name.
_NO_HEALTH_SERVICE = {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.NOT_FOUND}

_CHANNEL_OPTIONS = [
    # The servicer's own limits: prompts with logprobs of every token are long.
    ("grpc.max_receive_message_length", 256 << 20),
    ("grpc.max_send_message_length", 256 << 20),
    # A call's error repeats the constraint that it blames; gRPC's own limit is 16 kB, and calls it exhausted.
    ("grpc.max_metadata_size", 4 << 20),
    ("grpc.absolute_max_metadata_size", 4 << 20),
    # A host that vanished without a FIN. The servicer takes more than one ping in 10 s for abuse.
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # An engine that restarted is found within a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # For a connection attempt, in spite of its name; the default is 20 s.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    # Each runtime has its own connection and backoff.
    ("grpc.use_local_subchannel_pool", 1),
    # Runtimes are inside; HTTP proxies do not carry gRPC.
    ("grpc.enable_http_proxy", 0),
]


class SchedulerRuntime:
    """One engine at `address` (HOST:PORT). To be made on the loop that uses it.

    `on_change` is called on that loop whenever `serving` changed. `health_service` is the name that the
    engine's health service is asked for: the whole server by default, which serves from when its model
    is loaded until it stops. SGLang has a stricter one, "sglang.grpc.scheduler.SglangScheduler", that
    fails also while requests wait and nothing came from the scheduler for 30 s: a hang where prefills
    are short, a long prompt on a CPU.
    """

    #: The protocol has no fields for them.
    unsupported = frozenset({"seed", "priority", "cache_salt", "extra_key"})
    #: The protocol takes an image's features, not the image.
    media: frozenset[str] = frozenset()

    def __init__(
        self,
        address: str,
        *,
        on_change: Callable[[], None] = lambda: None,
        health_service: str = "",
    ) -> None:
        self.name = f"grpc {address}"
        self._health_request = health_pb2.HealthCheckRequest(service=health_service)
        self._channel = grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
        self._scheduler = pb_grpc.SglangSchedulerStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)
        self._watch = Watch(self.name, self._check, on_change)
        self._closed = False
        # Kept from the garbage collector until they are done.
        self._aborts: set[asyncio.Task[None]] = set()

    @property
    def serving(self) -> bool:
        """What the last health check said; False before the first."""
        return self._watch.serving

    async def start(self) -> None:
        """Begin to watch the engine's health. Returns at once."""
        self._watch.start()

    async def close(self) -> None:
        """Stop watching and close the channel. Calls under way end with UNAVAILABLE. Idempotent."""
        if self._closed:
            return
        self._closed = True
        await self._watch.close()
        for abort in list(self._aborts):
            abort.cancel()
        await self._channel.close()
        self._watch.set_serving(False)

    async def info(self) -> RuntimeInfo:
        """What the engine says of itself.

        Raises ServiceError UNAVAILABLE where it is down, DEADLINE_EXCEEDED after `INFO_TIMEOUT`.
        """
        self._check_open()
        try:
            model, server = await asyncio.gather(
                self._scheduler.GetModelInfo(pb.GetModelInfoRequest(), timeout=INFO_TIMEOUT),
                self._scheduler.GetServerInfo(pb.GetServerInfoRequest(), timeout=INFO_TIMEOUT),
            )
        except grpc.aio.AioRpcError as error:
            raise to_service_error(error) from None
        return RuntimeInfo(
            model_path=model.model_path or None,
            max_total_tokens=server.max_total_num_tokens or None,
            started=server.start_time.seconds or None,
        )

    async def waiting(self) -> int:
        """How many requests wait in the engine's queue."""
        self._check_open()
        try:
            answer = await self._scheduler.GetLoads(
                pb.GetLoadsRequest(include=["core"]), timeout=INFO_TIMEOUT
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise ServiceError(error.code(), "NO_LOADS", "the runtime does not tell its load") from None
            raise to_service_error(error) from None
        return sum(load.num_waiting_reqs for load in answer.loads)

    async def fetch_tokenizer(self, folder: Path) -> None:
        """See `Runtime.fetch_tokenizer`."""
        self._check_open()
        data, digest = bytearray(), ""
        try:
            async for chunk in self._scheduler.GetTokenizer(
                common_pb2.GetTokenizerRequest(), timeout=TOKENIZER_TIMEOUT
            ):
                data += chunk.data
                digest = chunk.sha256 or digest
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise ServiceError(
                    error.code(), "NO_TOKENIZER", "the runtime hands out no tokenizer"
                ) from None
            raise to_service_error(error) from None
        try:
            unpack(bytes(data), digest, folder)
        except BundleError as error:
            raise unavailable(str(error)) from error

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        """Generate; see `Runtime.generate`. With `stream` False, one delta.

        An empty prompt is INVALID_ARGUMENT: it kills SGLang. So do others that only the model's
        vocabulary tells (ids beyond it in the prompt or logit_bias, as many top_logprobs): they were
        checked before.
        """
        self._check_open()
        if not request.token_ids:
            raise ServiceError(grpc.StatusCode.INVALID_ARGUMENT, "EMPTY_PROMPT", "the prompt has no tokens")
        if request.adapter is not None:
            # An id that the scheduler does not know kills it, and it starts with no adapters in this mode.
            raise adapter_missing(request.adapter)
        reader = ResponseReader(request)
        message = to_message(request)
        call = _Call(self._scheduler.Generate(message))
        self._watch.calls.add(call)
        finished = False
        try:
            while (response := await call.rpc.read()) is not grpc.aio.EOF:
                call.heard = time.monotonic()
                delta = reader.read(response)
                if delta is None:
                    continue
                finished = delta.finish is not None
                yield delta
                if finished:
                    return
            raise aborted()
        except grpc.aio.AioRpcError as error:
            raise to_service_error(error, request.sampling.constraint) from None
        except asyncio.CancelledError:
            if call.dropped and not _cancelling():
                raise unavailable("the runtime went away") from None
            raise
        finally:
            self._watch.calls.discard(call)
            # Ends the work in the engine, unless it ended by itself.
            call.rpc.cancel()
            if not finished and not self._closed:
                self._abort(message.request_id)

    def _abort(self, request_id: str) -> None:
        """Tell the engine to end a request whose call was cancelled.

        The servicer should do that by itself, and does not where the cancellation meets it while it writes a
        message: the engine would then generate to the end. A second abort of a request does no harm.
        """
        task = asyncio.create_task(self._send_abort(request_id), name=f"abort on {self.name}")
        self._aborts.add(task)
        task.add_done_callback(self._aborts.discard)

    async def _send_abort(self, request_id: str) -> None:
        request = pb.AbortRequest(request_id=request_id, reason="the call was cancelled")
        try:
            await self._scheduler.Abort(request, timeout=INFO_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            log.debug("%s: abort: %s", self.name, error.code().name)

    def _check_open(self) -> None:
        if self._closed:
            raise unavailable("the runtime was closed")

    async def _check(self) -> bool:
        """Whether the engine can be reached; `serving` is set on the way.

        By Check: the servicer's Watch says the state once and ends.
        """
        try:
            answer = await self._health.Check(self._health_request, timeout=CHECK_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            self._watch.set_serving(error.code() in _NO_HEALTH_SERVICE)
            # Late is not gone: keepalive ends the calls of a host that does not answer.
            return error.code() is not grpc.StatusCode.UNAVAILABLE
        self._watch.set_serving(answer.status == health_pb2.HealthCheckResponse.SERVING)
        return True


class _Call:
    """One generation under way. `heard` is when it last said something (monotonic seconds)."""

    __slots__ = ("dropped", "heard", "rpc")

    def __init__(self, rpc: Any) -> None:
        self.rpc = rpc
        self.heard = time.monotonic()
        self.dropped = False

    def drop(self) -> None:
        """End it with UNAVAILABLE."""
        self.dropped = True
        self.rpc.cancel()


def _cancelling() -> bool:
    """Whether the running task itself is being cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
