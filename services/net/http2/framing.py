"""gRPC's messages within an HTTP/2 stream, and the values of gRPC's headers.

Knows nothing of HTTP/2's frames. The protocol is
https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md.
"""

import base64
import binascii
import re
from collections.abc import Iterable
from urllib.parse import quote, unquote

Metadata = list[tuple[str, str | bytes]]

#: Bytes before each message: a flag that says whether it is compressed (1), and its length (4).
PREFIX = 5

#: Seconds in each unit of `grpc-timeout`.
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")


class FramingError(ValueError):
    """The bytes of a stream are no gRPC messages."""


class MessageTooLarge(FramingError):
    """A message has more bytes than `limit`. `size` is its number of bytes; None if that is not known."""

    def __init__(self, size: int | None, limit: int) -> None:
        has = "has" if size is None else f"has {size} bytes, which is"
        super().__init__(f"a message {has} more than the limit of {limit} bytes")
        self.size = size
        self.limit = limit


def frame(message: bytes, *, compressed: bool = False) -> bytes:
    """A message with its prefix."""
    return (b"\1" if compressed else b"\0") + len(message).to_bytes(4, "big") + message


class MessageSplitter:
    """Splits the bytes of a stream into messages of at most `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        #: Bytes that the buffer must have before a prefix or a message is complete.
        self._needed = PREFIX

    @property
    def is_empty(self) -> bool:
        """Whether no part of a message is held."""
        return not self._buffer

    def feed(self, data: bytes) -> list[tuple[bool, bytes]]:
        """The messages that `data` completes, each with whether it is compressed. Raises FramingError."""
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._needed:
                return []
            data = bytes(self._buffer)
        messages = []
        start, end = 0, len(data)
        self._needed = PREFIX
        while end - start >= PREFIX:
            if data[start] > 1:
                raise FramingError("the stream holds no gRPC messages")
            begin = start + PREFIX
            length = int.from_bytes(data[start + 1 : begin], "big")
            if length > self._limit:
                raise MessageTooLarge(length, self._limit)
            if begin + length > end:
                self._needed = PREFIX + length
                break
            messages.append((data[start] == 1, data[begin : begin + length]))
            start = begin + length
        self._buffer = bytearray(data[start:])
        return messages


def encode_timeout(seconds: float) -> str:
    """The value of `grpc-timeout`: milliseconds, or seconds if those have more than eight digits."""
    milliseconds = max(1, round(seconds * 1000))
    return f"{milliseconds}m" if milliseconds < 10**8 else f"{min(round(seconds), 10**8 - 1)}S"


def decode_timeout(value: str) -> float:
    """The seconds of a `grpc-timeout`. Raises ValueError."""
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        raise ValueError(f"grpc-timeout is no timeout: {value!r}")
    return int(match[1]) * _UNITS[match[2]]


def encode_message(text: str) -> str:
    """The value of `grpc-message`: percent-encoded UTF-8."""
    return quote(text, safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~")


def decode_message(value: str) -> str:
    """The text of a `grpc-message`. An invalid percent-encoding is left as it is."""
    return unquote(value)


def encode_metadata(metadata: Iterable[tuple[str, str | bytes]]) -> list[tuple[bytes, bytes]]:
    """Metadata as headers: keys in lower case, and values in base64 if the key ends with -bin."""
    headers = []
    for key, value in metadata:
        name = key.lower().encode("ascii")
        if name.endswith(b"-bin"):
            raw = value if isinstance(value, bytes) else value.encode()
            headers.append((name, base64.b64encode(raw).rstrip(b"=")))
        else:
            headers.append((name, value if isinstance(value, bytes) else value.encode("ascii")))
    return headers


def decode_metadata(headers: Iterable[tuple[bytes, bytes]]) -> Metadata:
    """Headers as metadata, without pseudo-headers such as ":path". Raises ValueError for bad base64."""
    metadata: Metadata = []
    for name, value in headers:
        if name.startswith(b":"):
            continue
        key = name.decode("latin-1")
        if not name.endswith(b"-bin"):
            metadata.append((key, value.decode("latin-1")))
            continue
        # A peer may join the values of one key by commas.
        for part in value.split(b","):
            part = part.strip()
            try:
                metadata.append((key, base64.b64decode(part + b"=" * (-len(part) % 4), validate=True)))
            except binascii.Error as error:
                raise ValueError(f"{key} is not base64") from error
    return metadata
