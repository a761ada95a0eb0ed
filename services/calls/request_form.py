"""Refuses requests that are no message of their method's type. Checks no fields."""

from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError

from inferd.services.calls.call import Call
from inferd.services.net.http2.call_errors import malformed_message


class _Malformed:
    """Stands for a request that could not be parsed."""


def tolerant_deserializer(deserializer: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """A deserializer that never raises, because gRPC's server would answer INTERNAL then.

    For a request that cannot be parsed, it returns an object that `RequestForm` refuses.
    """
    if deserializer is None:
        return None

    def parse(data: bytes) -> Any:
        try:
            return deserializer(data)
        except (DecodeError, ValueError):
            return _Malformed()

    return parse


def refusing_deserializer(deserializer: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """A deserializer for streamed requests. It raises ServiceError for a request that cannot be parsed."""
    if deserializer is None:
        return None

    def parse(data: bytes) -> Any:
        try:
            return deserializer(data)
        except (DecodeError, ValueError):
            raise malformed_message() from None

    return parse


class RequestForm:
    """Refuses a request that `tolerant_deserializer` could not parse, with INVALID_ARGUMENT."""

    def enter(self, call: Call) -> None:
        if isinstance(call.request, _Malformed):
            raise malformed_message()

    def leave(self, call: Call) -> None:
        pass
