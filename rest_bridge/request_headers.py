"""The headers of a request: its id, the RPC's metadata and timeout, the preferred wait, the type of the body.

Other headers are not passed on to the RPC. Does not read the body.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from inferd.rest_bridge.errors import HttpError
from inferd.rest_bridge.prefer_header import preferred_wait
from inferd.services.net.request_id import REQUEST_ID, request_id_of

#: Metadata keys by the HTTP headers that are passed on.
_FORWARDED = {
    b"authorization": "authorization",
    b"traceparent": "traceparent",
    b"tracestate": "tracestate",
    b"idempotency-key": "idempotency-key",
    b"user-agent": "x-forwarded-user-agent",
}

# Values that gRPC allows in metadata.
_PRINTABLE = re.compile(rb"[\x20-\x7e]*")
_KEY = re.compile(rb"[!-~](?:[ -~]{0,253}[!-~])?")

# TimeoutValue of gRPC over HTTP/2 has at most 8 digits.
_GRPC_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_SECONDS = re.compile(rb"[0-9]{1,9}(?:\.[0-9]{1,9})?")
#: Longest timeout in seconds, which no call reaches. The headers' greatest values would overflow clocks that
#: count nanoseconds.
_MAX_TIMEOUT = 30 * 24 * 3600.0

_JSON = re.compile(r"(?:application/json|text/plain|[^/]+/[^/]+\+json)", re.IGNORECASE)


# Not frozen: creating a frozen instance takes a microsecond longer.
@dataclass(slots=True)
class RequestHeaders:
    """The headers of one request.

    `fields` are all headers in order; `values` has the last value of each name. `metadata` is for the RPC,
    and includes the request's id.
    """

    request_id: str
    metadata: list[tuple[str, str | bytes]]
    values: dict[bytes, bytes]
    fields: Sequence[tuple[bytes, bytes]]

    @property
    def wait(self) -> int | None:
        """Seconds that the client prefers to wait (`Prefer: wait=N`); None if it has no preference."""
        return preferred_wait([value for name, value in self.fields if name == b"prefer"])

    @property
    def timeout(self) -> float | None:
        """Seconds that the call may take, by `grpc-timeout`, else by `x-request-timeout`, else None.

        Raises HttpError 400 for a malformed header.
        """
        coded = self.values.get(b"grpc-timeout")
        if coded is not None:
            found = _GRPC_TIMEOUT.fullmatch(coded)
            if found is None:
                raise _bad_header("grpc-timeout", "up to 8 digits and a unit, one of H M S m u n")
            return min(int(found[1]) * _UNITS[found[2]], _MAX_TIMEOUT)
        seconds = self.values.get(b"x-request-timeout")
        if seconds is not None:
            if _SECONDS.fullmatch(seconds) is None:
                raise _bad_header("x-request-timeout", "a number of seconds")
            return min(float(seconds), _MAX_TIMEOUT)
        return None

    def check_idempotency_key(self) -> None:
        """Raise HttpError 400 for an Idempotency-Key that the field request_id does not take.

        Such a key is not just dropped, because the request could then run twice.
        """
        if b"idempotency-key" not in self.values:
            return
        keys = {value for name, value in self.fields if name == b"idempotency-key"}
        if len(keys) > 1:
            raise _bad_header("idempotency-key", "one key")
        if not all(map(_KEY.fullmatch, keys)):
            raise _bad_header(
                "idempotency-key", "1 to 255 printable ASCII characters, without a space at either end"
            )

    def check_body(self) -> None:
        """Raise HttpError 415 if the body is not JSON in UTF-8, or is compressed. An empty body passes."""
        values = self.values
        if values.get(b"content-length") == b"0":
            return
        content_type = values.get(b"content-type", b"application/json")
        if content_type != b"application/json":
            _check_content_type(content_type.decode("latin-1"))
        coding = values.get(b"content-encoding", b"").decode("latin-1").strip()
        if coding.lower() not in ("", "identity"):
            raise _unsupported(f"content-encoding {coding!r}")


def read_headers(headers: Sequence[tuple[bytes, bytes]]) -> RequestHeaders:
    """Read the headers of an ASGI scope, whose names are in lower case.

    An x-request-id that is not printable ASCII of up to 128 characters is replaced by a random one.
    """
    values: dict[bytes, bytes] = {}
    metadata: list[tuple[str, str | bytes]] = []
    for name, value in headers:
        values[name] = value
        key = _FORWARDED.get(name)
        if key is not None and _PRINTABLE.fullmatch(value):
            metadata.append((key, value.decode("ascii")))
    request_id = request_id_of(values.get(b"x-request-id"))
    metadata.append((REQUEST_ID, request_id))
    return RequestHeaders(request_id, metadata, values, headers)


def _check_content_type(content_type: str) -> None:
    kind, _, parameters = content_type.partition(";")
    if kind.strip() and _JSON.fullmatch(kind.strip()) is None:
        raise _unsupported(f"content-type {kind.strip()!r}")
    for parameter in parameters.split(";"):
        name, _, value = parameter.strip().partition("=")
        charset = value.strip().strip('"')
        if name.strip().lower() == "charset" and charset.lower() not in ("utf-8", "utf8", "us-ascii"):
            raise _unsupported(f"charset {charset!r}")


def _bad_header(name: str, expected: str) -> HttpError:
    return HttpError(400, "malformed_header", f"{name}: expected {expected}")


def _unsupported(what: str) -> HttpError:
    return HttpError(
        415,
        "unsupported_media_type",
        f"{what} is not accepted: send application/json in UTF-8, not compressed",
        [(b"accept", b"application/json"), (b"accept-encoding", b"identity")],
    )
