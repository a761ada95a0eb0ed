"""The limits of request fields, as the protos declare them (inferd.options.v1.limits).

The limits of a message type are compiled once into closures, so that only fields that are set cost time. This
module knows no meaning of a field: limits that depend on a model are checked by those who know the model.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from inferd.options.v1 import options_pb2
from inferd.services.calls.call import Call
from inferd.services.errors import ServiceError, invalid

Check = Callable[[Any, str], None]

# protobuf's stubs and its generated code disagree on the type of an extension.
_LIMITS: Any = options_pb2.limits
_JSON: Any = options_pb2.json


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
    required: list[tuple[int, Check]] = []
    checks: dict[int, tuple[str, Check]] = {}
    for field in descriptor.fields:
        limits = field.GetOptions().Extensions[_LIMITS]
        if limits.required:
            required.append((field.number, _absence(field)))
        if _is_inline(field):
            checks[field.number] = ("", _inline_check(field))
        elif check := _field_check(field, limits):
            checks[field.number] = (_spelling(field), check)

    def run(message: Message, path: str) -> None:
        present = []
        for field, value in message.ListFields():
            number = field.number
            present.append(number)
            entry = checks.get(number)
            if entry is not None:
                spelling, check = entry
                check(value, path + spelling)
        for number, absent in required:
            if number not in present:
                absent(message, path)

    return run


def _absence(field: FieldDescriptor) -> Check:
    """A check that raises, for messages without a required field.

    A client knows an inline message by its fields only. So the first missing one is named.
    """

    def run(message: Message, path: str) -> None:
        if _is_inline(field):
            _inline_check(field)(getattr(message, field.name), path)
        name = path + _spelling(field)
        raise invalid(name, f"{name} is required", "REQUIRED_FIELD_MISSING")

    return run


def _is_inline(field: FieldDescriptor) -> bool:
    return field.GetOptions().Extensions[_JSON].inline and field.message_type is not None


def _inline_check(field: FieldDescriptor) -> Check:
    """The check of a message whose fields are spelled as fields of the message that holds it."""
    # Compiled at first use, because messages may be recursive.
    return lambda value, path: _message_check(field.message_type)(value, path)


def _spelling(field: FieldDescriptor) -> str:
    return field.GetOptions().Extensions[_JSON].name or field.name


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
        # Compiled at first use, because messages may be recursive.
        return (lambda value, path: _message_check(message)(value, path + ".")) if message.fields else None
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return _length_check(limits)
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


def _length_check(limits: options_pb2.Limits) -> Check | None:
    longest = limits.max_length
    if not longest:
        return None

    def run(value: str, path: str) -> None:
        if len(value) > longest:
            raise _broken(path, f"at most {longest} characters", f"{len(value)} characters")

    return run


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
