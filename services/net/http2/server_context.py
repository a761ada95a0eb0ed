"""The context that a handler is given: the part of grpc.aio.ServicerContext that handlers use."""

import contextlib
import math
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, Protocol

import grpc

from inferd.services.net.http2.framing import Metadata
from inferd.services.net.http2.server_writer import ServerWriter

Pairs = Iterable[tuple[str, str | bytes]]


class Aborted(Exception):
    """Ends the handler after `abort`. The context has the status."""


class ServedCall(Protocol):
    """The part of a call that its context uses."""

    is_over: bool
    deadline: float

    @property
    def peer(self) -> str: ...
    def now(self) -> float: ...
    def send_initial_metadata(self, metadata: Pairs) -> None: ...
    def encode_response(self, message: Any) -> bytes: ...
    def send_message(self, message: Any) -> bytes: ...
    async def send(self, data: bytes) -> None: ...


class ServerContext:
    """The context of one call."""

    __slots__ = (
        "_call",
        "_callbacks",
        "_code",
        "_details",
        "_is_aborted",
        "_metadata",
        "_trailers",
        "_writer",
    )

    def __init__(self, call: ServedCall, metadata: Metadata) -> None:
        self._call = call
        self._metadata = metadata
        self._code = grpc.StatusCode.OK
        self._details = ""
        self._trailers: tuple[tuple[str, str | bytes], ...] = ()
        self._is_aborted = False
        self._callbacks: list[Callable[[ServerContext], None]] = []
        self._writer: ServerWriter | None = None

    def invocation_metadata(self) -> Metadata:
        """The client's metadata. A value is bytes if its key ends with -bin."""
        return self._metadata

    def time_remaining(self) -> float | None:
        """Seconds until the client's deadline; None if it has none."""
        deadline = self._call.deadline
        return None if deadline == math.inf else max(0.0, deadline - self._call.now())

    @property
    def writer(self) -> ServerWriter:
        """Takes the responses of a method that streams them."""
        if self._writer is None:
            self._writer = ServerWriter(self._call)
        return self._writer

    def peer(self) -> str:
        """The client's address, such as "ipv4:127.0.0.1:1234"."""
        return self._call.peer

    async def send_initial_metadata(self, metadata: Pairs) -> None:
        """Send metadata, once, ahead of the first response. Raises ValueError for invalid metadata."""
        self._call.send_initial_metadata(metadata)

    async def write(self, message: Any) -> None:
        """Send one of several responses, and wait while the client has no room for more."""
        self.writer.push(message)
        await self.writer.flow.room()

    async def finish(self) -> None:
        """Wait until all responses are sent."""
        if self._writer is not None:
            await self._writer.finish()

    def close(self) -> None:
        """Stop sending, because the call is over."""
        if self._writer is not None:
            self._writer.close()

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Pairs = ()
    ) -> NoReturn:
        """End the call with this status. It stays, even if the handler catches the exception."""
        if not self._is_aborted:
            self._is_aborted = True
            # An aborted call has not succeeded, whatever the code.
            self._code = code if code is not grpc.StatusCode.OK else grpc.StatusCode.UNKNOWN
            self._details = details
            self._trailers += tuple(trailing_metadata)
        raise Aborted

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """`abort` with a status that may have its own trailers (rich errors)."""
        await self.abort(status.code, status.details, status.trailing_metadata or ())

    def set_trailing_metadata(self, metadata: Pairs) -> None:
        self._trailers = tuple(metadata)

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self._trailers

    def set_code(self, code: grpc.StatusCode) -> None:
        """Set the code that the call has when the handler returns."""
        if not self._is_aborted:
            self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code

    def set_details(self, details: str) -> None:
        if not self._is_aborted:
            self._details = details

    def details(self) -> str:
        return self._details

    def done(self) -> bool:
        """Whether the client waits for no more responses."""
        return self._call.is_over

    cancelled = done

    def add_done_callback(self, callback: "Callable[[ServerContext], None]") -> None:
        """Called with this context when the handler is done."""
        self._callbacks.append(callback)

    def run_callbacks(self) -> None:
        for callback in self._callbacks:
            with contextlib.suppress(Exception):
                callback(self)
