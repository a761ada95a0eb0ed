"""The limits of request fields, as the protos declare them: required fields, limits, oneofs and enums.

The limits of a message type are compiled once into closures, so that only fields that are set cost time. This
module knows no meaning of a field: limits that depend on a model are checked by those who know the model.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from inferd.options.v1 import options_pb2
from inferd.services.calls.call import Call
from inferd.services.errors import ServiceError, invalid
from inferd.services.net.declared_oneofs import declared_oneofs

Check = Callable[[Any, str], None]

# protobuf's stubs and its generated code disagree on the type of an extension.
_LIMITS: Any = options_pb2.limits
_BEHAVIOR: Any = field_behavior_pb2.field_behavior

#: Characters of a refused string that the error shows.
_SHOWN = 256


class FieldLimits:
    """Checks the request's fields."""

    def enter(self, call: Call) -> None:
        check_limits(call.request)

    def leave(self, call: Call) -> None:
        pass


def check_limits(message: Message) -> None:
    """Raise INVALID_ARGUMENT naming the first field that breaks its limits, and the limit."""
    _message_check(message.DESCRIPTOR)(message, "")


@cache
def _message_check(descriptor: Descriptor) -> Check:
    """The check of a message. The path that it takes is empty, or ends with a dot."""
    required = [(field.number, field.name) for field in descriptor.fields if _is_required(field)]
    checks: dict[int, tuple[str, Check]] = {}
    for field in descriptor.fields:
        if check := _field_check(field, field.GetOptions().Extensions[_LIMITS]):
            checks[field.number] = (field.name, check)
    oneofs = [(oneof.name, [field.name for field in oneof.fields]) for oneof in declared_oneofs(descriptor)]

    def run(message: Message, path: str) -> None:
        present = []
        for field, value in message.ListFields():
            number = field.number
            present.append(number)
            entry = checks.get(number)
            if entry is not None:
                name, check = entry
                check(value, path + name)
        for number, name in required:
            if number not in present:
                raise _missing(path + name)
        for oneof, names in oneofs:
            if message.WhichOneof(oneof) is None:
                raise _without_kind(path, names)

    return run


def _is_required(field: FieldDescriptor) -> bool:
    return field_behavior_pb2.REQUIRED in field.GetOptions().Extensions[_BEHAVIOR]


def _missing(path: str) -> ServiceError:
    return invalid(path, f"{path} is required", "REQUIRED_FIELD_MISSING")


def _without_kind(path: str, names: Sequence[str]) -> ServiceError:
    """The error of a message that has no field of a oneof.

    The client may be newer than this server, and have set a field that this server does not know.
    """
    holder = path.rstrip(".")
    words = " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    return invalid(
        holder or names[0], f"{holder or 'the request'} must have {words}", "REQUIRED_FIELD_MISSING"
    )


def _field_check(field: FieldDescriptor, limits: options_pb2.Limits) -> Check | None:
    parts: list[Check] = []
    if limits.min_items or limits.max_items:
        parts.append(_size_check(limits))
    element = _element_check(field, limits)
    if element and _is_map(field):
        parts.append(_each_value(element))
    elif element and field.is_repeated:
        parts.append(_each_item(element))
    elif element:
        parts.append(element)
    if not parts:
        return None
    if len(parts) == 1:
        return parts[0]
    return _all(parts)


def _all(checks: Sequence[Check]) -> Check:
    def run(value: Any, path: str) -> None:
        for check in checks:
            check(value, path)

    return run


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _element_check(field: FieldDescriptor, limits: options_pb2.Limits) -> Check | None:
    """The check of a value, or of each value of a list or map."""
    if _is_map(field):
        return _number_check(limits)
    if field.message_type is not None:
        message = field.message_type
        if message.full_name == Duration.DESCRIPTOR.full_name:
            return _duration_check(limits)
        # Compiled at first use, because messages may be recursive.
        return (lambda value, path: _message_check(message)(value, path + ".")) if message.fields else None
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return _string_check(limits)
    if field.enum_type is not None:
        return _enum_check(field.enum_type)
    return _number_check(limits)


def _each_item(check: Check) -> Check:
    def run(values: Any, path: str) -> None:
        # A slice of a repeated field is iterated over in half the time of the field itself.
        for index, value in enumerate(values[:]):
            check(value, f"{path}[{index}]")

    return run


def _each_value(check: Check) -> Check:
    def run(values: Mapping[Any, Any], path: str) -> None:
        for key, value in values.items():
            check(value, f'{path}["{key}"]')

    return run


def _size_check(limits: options_pb2.Limits) -> Check:
    def run(values: Any, path: str) -> None:
        size = len(values)
        if size < limits.min_items:
            raise _broken(path, f"at least {limits.min_items} elements", f"{size} elements")
        if limits.max_items and size > limits.max_items:
            raise _broken(path, f"at most {limits.max_items} elements", f"{size} elements")

    return run


def _string_check(limits: options_pb2.Limits) -> Check | None:
    longest, pattern = limits.max_length, re.compile(limits.pattern)
    if not longest and not limits.pattern:
        return None

    def check_length(value: str, path: str) -> None:
        if longest and len(value) > longest:
            raise _broken(path, f"at most {longest} characters", f"{len(value)} characters")

    def check_both(value: str, path: str) -> None:
        check_length(value, path)
        if pattern.fullmatch(value) is None:
            raise _broken(path, f"a match of {limits.pattern}", repr(value[:_SHOWN]))

    return check_both if limits.pattern else check_length


def _enum_check(enum: EnumDescriptor) -> Check:
    """The check of an enum's value. A client that is newer than this server may know further values."""
    known = frozenset(enum.values_by_number)
    names = ", ".join(value.name for value in enum.values if value.number)

    def run(value: int, path: str) -> None:
        if value not in known:
            raise invalid(path, f"{path} must be one of {names}, not {value}", value=str(value))

    return run


def _duration_check(limits: options_pb2.Limits) -> Check | None:
    """The check of a Duration, whose limits are in seconds."""
    check = _number_check(limits)
    if check is None:
        return None
    return lambda value, path: check(value.seconds + value.nanos / 1e9, path)


def _number_check(limits: options_pb2.Limits) -> Check | None:
    least = limits.min if limits.HasField("min") else None
    greatest = limits.max if limits.HasField("max") else None
    above = limits.above if limits.HasField("above") else None
    if least is None and greatest is None and above is None:
        return None
    words = []
    if least is not None:
        words.append(f"at least {_text(least)}")
    if above is not None:
        words.append(f"greater than {_text(above)}")
    if greatest is not None:
        words.append(f"at most {_text(greatest)}")
    expected = " and ".join(words)

    def run(value: float, path: str) -> None:
        # Written so that NaN, which compares false with everything, is refused.
        inside = (
            (least is None or value >= least)
            and (greatest is None or value <= greatest)
            and (above is None or value > above)
        )
        if not inside:
            raise _broken(path, expected, _text(value))

    return run


def _text(value: float) -> str:
    """A number in a message. A whole number has all its digits."""
    return str(int(value)) if isinstance(value, int) or value.is_integer() else f"{value:g}"


def _broken(path: str, expected: str, got: str) -> ServiceError:
    return invalid(path, f"{path} must be {expected}, not {got}", "OUT_OF_RANGE", limit=expected, value=got)
