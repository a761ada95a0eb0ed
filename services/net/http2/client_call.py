"""One call that we make: its responses are pushed to a receiver as they come, and it ends with a status."""

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
    Metadata,
    decode_message,
    decode_metadata,
)

Headers = Sequence[tuple[bytes, bytes]]

_CODES = {code.value[0]: code for code in grpc.StatusCode}

#: What an answer means that is not gRPC's (doc/http-grpc-status-mapping.md); others are UNKNOWN.
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

#: What a stream's reset means (PROTOCOL-HTTP2.md, "Errors"); others are INTERNAL.
_RESET_CODES: dict[int, grpc.StatusCode] = {
    ErrorCodes.REFUSED_STREAM: grpc.StatusCode.UNAVAILABLE,
    ErrorCodes.CANCEL: grpc.StatusCode.CANCELLED,
    ErrorCodes.ENHANCE_YOUR_CALM: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorCodes.INADEQUATE_SECURITY: grpc.StatusCode.PERMISSION_DENIED,
}


#: Bytes of messages that are received before the stream's window is opened again for as many.
_ACKNOWLEDGE = 32 << 10

#: Messages that are received together at most. What they hold may become one message of a client's.
_TOGETHER = 128

#: `PREFIX` as a number of C's, if this module is compiled.
_PREFIX = PREFIX


class CallFailed(Exception):
    """A call ended other than OK."""

    def __init__(self, code: grpc.StatusCode, details: str, trailers: Metadata | None = None) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code = code
        self.details = details
        self.trailers = trailers or []


class Stream(Protocol):
    """The call's stream in its connection."""

    def acknowledge(self, size: int) -> None:
        """That many bytes of its messages were read: as many more may come."""
        ...

    def reset(self) -> None:
        """End it; the other side learns that nobody reads on."""
        ...


class MessageReceiver:
    """Takes the messages of one call. To be subclassed."""

    __slots__ = ()

    def receive(self, message: bytes) -> bool:
        """Take a message as it comes off the wire. False: no more are wanted."""
        raise NotImplementedError

    def receive_all(self, messages: Sequence[bytes]) -> bool:
        """Take messages that have waited, as `receive` does."""
        raise NotImplementedError


class ClientCall:
    """Made by `Channel.start`. Its user calls `deliver` or `read`, and `cancel` in the end."""

    __slots__ = (
        "_ended",
        "_error",
        "_flow",
        "_headers",
        "_is_cut",
        "_is_satisfied",
        "_loop",
        "_messages",
        "_receiver",
        "_size",
        "_splitter",
        "_stream",
        "_waiter",
    )

    def __init__(self, stream: Stream, max_message_bytes: int) -> None:
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._messages: list[bytes] = []
        self._size = 0
        self._splitter = MessageSplitter(max_message_bytes)
        #: Whether the splitter has a part of a message.
        self._is_cut = False
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

        While `flow` is paused nothing is pushed, and the stream's window is not opened again. Raises
        CallFailed, or the receiver's own exception.
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
                # `data` pushes meanwhile.
                await self._wait()

    async def read(self) -> list[bytes]:
        """The next messages that have come, at least one; empty at the end of a call that succeeded.

        Raises CallFailed once all messages were read.
        """
        while not self._messages:
            if self._ended:
                self._raise_error()
                return []
            await self._wait()
        return self._take()

    def cancel(self) -> None:
        """End the call, if it has not ended. A reader gets CANCELLED."""
        # A receiver mostly knows the call: the two would wait for the garbage collector together.
        self._receiver = self._flow = None
        if not self._ended:
            self._stream.reset()
            self.fail(grpc.StatusCode.CANCELLED, "the call was cancelled")

    # What its connection tells.

    def data(self, data: bytes) -> None:
        """Bytes of its messages."""
        size = len(data)
        self._size += size
        is_whole = False
        if size >= _PREFIX and not (self._is_cut or data[0]):
            is_whole = (data[1] << 24 | data[2] << 16 | data[3] << 8 | data[4]) == size - _PREFIX
        if is_whole:
            # Most frames: one message, whole and not compressed.
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
                self._is_cut = not self._splitter.is_empty
                for compressed, message in messages:
                    if compressed:
                        raise FramingError("a message is compressed, which was not offered")
                    self._messages.append(message)
            except FramingError as error:
                self._stream.reset()
                http = dict(self._headers).get(b":status", b"200")
                if http != b"200":
                    # A page about an error.
                    self.end()
                too_large = grpc.StatusCode.RESOURCE_EXHAUSTED
                self.fail(too_large if error.too_large else grpc.StatusCode.INTERNAL, str(error))
        self._wake()

    def headers(self, headers: Headers) -> None:
        """The response's headers, or its trailers: the last ones tell the status."""
        self._headers = headers if not self._headers else [*self._headers[:1], *headers]

    def end(self) -> None:
        """Its end, as the other side made it."""
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
        if self._is_cut:
            self.fail(grpc.StatusCode.INTERNAL, "the last message is incomplete")
            return
        self._ended = True
        self._wake()

    def reset(self, error_code: int) -> None:
        """Its end by RST_STREAM."""
        # A server may say so of what it does not read on, after a complete answer.
        if error_code == ErrorCodes.NO_ERROR and b"grpc-status" in dict(self._headers):
            self.end()
            return
        code = _RESET_CODES.get(error_code, grpc.StatusCode.INTERNAL)
        self.fail(code, f"the stream was reset with HTTP/2 error {error_code}")

    def fail(self, code: grpc.StatusCode, details: str, trailers: Metadata | None = None) -> None:
        """Its end, other than OK."""
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
            # It is for `deliver` to raise: this is called by the connection, which others share.
            self._stream.reset()
            self._ended, self._error = True, error
        else:
            self._is_satisfied = True
        self._wake()

    def _take(self) -> list[bytes]:
        """The messages that wait, a bounded number of them."""
        messages = self._messages[:_TOGETHER]
        del self._messages[:_TOGETHER]
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
            # A part of a message: the rest may be longer than the window.
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
