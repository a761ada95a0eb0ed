"""A call made in this process: the part of grpc.aio.ServicerContext that handlers use, with no wire.

Serves callers that would otherwise pay a loopback hop (80 to 190 µs of CPU a streamed message).
"""

import time
from collections.abc import Callable, Sequence
from typing import NoReturn

import grpc
from google.rpc import status_pb2
from inferd.services.net.message_sink import MessageSink

Metadata = Sequence[tuple[str, str | bytes]]


class InProcessContext:
    """The context of one call in this process. `timeout` is in seconds; None: no deadline.

    A call that ends other than OK raises the error that `failure` makes of what a gRPC client would receive:
    the status, and the initial metadata.
    """

    def __init__(
        self,
        failure: Callable[[status_pb2.Status, Metadata], Exception],
        metadata: Metadata = (),
        timeout: float | None = None,
        sink: MessageSink | None = None,
    ) -> None:
        self.sink = sink
        self._failure = failure
        self._metadata = metadata
        self._deadline = None if timeout is None else time.monotonic() + timeout
        #: Sent by the handler before its first message; a gRPC client's initial metadata.
        self.initial_metadata: Metadata = ()

    def invocation_metadata(self) -> Metadata:
        return self._metadata

    def time_remaining(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    async def send_initial_metadata(self, metadata: Metadata) -> None:
        self.initial_metadata = metadata

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        raise self._failure(_to_proto(status), self.initial_metadata)


def _to_proto(status: grpc.Status) -> status_pb2.Status:
    """The google.rpc.Status inside what `grpc_status.rpc_status.to_status` made."""
    for key, value in status.trailing_metadata or ():
        if key == "grpc-status-details-bin":
            return status_pb2.Status.FromString(value)
    return status_pb2.Status(code=status.code.value[0], message=status.details)
