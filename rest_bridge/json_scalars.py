"""JSON values to scalar proto values: each function takes one JSON value and gives the field's, or raises
Mismatch. As strict as OpenAI's API: no number in a string, no boolean for a number."""

import base64
from collections.abc import Callable
from typing import Any

import orjson
from google.protobuf.descriptor import FieldDescriptor
from inferd.options.v1 import options_pb2
from inferd.rest_bridge.json_faults import Mismatch, expected, shown, unknown_word

#: Turns a JSON value into what a message's constructor takes (a nested message is a dict), or raises
#: Mismatch.
Convert = Callable[[Any], Any]

#: Bits of the magnitude of each integer type, and whether it is signed.
BITS = {
    FieldDescriptor.CPPTYPE_INT32: (31, True),
    FieldDescriptor.CPPTYPE_INT64: (63, True),
    FieldDescriptor.CPPTYPE_UINT32: (32, False),
    FieldDescriptor.CPPTYPE_UINT64: (64, False),
}
# protobuf's stubs and its generated code disagree on the type of an extension.
_LIMITS: Any = options_pb2.limits
#: The least number that is infinity in 32 bits.
_FLOAT_INFINITY = 3.4028235677973366e38


def string(value: Any) -> str:
    if type(value) is str:
        return value
    raise expected("a string", value)


def boolean(value: Any) -> bool:
    if type(value) is bool:
        return value
    raise expected("a boolean", value)


def double(value: Any) -> float:
    if type(value) is float or type(value) is int:
        return float(value)
    raise expected("a number", value)


def single(value: Any) -> float:
    number = double(value)
    if abs(number) >= _FLOAT_INFINITY:
        raise Mismatch(f": expected a number of up to 32 bits, got {shown(value)}", "OUT_OF_RANGE")
    return number


def integer(low: int, high: int, told: tuple[int, int] | None = None) -> Convert:
    """Integers from `low` to `high`; an error tells of the bounds `told`, where they are narrower."""
    least, greatest = told or (low, high)

    def convert(value: Any) -> int:
        if type(value) is int:
            number = value
        elif type(value) is float:
            if not value.is_integer():
                raise Mismatch(f": expected an integer, got {value}")
            number = int(value)
        else:
            raise expected("an integer", value)
        # A float so great may stand for any of several integers: orjson reads those beyond 64 bits as one.
        exact = type(value) is int or abs(number) <= 2**53
        if exact and low <= number <= high:
            return number
        raise Mismatch(f": expected an integer from {least} to {greatest}, got {value}", "OUT_OF_RANGE")

    return convert


def word(words: dict[str, Any]) -> Convert:
    """One of a few strings."""
    offered = list(words)

    def convert(value: Any) -> Any:
        if type(value) is str and value in words:
            return words[value]
        raise unknown_word(offered, value)

    return convert


def raw_document(value: Any) -> str:
    """Any JSON document, kept as its text; an object's members keep their order."""
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # orjson writes 254 levels, and reads 1024
        raise Mismatch(" is nested too deeply") from None


def base64_bytes(value: Any) -> bytes:
    """Standard or URL-safe base64, with or without padding, as proto3 JSON takes it."""
    text = string(value).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise Mismatch(": expected base64") from None


def refuse(wanted: str) -> Convert:
    """No value at all, where only a shorthand can be meant."""

    def convert(value: Any) -> Any:
        raise expected(wanted, value)

    return convert


def bounds(field: FieldDescriptor) -> tuple[int, int]:
    """Least and greatest value of an integer field's type."""
    bits, signed = BITS[field.cpp_type]
    return -(2**bits) if signed else 0, 2**bits - 1


def declared_bounds(field: FieldDescriptor) -> tuple[int, int]:
    """Those that the field's limits leave: what a client is told. The services check them."""
    low, high = bounds(field)
    limits = field.GetOptions().Extensions[_LIMITS]
    return (
        int(limits.min) if limits.HasField("min") else low,
        int(limits.max) if limits.HasField("max") else high,
    )
