"""One call that we make: its messages are read as they come, and it ends with a status."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import grpc
from h2.errors import ErrorCodes
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


#: Bytes of messages that were taken, after which as many more may come.
_ACKNOWLEDGE = 32 << 10


#: Messages that are read at once: what is made of them may become one message, or one event, of a client's.
_TOGETHER = 128

#: A number of C's, where this is compiled.
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


class Taker:
    """Is offered a call's messages as they come off the wire. To be subclassed."""

    __slots__ = ()

    def take(self, message: bytes) -> bool:
        """Take a message that came while `ClientCall.read` waits for one, in its place; False: it is to be
        read."""
        raise NotImplementedError


class ClientCall:
    """Made by `Channel.start`. To be cancelled in the end, unless `read` said that it ended."""

    __slots__ = (
        "_ended",
        "_error",
        "_headers",
        "_is_cut",
        "_loop",
        "_messages",
        "_size",
        "_splitter",
        "_stream",
        "_waiter",
        "taker",
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
        self.taker: Taker | None = None

    async def read(self) -> list[bytes]:
        """The next messages that have come, one at least; empty at the end of a call that succeeded. Raises
        CallFailed, or what `take` raised, once all messages were read."""
        while not self._messages:
            if self._ended:
                if self._error is not None:
                    raise self._error
                return []
            if self._size:
                # Of a message that is yet to come whole, which may be longer than the window.
                self._stream.acknowledge(self._size)
                self._size = 0
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        messages = self._messages[:_TOGETHER]
        del self._messages[:_TOGETHER]
        if not self._messages:
            if not self._ended:
                self._stream.acknowledge(self._size)
            self._size = 0
        return messages

    def cancel(self) -> None:
        """End the call, if it has not ended. A reader gets CANCELLED."""
        # Mostly it knows the call: they would wait for the garbage collector together.
        self.taker = None
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
            # One message, whole and uncompressed: most frames.
            message = data[_PREFIX:]
            taker = self.taker
            if taker is not None and self._waiter is not None and not self._messages:
                try:
                    if taker.take(message):
                        if self._size >= _ACKNOWLEDGE:
                            self._stream.acknowledge(self._size)
                            self._size = 0
                        return
                except Exception as error:
                    # It is the reader's: this is called by the connection that others share.
                    self._stream.reset()
                    self._ended, self._error = True, error
                    self._wake()
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

    def _trailers(self) -> Metadata:
        try:
            return decode_metadata(self._headers)
        except ValueError:
            return []

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
