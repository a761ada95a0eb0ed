"""The runtime behind SGLang's scheduler protocol: `sglang.launch_server --smg-grpc-mode`.

Tokens in and tokens out over one gRPC channel, and whether the engine can be reached. What the messages
mean is in `scheduler_wire`.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2
from inferd.services.errors import ServiceError
from inferd.services.net.http2.channel import Channel
from inferd.services.net.http2.client_call import CallFailed, ClientCall
from inferd.services.runtimes.base import GenerateRequest, RuntimeInfo
from inferd.services.runtimes.engine_errors import aborted, adapter_missing, failed, late, unavailable
from inferd.services.runtimes.scheduler_responses import SchedulerResponses
from inferd.services.runtimes.scheduler_wire import to_message, to_service_error
from inferd.services.runtimes.token_sink import TokenSink
from inferd.services.runtimes.tokenizer_bundle import BundleError, unpack
from inferd.services.runtimes.watch import CHECK_TIMEOUT, SERVING_INTERVAL, Watch
from smg_grpc_proto import sglang_scheduler_pb2 as pb
from smg_grpc_proto.generated import common_pb2

log = logging.getLogger(__name__)

#: Seconds that `info` may take.
INFO_TIMEOUT = 5.0
#: Seconds that fetching a tokenizer may take.
TOKENIZER_TIMEOUT = 60.0

# Answers of a server that lives and has no health service, or knows none of this name.
_NO_HEALTH_SERVICE = {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.NOT_FOUND}

#: Seconds of silence after which the engine's host is pinged: one that vanished without a FIN. The servicer
#: takes more than one ping in 10 s for abuse.
_QUIET_SECONDS = 15.0
#: An error repeats the constraint that it blames.
_MAX_HEADER_BYTES = 4 << 20

_SCHEDULER = "/sglang.grpc.scheduler.SglangScheduler/"
_GENERATE = _SCHEDULER + "Generate"
_CHECK = "/grpc.health.v1.Health/Check"

Response = TypeVar("Response", bound=Message)


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
        self._health_request = health_pb2.HealthCheckRequest(service=health_service).SerializeToString()
        self._watch = Watch(self.name, self._check, on_change, serving_interval=SERVING_INTERVAL)
        self._channel = Channel(
            address,
            max_header_bytes=_MAX_HEADER_BYTES,
            quiet_seconds=_QUIET_SECONDS,
            on_lost=self._watch.look,
        )
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
                self._ask("GetModelInfo", pb.GetModelInfoRequest(), pb.GetModelInfoResponse),
                self._ask("GetServerInfo", pb.GetServerInfoRequest(), pb.GetServerInfoResponse),
            )
        except CallFailed as error:
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
            answer = await self._ask("GetLoads", pb.GetLoadsRequest(include=["core"]), pb.GetLoadsResponse)
        except CallFailed as error:
            if error.code is grpc.StatusCode.UNIMPLEMENTED:
                raise ServiceError(error.code, "NO_LOADS", "the runtime does not tell its load") from None
            raise to_service_error(error) from None
        return sum(load.num_waiting_reqs for load in answer.loads)

    async def fetch_tokenizer(self, folder: Path) -> None:
        """See `Runtime.fetch_tokenizer`."""
        self._check_open()
        data, digest = bytearray(), ""
        request = common_pb2.GetTokenizerRequest().SerializeToString()
        try:
            async with asyncio.timeout(TOKENIZER_TIMEOUT):
                call = await self._channel.start(_SCHEDULER + "GetTokenizer", request)
                try:
                    while messages := await call.read():
                        for chunk in map(common_pb2.GetTokenizerChunk.FromString, messages):
                            data += chunk.data
                            digest = chunk.sha256 or digest
                finally:
                    call.cancel()
        except TimeoutError:
            raise late() from None
        except CallFailed as error:
            if error.code is grpc.StatusCode.UNIMPLEMENTED:
                raise ServiceError(error.code, "NO_TOKENIZER", "the runtime hands out no tokenizer") from None
            raise to_service_error(error) from None
        try:
            unpack(bytes(data), digest, folder)
        except BundleError as error:
            raise unavailable(str(error)) from error

    async def generate(self, request: GenerateRequest, sink: TokenSink) -> None:
        """Generate; see `Runtime.generate`. With `stream` False, one delta.

        An empty prompt is INVALID_ARGUMENT, because it kills SGLang. So do ids beyond the model's vocabulary,
        in the prompt or in logit_bias, and as many top_logprobs: the callers have checked these.
        """
        self._check_open()
        if not request.token_ids:
            raise ServiceError(grpc.StatusCode.INVALID_ARGUMENT, "EMPTY_PROMPT", "the prompt has no tokens")
        if request.adapter is not None:
            # An unknown adapter kills the scheduler, which starts with no adapters in this mode.
            raise adapter_missing(request.adapter)
        message = to_message(request)
        responses = SchedulerResponses(request, sink)
        generating = _Generating(responses)
        self._watch.calls.add(generating)
        try:
            generating.call = call = await self._channel.start(_GENERATE, message.SerializeToString())
            await call.deliver(responses, sink.flow)
            if not responses.is_over:
                raise aborted()
        except CallFailed as error:
            if generating.is_dropped:
                raise unavailable("the runtime went away") from None
            raise to_service_error(error, request.sampling.constraint) from None
        except DecodeError:
            raise failed("the runtime sent what is no message of its protocol") from None
        finally:
            self._watch.calls.discard(generating)
            if generating.call is not None:
                # Ends the work in the engine, unless it has ended.
                generating.call.cancel()
                if not responses.is_finished and not self._closed:
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
            await self._ask("Abort", request, pb.AbortResponse)
        except CallFailed as error:
            log.debug("%s: abort: %s", self.name, error.code.name)

    async def _ask(self, method: str, request: Message, response_type: type[Response]) -> Response:
        """A unary call of the scheduler protocol."""
        answer = await self._channel.unary(
            _SCHEDULER + method, request.SerializeToString(), seconds=INFO_TIMEOUT
        )
        return response_type.FromString(answer)

    def _check_open(self) -> None:
        if self._closed:
            raise unavailable("the runtime was closed")

    async def _check(self) -> bool:
        """Whether the engine can be reached; `serving` is set on the way.

        By Check: the servicer's Watch says the state once and ends.
        """
        try:
            data = await self._channel.unary(_CHECK, self._health_request, seconds=CHECK_TIMEOUT)
        except CallFailed as error:
            self._watch.set_serving(error.code in _NO_HEALTH_SERVICE)
            # Late is not gone: pings end the calls of a host that does not answer.
            return error.code is not grpc.StatusCode.UNAVAILABLE
        answer = health_pb2.HealthCheckResponse.FromString(data)
        self._watch.set_serving(answer.status == health_pb2.HealthCheckResponse.SERVING)
        return True


class _Generating:
    """A generation under way."""

    __slots__ = ("_responses", "call", "is_dropped")

    def __init__(self, responses: SchedulerResponses) -> None:
        self._responses = responses
        #: None until the call was started.
        self.call: ClientCall | None = None
        self.is_dropped = False

    @property
    def heard(self) -> float:
        """When the engine sent its last message, in monotonic seconds."""
        return self._responses.heard

    def drop(self) -> None:
        """End it with UNAVAILABLE."""
        self.is_dropped = True
        if self.call is not None:
            self.call.cancel()
