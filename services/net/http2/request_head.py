"""Reads a request's headers: method, timeout, encoding of messages, metadata. Knows no methods."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from inferd.services.errors import ServiceError
from inferd.services.net.http2.call_errors import malformed_header, unsupported_encoding
from inferd.services.net.http2.compression import ENCODINGS
from inferd.services.net.http2.framing import Metadata, decode_metadata, decode_timeout
from inferd.services.net.request_id import REQUEST_ID, request_id_of

_REQUEST_ID = REQUEST_ID.encode()

#: Headers that are no metadata, or that are replaced in it.
_OTHER_HEADERS = frozenset(
    (
        b"te",
        b"content-type",
        b"content-length",
        b"host",
        b"grpc-timeout",
        b"grpc-encoding",
        b"grpc-accept-encoding",
        b"grpc-message-type",
        _REQUEST_ID,
    )
)

#: Seconds. A longer timeout counts as none.
_MAX_TIMEOUT = 10_000_000.0


class NotGrpc(Exception):
    """The request is no gRPC call. `http_status` is the status of its response."""

    def __init__(self, http_status: int) -> None:
        super().__init__(f"HTTP status {http_status}")
        self.http_status = http_status


class BadRequest(Exception):
    """The call fails with this error, because of its headers. `trailers` goes with the status."""

    def __init__(self, error: ServiceError, trailers: Metadata | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.trailers = trailers or []


@dataclass(frozen=True, slots=True)
class RequestHead:
    """`timeout` is in seconds; infinite if there is none. `encoding` is that of compressed messages.

    `metadata` includes the call's id.
    """

    path: str
    timeout: float
    encoding: bytes
    metadata: Metadata
    request_id: str


def read_request_id(headers: Sequence[tuple[bytes, bytes]]) -> str:
    """The id of a call: the last one in its headers, or a random one."""
    return request_id_of(dict(headers).get(_REQUEST_ID))


def parse_head(headers: Sequence[tuple[bytes, bytes]]) -> RequestHead:
    """Parse the headers of a call. Raises NotGrpc and BadRequest."""
    fields = dict(headers)
    if fields.get(b":method") != b"POST":
        raise NotGrpc(405)
    content_type = fields.get(b"content-type", b"").lower()
    if not content_type.startswith(b"application/grpc") or content_type[16:17] not in (b"", b"+", b";"):
        raise NotGrpc(415)
    encoding = fields.get(b"grpc-encoding", b"identity")
    if encoding not in ENCODINGS:
        raise BadRequest(
            unsupported_encoding(encoding.decode("latin-1")),
            [("grpc-accept-encoding", b",".join(ENCODINGS).decode())],
        )
    timeout = math.inf
    try:
        if b"grpc-timeout" in fields:
            timeout = decode_timeout(fields[b"grpc-timeout"].decode("latin-1"))
        metadata = decode_metadata([header for header in headers if header[0] not in _OTHER_HEADERS])
    except ValueError as error:
        raise BadRequest(malformed_header(str(error))) from error
    request_id = request_id_of(fields.get(_REQUEST_ID))
    metadata.append((REQUEST_ID, request_id))
    return RequestHead(
        path=fields.get(b":path", b"").decode("latin-1"),
        timeout=timeout if timeout <= _MAX_TIMEOUT else math.inf,
        encoding=encoding,
        metadata=metadata,
        request_id=request_id,
    )
