"""The method options `pending`, `location` and `prefer_wait`, for work that may go on after its call.

Reads and checks the options at start, and applies them to requests and responses. Does not wait for the work.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any
from urllib.parse import quote

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from inferd.options.v1 import options_pb2
from inferd.rest_bridge import path_template
from inferd.rest_bridge.errors import Headers
from inferd.rest_bridge.field_path import FieldPathError, resolve
from inferd.rest_bridge.json_scalars import BITS
from inferd.rest_bridge.path_template import TemplateError, Wildcard

# protobuf's stubs and its generated code disagree on the type of an extension.
_LIMITS: Any = options_pb2.limits
_DURATION = Duration.DESCRIPTOR.full_name
#: The greatest Duration, by google/protobuf/duration.proto (10000 years).
_MAX_SECONDS = 315_576_000_000


class LongRunningError(ValueError):
    """One of the three options cannot work."""


@dataclass(frozen=True)
class Pending:
    """The option `pending`: the work has not ended while `field` of the response, a Duration, is set.

    `status` is the HTTP status of such a response.
    """

    field: FieldDescriptor
    status: int

    def retry_after(self, response: Message) -> int | None:
        """Seconds after which the client should ask again, rounded up; None if the work has ended."""
        if not response.HasField(self.field.name):
            return None
        duration: Duration = getattr(response, self.field.name)
        return duration.seconds + (duration.nanos > 0)


@dataclass(frozen=True)
class Location:
    """The option `location`: a path of `literals`, with a response field's value between any two."""

    literals: Sequence[str]
    fields: Sequence[str]

    def of(self, response: Message) -> str:
        """The path for a response, with percent-encoded values; empty if one of the fields is empty."""
        values = [str(attrgetter(field)(response)) for field in self.fields]
        if not all(values):
            return ""
        encoded = [*(quote(value, safe="") for value in values), ""]
        return "".join(part for pair in zip(self.literals, encoded, strict=True) for part in pair)


@dataclass(frozen=True)
class PreferredWait:
    """The option `prefer_wait`: the header Prefer sets `field` of the request, a Duration.

    `limit` is the greatest number of seconds.
    """

    field: FieldDescriptor
    limit: int

    def apply(self, request: Message, seconds: int | None) -> Headers:
        """Set the field to the preferred seconds, unless the request has set it.

        Returns the header Preference-Applied (RFC 7240, section 3), or no header if the field was not
        changed.
        """
        if seconds is None or request.HasField(self.field.name):
            return []
        applied = min(seconds, self.limit)
        getattr(request, self.field.name).FromSeconds(applied)
        return [(b"preference-applied", b"wait=%d" % applied)]


def pending_of(method: MethodDescriptor) -> Pending | None:
    """The option `pending` of a method, or None. Raises LongRunningError."""
    options: Any = method.GetOptions()
    if not options.HasExtension(options_pb2.pending):
        return None
    option = options.Extensions[options_pb2.pending]
    if option.status not in (200, 201, 202, 203):
        raise LongRunningError(f"pending: status {option.status} does not go with a body")
    return Pending(_duration("pending", method.output_type, option.field), option.status)


def location_of(method: MethodDescriptor) -> Location | None:
    """The option `location` of a method, or None. Raises LongRunningError."""
    options: Any = method.GetOptions()
    if not options.HasExtension(options_pb2.location):
        return None
    text: str = options.Extensions[options_pb2.location]
    try:
        template = path_template.parse(text)
    except TemplateError as error:
        raise LongRunningError(f"location {text!r}: {error}") from None
    literals, end = [], 0
    fields = []
    for variable in template.variables:
        where = f"location {text!r}: column {variable.column}"
        placeholder = "{" + ".".join(variable.field_path) + "}"
        start = variable.column - 1
        # A variable with a pattern, such as {id=*}, does not end after its name.
        if not text.startswith(placeholder, start):
            raise LongRunningError(f"{where}: a variable has no pattern here")
        try:
            path = resolve(method.output_type, variable.field_path)
        except FieldPathError as error:
            raise LongRunningError(f"{where}: {error}") from None
        is_text = path.field.type == FieldDescriptor.TYPE_STRING or path.field.cpp_type in BITS
        if path.field.is_repeated or not is_text:
            raise LongRunningError(f"{where}: {path.text} is no single string or integer")
        literals.append(text[end:start])
        fields.append(".".join(path.names))
        end = start + len(placeholder)
    if sum(isinstance(segment, Wildcard) for segment in template.segments) > len(fields):
        raise LongRunningError(f"location {text!r}: a wildcard stands for no field")
    return Location((*literals, text[end:]), tuple(fields))


def preferred_wait_of(method: MethodDescriptor) -> PreferredWait | None:
    """The option `prefer_wait` of a method, or None. Raises LongRunningError."""
    options: Any = method.GetOptions()
    if not options.HasExtension(options_pb2.prefer_wait):
        return None
    field = _duration("prefer_wait", method.input_type, options.Extensions[options_pb2.prefer_wait])
    limits = field.GetOptions().Extensions[_LIMITS]
    return PreferredWait(field, int(limits.max) if limits.HasField("max") else _MAX_SECONDS)


def _duration(option: str, message: Descriptor, name: str) -> FieldDescriptor:
    """The Duration field that an option names."""
    field = message.fields_by_name.get(name)
    if field is None:
        raise LongRunningError(f"{option}: {message.full_name} has no field {name!r}")
    is_duration = field.message_type is not None and field.message_type.full_name == _DURATION
    if not is_duration or field.is_repeated:
        raise LongRunningError(f"{option}: {field.full_name} is no single google.protobuf.Duration")
    return field
