"""The runtime behind SGLang's scheduler protocol: `sglang.launch_server --smg-grpc-mode`.

Makes the protocol's calls, over one gRPC channel. Knows nothing of the messages' contents: see
`scheduler_wire`.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2
from smg_grpc_proto import sglang_scheduler_pb2 as pb
from smg_grpc_proto.generated import common_pb2

from inferd.services.errors import ServiceError
from inferd.services.net.http2.channel import Channel
from inferd.services.net.http2.client_call import CallFailed, ClientCall
from inferd.services.runtimes.adapter import QUERY_TIMEOUT, RuntimeAdapter
from inferd.services.runtimes.base import GenerateRequest, RuntimeInfo
from inferd.services.runtimes.engine_errors import (
    adapter_not_loaded,
    runtime_aborted,
    runtime_deadline,
    runtime_error,
    runtime_unavailable,
)
from inferd.services.runtimes.health_watch import CHECK_TIMEOUT, SERVING_INTERVAL
from inferd.services.runtimes.running_generation import RunningGeneration
from inferd.services.runtimes.scheduler_responses import SchedulerResponses
from inferd.services.runtimes.scheduler_wire import to_message, to_service_error
from inferd.services.runtimes.token_sink import TokenSink
from inferd.services.runtimes.tokenizer_bundle import BundleError, unpack

log = logging.getLogger(__name__)

#: Seconds that fetching a tokenizer may take.
TOKENIZER_TIMEOUT = 60.0

#: Statuses of a server that runs and has no health service, or has none of this name.
_NO_HEALTH_SERVICE = {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.NOT_FOUND}

#: Seconds of silence after which the engine's host is sent a ping, because the host may have vanished without
#: closing its connections. The servicer ends a connection with more than one ping in 10 s.
_QUIET_SECONDS = 15.0
#: An error's headers may be large, because an error repeats the constraint that it is about.
_MAX_HEADER_BYTES = 4 << 20

_SCHEDULER = "/sglang.grpc.scheduler.SglangScheduler/"
_GENERATE = _SCHEDULER + "Generate"
_CHECK = "/grpc.health.v1.Health/Check"

Response = TypeVar("Response", bound=Message)


class SchedulerRuntime(RuntimeAdapter):
    """One engine at `address` (HOST:PORT).

    `health_service` is the name of the service whose health counts. The default is the whole server, which
    serves from when its model is loaded until it stops. SGLang has a stricter one,
    "sglang.grpc.scheduler.SglangScheduler", which also fails if requests wait and the scheduler has sent
    nothing for 30 s. If prefills are short, that means a hang; a long prompt on a CPU takes as long.
    """

    #: The protocol has no fields for these.
    unsupported = frozenset({"seed", "priority", "cache_salt", "extra_key"})
    #: The protocol takes the features of an image, and not the image.
    media: frozenset[str] = frozenset()

    def __init__(
        self,
        address: str,
        *,
        on_change: Callable[[], None] = lambda: None,
        health_service: str = "",
    ) -> None:
        super().__init__(f"grpc {address}", on_change, serving_interval=SERVING_INTERVAL)
        self._health_request = health_pb2.HealthCheckRequest(service=health_service).SerializeToString()
        self._channel = Channel(
            address,
            max_header_bytes=_MAX_HEADER_BYTES,
            quiet_seconds=_QUIET_SECONDS,
            on_lost=self._health.check_soon,
        )

    async def info(self) -> RuntimeInfo:
        """See `Runtime.info`. Raises ServiceError DEADLINE_EXCEEDED after `QUERY_TIMEOUT`."""
        self._check_open()
        try:
            model, server = await asyncio.gather(
                self._query("GetModelInfo", pb.GetModelInfoRequest(), pb.GetModelInfoResponse),
                self._query("GetServerInfo", pb.GetServerInfoRequest(), pb.GetServerInfoResponse),
            )
        except CallFailed as error:
            raise to_service_error(error) from None
        return RuntimeInfo(
            model_path=model.model_path or None,
            max_total_tokens=server.max_total_num_tokens or None,
        )

    async def waiting(self) -> int:
        """See `Runtime.waiting`."""
        self._check_open()
        try:
            answer = await self._query("GetLoads", pb.GetLoadsRequest(include=["core"]), pb.GetLoadsResponse)
        except CallFailed as error:
            if error.code is grpc.StatusCode.UNIMPLEMENTED:
                raise ServiceError(error.code, "NO_LOADS", "the runtime does not tell its load") from None
            raise to_service_error(error) from None
        return sum(load.num_waiting_reqs for load in answer.loads)

    async def fetch_tokenizer(self, folder: Path) -> None:
        """See `Runtime.fetch_tokenizer`. Raises ServiceError DEADLINE_EXCEEDED after `TOKENIZER_TIMEOUT`."""
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
            raise runtime_deadline() from None
        except CallFailed as error:
            if error.code is grpc.StatusCode.UNIMPLEMENTED:
                raise ServiceError(error.code, "NO_TOKENIZER", "the runtime hands out no tokenizer") from None
            raise to_service_error(error) from None
        try:
            unpack(bytes(data), digest, folder)
        except BundleError as error:
            raise runtime_unavailable(str(error)) from error

    def _new_generation(self, request: GenerateRequest, sink: TokenSink) -> RunningGeneration:
        if request.adapter is not None:
            # An unknown adapter kills the scheduler, which starts without adapters in this mode.
            raise adapter_not_loaded(request.adapter)
        return SchedulerGeneration(self._channel, request, sink)

    async def _send_abort(self, request_id: str) -> None:
        # The servicer aborts a request by itself if its call is cancelled, unless it is writing.
        request = pb.AbortRequest(request_id=request_id, reason="the call was cancelled")
        try:
            await self._query("Abort", request, pb.AbortResponse)
        except CallFailed as error:
            log.debug("%s: abort: %s", self.name, error.code.name)

    async def _check_health(self) -> bool:
        # The servicer's Watch is of no use, because it sends the state once and ends.
        try:
            data = await self._channel.unary(_CHECK, self._health_request, seconds=CHECK_TIMEOUT)
        except CallFailed as error:
            self._health.set_serving(error.code in _NO_HEALTH_SERVICE)
            # An engine that answers too late is not gone. If its host is, pings find that out.
            return error.code is not grpc.StatusCode.UNAVAILABLE
        answer = health_pb2.HealthCheckResponse.FromString(data)
        self._health.set_serving(answer.status == health_pb2.HealthCheckResponse.SERVING)
        return True

    async def _close_connections(self) -> None:
        await self._channel.close()

    async def _query(self, method: str, request: Message, response_type: type[Response]) -> Response:
        """Call a unary method of the scheduler protocol. Raises CallFailed."""
        answer = await self._channel.unary(
            _SCHEDULER + method, request.SerializeToString(), seconds=QUERY_TIMEOUT
        )
        return response_type.FromString(answer)


class SchedulerGeneration(RunningGeneration):
    """A call of the method Generate."""

    __slots__ = ("_call", "_channel", "_message", "_request", "_responses", "_sink")

    def __init__(self, channel: Channel, request: GenerateRequest, sink: TokenSink) -> None:
        self._message = to_message(request)
        super().__init__(self._message.request_id)
        self._channel = channel
        self._request = request
        self._sink = sink
        self._responses = SchedulerResponses(request, sink)
        #: None until the call was started.
        self._call: ClientCall | None = None

    @property
    def last_message_at(self) -> float:
        return self._responses.last_message_at

    @property
    def needs_abort(self) -> bool:
        return self._call is not None and not self._responses.is_finished

    async def run(self) -> None:
        try:
            self._call = await self._channel.start(_GENERATE, self._message.SerializeToString())
            await self._call.deliver(self._responses, self._sink.flow)
            if not self._responses.is_over:
                raise runtime_aborted()
        except CallFailed as error:
            if self.is_dropped:
                raise runtime_unavailable("the runtime went away") from None
            raise to_service_error(error, self._request.sampling.constraint) from None
        except DecodeError:
            raise runtime_error("the runtime sent what is no message of its protocol") from None
        finally:
            if self._call is not None:
                self._call.cancel()

    def drop(self) -> None:
        self.is_dropped = True
        if self._call is not None:
            self._call.cancel()
