"""Reads the well-known message types that are strings in JSON: Timestamp, Duration and FieldMask.

A request may also give a Timestamp as a number of Unix seconds, and a Duration as a number of seconds.
Responses are not made here: the messages' own ToJsonString writes them.
"""

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from inferd.rest_bridge.json_errors import Mismatch, expected, quoted
from inferd.rest_bridge.json_scalars import Convert

#: Descriptions of the accepted values, for error messages.
_EXPECTED = {
    "google.protobuf.Timestamp": 'a time such as "2026-11-23T18:00:00Z", or Unix seconds',
    "google.protobuf.Duration": 'a duration such as "3600s", or seconds',
    "google.protobuf.FieldMask": "a FieldMask, as proto3 JSON spells it",
}
#: The least and the greatest number of seconds, by google/protobuf/timestamp.proto (years 1 to 9999) and
#: duration.proto (10000 years). FieldMask is not a number.
_SECONDS = {
    "google.protobuf.Timestamp": (-62_135_596_800, 253_402_300_799),
    "google.protobuf.Duration": (-315_576_000_000, 315_576_000_000),
}
_NANOS = 1_000_000_000

# A JSON number, with a bounded number of digits.
_NUMBER = re.compile(r"-?[0-9]{1,20}(?:\.[0-9]{1,20})?(?:[eE][+-]?[0-9]{1,2})?", re.ASCII)


class _OutOfRange(ValueError):
    """A number of seconds that the message cannot hold."""


def json_reader(message: Descriptor) -> Convert:
    """The conversion of a JSON value to a message of one of these types; raises Mismatch."""
    wanted, parse = _EXPECTED[message.full_name], _parser(message)
    of_seconds = _seconds_converter(message)

    def convert(value: Any) -> Message:
        try:
            if type(value) is str:
                return parse(value)
            if of_seconds is not None and type(value) in (int, float):
                # Decimal keeps the digits as written. The nearest binary fraction may be hundreds of
                # nanoseconds off.
                return of_seconds(Decimal(repr(value)))
        except ValueError as error:
            reason = "OUT_OF_RANGE" if isinstance(error, _OutOfRange) else "INVALID_ARGUMENT"
            raise Mismatch(f": {error}, got {quoted(value)}", reason) from None
        raise expected(wanted, value)

    return convert


def text_reader(message: Descriptor) -> Callable[[str], Message]:
    """The conversion of a text, such as a query parameter's, to a message of one of these types.

    The text is a string of proto3 JSON, or a number. The conversion raises ValueError with the expected form.
    """
    parse, of_seconds = _parser(message), _seconds_converter(message)
    if of_seconds is None:
        return parse
    return lambda text: of_seconds(Decimal(text)) if _NUMBER.fullmatch(text) else parse(text)


def _parser(message: Descriptor) -> Callable[[str], Message]:
    """The conversion of a string of proto3 JSON."""
    new, wanted = GetMessageClass(message), _EXPECTED[message.full_name]

    def parse(text: str) -> Message:
        made: Any = new()
        try:
            made.FromJsonString(text)
        except (ValueError, OverflowError):
            raise ValueError(f"expected {wanted}") from None
        return made

    return parse


def _seconds_converter(message: Descriptor) -> Callable[[Decimal], Message] | None:
    """The conversion of a number of seconds; None if the type has no such form."""
    if message.full_name not in _SECONDS:
        return None
    new = GetMessageClass(message)
    low, high = _SECONDS[message.full_name]

    def convert(seconds: Decimal) -> Message:
        nanos = int((seconds * _NANOS).to_integral_value())
        if not low * _NANOS <= nanos <= high * _NANOS:
            raise _OutOfRange(f"expected {low} to {high} seconds")
        made: Any = new()
        made.FromNanoseconds(nanos)
        return made

    return convert
