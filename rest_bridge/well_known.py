"""Well-known messages that are a string in JSON: Timestamp, Duration and FieldMask, of JSON and of text.

A request may also give a Timestamp in Unix seconds, and a Duration in seconds: as a number.
"""

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from inferd.rest_bridge.json_faults import Mismatch, expected, shown
from inferd.rest_bridge.json_scalars import Convert

_FORMS = {
    "google.protobuf.Timestamp": 'a time such as "2026-11-23T18:00:00Z", or Unix seconds',
    "google.protobuf.Duration": 'a duration such as "3600s", or seconds',
    "google.protobuf.FieldMask": "a FieldMask, as proto3 JSON spells it",
}
#: Least and greatest seconds of those that may be a number: of google/protobuf/timestamp.proto (years 1 to
#: 9999) and duration.proto (10000 years).
_SECONDS = {
    "google.protobuf.Timestamp": (-62_135_596_800, 253_402_300_799),
    "google.protobuf.Duration": (-315_576_000_000, 315_576_000_000),
}
_NANOS = 1_000_000_000

# JSON's number, with no more digits than can matter.
_NUMBER = re.compile(r"-?[0-9]{1,20}(?:\.[0-9]{1,20})?(?:[eE][+-]?[0-9]{1,2})?", re.ASCII)


class _OutOfRange(ValueError):
    """A number of seconds that the message cannot hold."""


def json_reader(message: Descriptor) -> Convert:
    """The conversion of a JSON value to a message of one of these types."""
    wanted, parse, count = _FORMS[message.full_name], _parser(message), _counter(message)

    def convert(value: Any) -> Message:
        try:
            if type(value) is str:
                return parse(value)
            if count is not None and type(value) in (int, float):
                # As it was written: the nearest binary fraction may be hundreds of nanoseconds off.
                return count(Decimal(repr(value)))
        except ValueError as error:
            reason = "OUT_OF_RANGE" if isinstance(error, _OutOfRange) else "INVALID_ARGUMENT"
            raise Mismatch(f": {error}, got {shown(value)}", reason) from None
        raise expected(wanted, value)

    return convert


def text_reader(message: Descriptor) -> Callable[[str], Message]:
    """The conversion of a text, as of a query: of proto3 JSON, or a number. Raises ValueError, which says
    what was expected."""
    parse, count = _parser(message), _counter(message)
    if count is None:
        return parse
    return lambda text: count(Decimal(text)) if _NUMBER.fullmatch(text) else parse(text)


def _parser(message: Descriptor) -> Callable[[str], Message]:
    new, wanted = GetMessageClass(message), _FORMS[message.full_name]

    def parse(text: str) -> Message:
        made: Any = new()
        try:
            made.FromJsonString(text)
        except (ValueError, OverflowError):
            raise ValueError(f"expected {wanted}") from None
        return made

    return parse


def _counter(message: Descriptor) -> Callable[[Decimal], Message] | None:
    if message.full_name not in _SECONDS:
        return None
    new = GetMessageClass(message)
    low, high = _SECONDS[message.full_name]

    def count(seconds: Decimal) -> Message:
        nanos = int((seconds * _NANOS).to_integral_value())
        if not low * _NANOS <= nanos <= high * _NANOS:
            raise _OutOfRange(f"expected {low} to {high} seconds")
        made: Any = new()
        made.FromNanoseconds(nanos)
        return made

    return count
