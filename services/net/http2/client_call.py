"""One call that is made: pushes the responses to a receiver as they arrive, and reads the status at the end.

Knows nothing of frames and connections.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import grpc
from h2.errors import ErrorCodes

from inferd.services.net.flow import Flow
from inferd.services.net.http2.framing import (
    PREFIX,
    FramingError,
    MessageSplitter,
    MessageTooLarge,
    Metadata,
    decode_message,
    decode_metadata,
)

Headers = Sequence[tuple[bytes, bytes]]

_CODES = {code.value[0]: code for code in grpc.StatusCode}

#: gRPC's codes for the HTTP status of a response without a gRPC status. All other statuses are UNKNOWN.
#: The source is gRPC's doc/http-grpc-status-mapping.md.
_HTTP_CODES = {
    400: grpc.StatusCode.INTERNAL,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.UNIMPLEMENTED,
    429: grpc.StatusCode.UNAVAILABLE,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.UNAVAILABLE,
}

#: gRPC's codes for the error code of RST_STREAM (PROTOCOL-HTTP2.md, "Errors"). All others are INTERNAL.
_RESET_CODES: dict[int, grpc.StatusCode] = {
    ErrorCodes.REFUSED_STREAM: grpc.StatusCode.UNAVAILABLE,
    ErrorCodes.CANCEL: grpc.StatusCode.CANCELLED,
    ErrorCodes.ENHANCE_YOUR_CALM: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorCodes.INADEQUATE_SECURITY: grpc.StatusCode.PERMISSION_DENIED,
}


#: Bytes that are received before they are acknowledged, so that the server may send as many more.
_ACKNOWLEDGE = 32 << 10

#: Messages that are handed to the receiver together at most, because they may become one message to a client.
_MAX_BATCH = 128

#: `PREFIX` as an integer of C, if this module is compiled.
_PREFIX = PREFIX


class CallFailed(Exception):
    """A call ended with a status other than OK. `trailers` is its trailing metadata."""

    def __init__(self, code: grpc.StatusCode, details: str, trailers: Metadata | None = None) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code = code
        self.details = details
        self.trailers = trailers or []


class CallStream(Protocol):
    """The HTTP/2 stream of a call."""

    def acknowledge(self, size: int) -> None:
        """Tell the server that `size` bytes were read, so that it may send as many more (RFC 9113, 5.2)."""
        ...

    def reset(self) -> None:
        """End the stream by RST_STREAM (RFC 9113, 6.4)."""
        ...


class MessageReceiver:
    """Takes the messages of one call. To be subclassed."""

    __slots__ = ()

    def receive(self, message: bytes) -> bool:
        """Take a message as soon as it has arrived. Returns False if no more are wanted."""
        raise NotImplementedError

    def receive_all(self, messages: Sequence[bytes]) -> bool:
        """Take messages that arrived while the flow was paused, or together. Returns as `receive` does."""
        raise NotImplementedError


class ClientCall:
    """Made by `Channel.start`. Its user calls `deliver` or `read`, and `cancel` at the end in any case."""

    __slots__ = (
        "_ended",
        "_error",
        "_flow",
        "_has_partial_message",
        "_headers",
        "_is_satisfied",
        "_loop",
        "_messages",
        "_receiver",
        "_size",
        "_splitter",
        "_stream",
        "_waiter",
    )

    def __init__(self, stream: CallStream, max_message_bytes: int) -> None:
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        #: Messages that nobody has taken yet.
        self._messages: list[bytes] = []
        #: Bytes that were received and not acknowledged.
        self._size = 0
        self._splitter = MessageSplitter(max_message_bytes)
        #: Whether the splitter holds the beginning of a message.
        self._has_partial_message = False
        self._waiter: asyncio.Future[None] | None = None
        self._headers: Headers = ()
        self._ended = False
        self._error: Exception | None = None
        self._receiver: MessageReceiver | None = None
        self._flow: Flow | None = None
        #: Whether the receiver wants no more.
        self._is_satisfied = False

    async def deliver(self, receiver: MessageReceiver, flow: Flow) -> None:
        """Push all messages to `receiver` until the call has ended or the receiver wants no more.

        While `flow` is paused, nothing is pushed and nothing is acknowledged, so that the server has to stop.
        Raises CallFailed, or the receiver's own exception.
        """
        self._receiver, self._flow = receiver, flow
        while not self._is_satisfied:
            if flow.is_paused:
                await flow.room()
            elif self._messages:
                if not receiver.receive_all(self._take()):
                    return
            elif self._ended:
                self._raise_error()
                return
            else:
                # Meanwhile, `receive_data` pushes messages.
                await self._wait()

    async def read(self) -> list[bytes]:
        """Wait for the next messages. Returns at least one, or none at the end of a successful call.

        Raises CallFailed at the end of a failed call, after all messages.
        """
        while not self._messages:
            if self._ended:
                self._raise_error()
                return []
            await self._wait()
        return self._take()

    def cancel(self) -> None:
        """End the call if it has not ended. `read` and `deliver` then raise CANCELLED."""
        # A receiver may refer to the call. The cycle would live until the garbage collector runs.
        self._receiver = self._flow = None
        if not self._ended:
            self._stream.reset()
            self.fail(grpc.StatusCode.CANCELLED, "the call was cancelled")

    # Called by the connection.

    def receive_data(self, data: bytes) -> None:
        """Take the payload of a DATA frame."""
        size = len(data)
        self._size += size
        is_whole = False
        if size >= _PREFIX and not (self._has_partial_message or data[0]):
            is_whole = (data[1] << 24 | data[2] << 16 | data[3] << 8 | data[4]) == size - _PREFIX
        if is_whole:
            # The usual case: the frame has one message, whole and not compressed.
            message = data[_PREFIX:]
            receiver = self._receiver
            if (
                receiver is not None
                and self._waiter is not None
                and not self._messages
                and not self._is_satisfied
                and not self._is_paused()
            ):
                self._push(receiver, message)
                return
            self._messages.append(message)
        else:
            try:
                messages = self._splitter.feed(data)
                self._has_partial_message = not self._splitter.is_empty
                for compressed, message in messages:
                    if compressed:
                        raise FramingError("a message is compressed, which was not offered")
                    self._messages.append(message)
            except FramingError as error:
                self._stream.reset()
                http = dict(self._headers).get(b":status", b"200")
                if http != b"200":
                    # The body is not from a gRPC server: it may be a page about the HTTP error.
                    self.receive_end()
                too_large = isinstance(error, MessageTooLarge)
                code = grpc.StatusCode.RESOURCE_EXHAUSTED if too_large else grpc.StatusCode.INTERNAL
                self.fail(code, str(error))
        self._wake()

    def receive_headers(self, headers: Headers) -> None:
        """Take the response's headers, or its trailers, which have the status."""
        self._headers = headers if not self._headers else [*self._headers[:1], *headers]

    def receive_end(self) -> None:
        """The server has ended the stream (END_STREAM)."""
        if self._ended:
            return
        fields = dict(self._headers)
        status = fields.get(b"grpc-status")
        if status is None:
            given = fields.get(b":status", b"")
            http = int(given) if given.isdigit() else 0
            self.fail(_HTTP_CODES.get(http, grpc.StatusCode.UNKNOWN), f"no gRPC status; HTTP status {http}")
            return
        code = _CODES.get(int(status) if status.isdigit() else 2, grpc.StatusCode.UNKNOWN)
        if code is not grpc.StatusCode.OK:
            details = decode_message(fields.get(b"grpc-message", b"").decode("latin-1"))
            self.fail(code, details, self._trailers())
            return
        if self._has_partial_message:
            self.fail(grpc.StatusCode.INTERNAL, "the last message is incomplete")
            return
        self._ended = True
        self._wake()

    def receive_reset(self, error_code: int) -> None:
        """The server has reset the stream (RST_STREAM)."""
        # After a complete response, NO_ERROR says that the server reads no more of the request (RFC 9113,
        # 8.1).
        if error_code == ErrorCodes.NO_ERROR and b"grpc-status" in dict(self._headers):
            self.receive_end()
            return
        code = _RESET_CODES.get(error_code, grpc.StatusCode.INTERNAL)
        self.fail(code, f"the stream was reset with HTTP/2 error {error_code}")

    def fail(self, code: grpc.StatusCode, details: str, trailers: Metadata | None = None) -> None:
        """End the call with a status other than OK, if it has not ended."""
        if not self._ended:
            self._ended = True
            self._error = CallFailed(code, details, trailers)
            self._wake()

    def _is_paused(self) -> bool:
        return self._flow is not None and self._flow.is_paused

    def _push(self, receiver: MessageReceiver, message: bytes) -> None:
        try:
            if receiver.receive(message):
                if self._size >= _ACKNOWLEDGE:
                    self._stream.acknowledge(self._size)
                    self._size = 0
                return
        except Exception as error:
            # `deliver` raises it. The connection must not, because other calls share it.
            self._stream.reset()
            self._ended, self._error = True, error
        else:
            self._is_satisfied = True
        self._wake()

    def _take(self) -> list[bytes]:
        """Remove up to `_MAX_BATCH` messages from those that wait."""
        messages = self._messages[:_MAX_BATCH]
        del self._messages[:_MAX_BATCH]
        if not self._messages:
            if not self._ended:
                self._stream.acknowledge(self._size)
            self._size = 0
        return messages

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    async def _wait(self) -> None:
        """Wait for messages, for the end, or for a receiver that wants no more."""
        if self._size:
            # The beginning of a message. Its rest may be longer than what is left of the window.
            self._stream.acknowledge(self._size)
            self._size = 0
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _trailers(self) -> Metadata:
        try:
            return decode_metadata(self._headers)
        except ValueError:
            return []

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
