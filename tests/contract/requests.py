"""Minimal requests, made from the descriptors of the contract, and the place of each field in them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from inferd.options.v1 import options_pb2
from inferd.services.app.service_descriptors import SERVICES

#: What a field has in a minimal request, by its full name. Others have what their type needs.
GIVEN: dict[str, Any] = {
    "inferd.v1.CreateChatCompletionRequest.messages": [{"role": "ROLE_USER", "content": [{"text": "Hello"}]}],
    "inferd.v1.CreateCompletionRequest.prompt": [{"text": "Hello"}],
    "inferd.v1.DetokenizeRequest.tokens": [72],
    **{
        f"inferd.v1.{name}.model": "small"
        for name in (
            "CreateChatCompletionRequest",
            "CreateCompletionRequest",
            "DetokenizeRequest",
            "GetModelRequest",
        )
    },
}
BEHAVIOR: Any = field_behavior_pb2.field_behavior
LIMITS: Any = options_pb2.limits
JSON: Any = options_pb2.json


@dataclass(frozen=True)
class Place:
    """A field of a request: the method that takes the request, and the fields on the way to the field."""

    method: MethodDescriptor
    steps: tuple[FieldDescriptor, ...]

    @property
    def field(self) -> FieldDescriptor:
        return self.steps[-1]

    @property
    def limits(self) -> options_pb2.Limits:
        found: options_pb2.Limits = self.field.GetOptions().Extensions[LIMITS]
        return found

    @property
    def path(self) -> str:
        """The path that errors name."""
        steps = [f"{step.name}[0]" if step.is_repeated else step.name for step in self.steps[:-1]]
        return ".".join([*steps, self.field.name])

    def request(self, value: Any) -> Message:
        """A minimal request in which the field has a value. None: the field is not set."""
        request = minimal(self.method.input_type)
        holder: Any = request
        for step in self.steps[:-1]:
            if step.is_repeated:
                holder.ClearField(step.name)
                holder = getattr(holder, step.name).add()
            else:
                holder = getattr(holder, step.name)
                holder.SetInParent()
            holder.CopyFrom(minimal(step.message_type))
        holder.ClearField(self.field.name)
        if value is not None:
            holder.MergeFrom(type(holder)(**{self.field.name: value}))
        return request


def minimal(message: Descriptor) -> Message:
    """A message that has the required fields, and the first field of each oneof."""
    made: Any = GetMessageClass(message)()
    oneofs = {oneof.fields[0] for oneof in message.oneofs if len(oneof.fields) > 1}
    for field in message.fields:
        if field.full_name in GIVEN:
            made.MergeFrom(type(made)(**{field.name: GIVEN[field.full_name]}))
        elif is_required(field) or field in oneofs:
            value = element(field)
            made.MergeFrom(type(made)(**{field.name: [value] if field.is_repeated else value}))
    return made


def element(field: FieldDescriptor) -> Any:
    """A value of a field, or one element of its list."""
    if field.message_type is not None:
        return minimal(field.message_type)
    if field.enum_type is not None:
        return field.enum_type.values[1].number
    if field.GetOptions().Extensions[JSON].raw:
        return "{}"
    return {FieldDescriptor.CPPTYPE_STRING: "x", FieldDescriptor.CPPTYPE_BOOL: True}.get(field.cpp_type, 1)


def is_required(field: FieldDescriptor) -> bool:
    return field_behavior_pb2.REQUIRED in field.GetOptions().Extensions[BEHAVIOR]


def places() -> Iterator[Place]:
    """Each field that a request can have, once: at the first place where it can stand."""
    known: set[str] = set()
    for service in SERVICES:
        for method in service.methods:
            yield from _places(method, method.input_type, (), known)


def _places(
    method: MethodDescriptor, message: Descriptor, steps: tuple[FieldDescriptor, ...], known: set[str]
) -> Iterator[Place]:
    if message.full_name in known or message.GetOptions().map_entry:
        return
    known.add(message.full_name)
    for field in message.fields:
        yield Place(method, (*steps, field))
    for field in message.fields:
        inner = field.message_type
        if inner is not None and inner.full_name.startswith("inferd."):
            yield from _places(method, inner, (*steps, field), known)
