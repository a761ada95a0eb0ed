"""Work that may outlast its call: what the options `pending`, `location` and `prefer_wait` of a method say,
read and checked at start, and what they do to a request and its response.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any
from urllib.parse import quote

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from inferd.options.v1 import options_pb2
from inferd.rest_bridge import path_template
from inferd.rest_bridge.errors import Headers
from inferd.rest_bridge.field_path import FieldPathError, resolve
from inferd.rest_bridge.json_scalars import BITS, declared_bounds
from inferd.rest_bridge.path_template import TemplateError, Wildcard


class PendingError(ValueError):
    """One of these options cannot work."""


@dataclass(frozen=True)
class Pending:
    """While `field` of the response is set, in seconds, the work is under way and the status is `status`."""

    field: FieldDescriptor
    status: int

    def retry_after(self, response: Message) -> int | None:
        """When to ask again, in seconds; None: the work is done."""
        return getattr(response, self.field.name) if _is_set(response, self.field) else None


@dataclass(frozen=True)
class Location:
    """Where to find what a response tells of: `literals`, with a field's value after each but the last."""

    literals: Sequence[str]
    fields: Sequence[str]

    def of(self, response: Message) -> str:
        """The path, percent-encoded; "" where a field that it is made of is empty."""
        values = [str(attrgetter(field)(response)) for field in self.fields]
        if not all(values):
            return ""
        encoded = [*(quote(value, safe="") for value in values), ""]
        return "".join(part for pair in zip(self.literals, encoded, strict=True) for part in pair)


@dataclass(frozen=True)
class PreferredWait:
    """`field` of the request is how long to wait, `most` seconds at most; a header may say it."""

    field: FieldDescriptor
    most: int

    def apply(self, request: Message, seconds: int | None) -> Headers:
        """Set the field, where the request does not say itself how long; and the header that tells of it."""
        if seconds is None or _is_set(request, self.field):
            return []
        applied = min(seconds, self.most)
        setattr(request, self.field.name, applied)
        return [(b"preference-applied", b"wait=%d" % applied)]


def pending_of(method: MethodDescriptor) -> Pending | None:
    """The option `pending`. Raises PendingError."""
    options: Any = method.GetOptions()
    if not options.HasExtension(options_pb2.pending):
        return None
    option = options.Extensions[options_pb2.pending]
    if option.status not in (200, 201, 202, 203):
        raise PendingError(f"pending: status {option.status} does not go with a body")
    return Pending(_seconds("pending", method.output_type, option.field), option.status)


def location_of(method: MethodDescriptor) -> Location | None:
    """The option `location`. Raises PendingError."""
    options: Any = method.GetOptions()
    if not options.HasExtension(options_pb2.location):
        return None
    text: str = options.Extensions[options_pb2.location]
    try:
        template = path_template.parse(text)
    except TemplateError as error:
        raise PendingError(f"location {text!r}: {error}") from None
    literals, end = [], 0
    fields = []
    for variable in template.variables:
        where = f"location {text!r}: column {variable.column}"
        # A variable with a pattern of its own would not end with its name.
        stands = "{" + ".".join(variable.field_path) + "}"
        start = variable.column - 1
        if not text.startswith(stands, start):
            raise PendingError(f"{where}: a variable has no pattern here")
        try:
            path = resolve(method.output_type, variable.field_path)
        except FieldPathError as error:
            raise PendingError(f"{where}: {error}") from None
        is_text = path.field.type == FieldDescriptor.TYPE_STRING or path.field.cpp_type in BITS
        if path.field.is_repeated or not is_text:
            raise PendingError(f"{where}: {path.text} is no single string or integer")
        literals.append(text[end:start])
        fields.append(".".join(path.names))
        end = start + len(stands)
    if sum(isinstance(segment, Wildcard) for segment in template.segments) > len(fields):
        raise PendingError(f"location {text!r}: a wildcard stands for no field")
    return Location((*literals, text[end:]), tuple(fields))


def preferred_wait_of(method: MethodDescriptor) -> PreferredWait | None:
    """The option `prefer_wait`. Raises PendingError."""
    options: Any = method.GetOptions()
    if not options.HasExtension(options_pb2.prefer_wait):
        return None
    field = _seconds("prefer_wait", method.input_type, options.Extensions[options_pb2.prefer_wait])
    return PreferredWait(field, declared_bounds(field)[1])


def _seconds(option: str, message: Descriptor, name: str) -> FieldDescriptor:
    field = message.fields_by_name.get(name)
    if field is None:
        raise PendingError(f"{option}: {message.full_name} has no field {name!r}")
    if field.cpp_type not in BITS or field.is_repeated:
        raise PendingError(f"{option}: {field.full_name} is no single integer")
    return field


def _is_set(message: Message, field: FieldDescriptor) -> bool:
    return message.HasField(field.name) if field.has_presence else bool(getattr(message, field.name))
