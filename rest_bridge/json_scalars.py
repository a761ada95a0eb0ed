"""Conversions of JSON values to scalar values of proto fields. Each takes one JSON value, or raises Mismatch.

As strict as OpenAI's API: a string is not taken for a number, nor a boolean. Messages are `decode`'s.
"""

import base64
from collections.abc import Callable
from typing import Any

import orjson
from google.protobuf.descriptor import FieldDescriptor

from inferd.options.v1 import options_pb2
from inferd.rest_bridge.json_errors import Mismatch, expected, not_one_of, quoted

#: Converts a JSON value to a value that a message's constructor takes (a dict for a nested message), or
#: raises Mismatch.
Convert = Callable[[Any], Any]

#: For each integer type, the bits of its magnitude, and whether it is signed.
BITS = {
    FieldDescriptor.CPPTYPE_INT32: (31, True),
    FieldDescriptor.CPPTYPE_INT64: (63, True),
    FieldDescriptor.CPPTYPE_UINT32: (32, False),
    FieldDescriptor.CPPTYPE_UINT64: (64, False),
}
# protobuf's stubs and its generated code disagree on the type of an extension.
_LIMITS: Any = options_pb2.limits
#: The least number that rounds to infinity in 32 bits.
_FLOAT_INFINITY = 3.4028235677973366e38


def string(value: Any) -> str:
    """A string."""
    if type(value) is str:
        return value
    raise expected("a string", value)


def boolean(value: Any) -> bool:
    """true or false."""
    if type(value) is bool:
        return value
    raise expected("a boolean", value)


def float64(value: Any) -> float:
    """A number, for a field of type double."""
    if type(value) is float or type(value) is int:
        return float(value)
    raise expected("a number", value)


def float32(value: Any) -> float:
    """A number, for a field of type float."""
    number = float64(value)
    if abs(number) >= _FLOAT_INFINITY:
        raise Mismatch(f": expected a number of up to 32 bits, got {quoted(value)}", "OUT_OF_RANGE")
    return number


def integer(low: int, high: int, shown_bounds: tuple[int, int] | None = None) -> Convert:
    """The conversion of integers from `low` to `high`, which may be written with a decimal point (`5.0`).

    The error message names `shown_bounds`, which may be narrower.
    """
    least, greatest = shown_bounds or (low, high)

    def convert(value: Any) -> int:
        if type(value) is int:
            number = value
        elif type(value) is float:
            if not value.is_integer():
                raise Mismatch(f": expected an integer, got {value}")
            number = int(value)
        else:
            raise expected("an integer", value)
        # Above 2**53 a float may stand for several integers. orjson reads integers of more than 64 bits as
        # floats.
        exact = type(value) is int or abs(number) <= 2**53
        if exact and low <= number <= high:
            return number
        raise Mismatch(f": expected an integer from {least} to {greatest}, got {value}", "OUT_OF_RANGE")

    return convert


def one_of(words: dict[str, Any]) -> Convert:
    """The conversion of a few strings, each to its value in `words`."""
    offered = list(words)

    def convert(value: Any) -> Any:
        if type(value) is str and value in words:
            return words[value]
        raise not_one_of(offered, value)

    return convert


def raw_document(value: Any) -> str:
    """The text of any JSON document; members of objects keep their order."""
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # orjson reads 1024 levels, but writes only 254
        raise Mismatch(" is nested too deeply") from None


def base64_bytes(value: Any) -> bytes:
    """Standard or URL-safe base64, with or without padding, as in proto3 JSON."""
    text = string(value).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise Mismatch(": expected base64") from None


def refuse(wanted: str) -> Convert:
    """The conversion that accepts no value: the error says that `wanted` was expected."""

    def convert(value: Any) -> Any:
        raise expected(wanted, value)

    return convert


def bounds(field: FieldDescriptor) -> tuple[int, int]:
    """The least and the greatest value of an integer field's type."""
    bits, signed = BITS[field.cpp_type]
    return -(2**bits) if signed else 0, 2**bits - 1


def declared_bounds(field: FieldDescriptor) -> tuple[int, int]:
    """The least and the greatest value of an integer field by its limits, which error messages name.

    Does not check them: the services do.
    """
    low, high = bounds(field)
    limits = field.GetOptions().Extensions[_LIMITS]
    return (
        int(limits.min) if limits.HasField("min") else low,
        int(limits.max) if limits.HasField("max") else high,
    )
