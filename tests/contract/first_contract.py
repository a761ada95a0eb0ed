"""The contract as its first clients have it, from baseline/v1.binpb, which `scripts/baseline` has written."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import (
    Descriptor,
    EnumDescriptor,
    EnumValueDescriptor,
    FieldDescriptor,
    MethodDescriptor,
)
from google.protobuf.descriptor_pb2 import (
    EnumValueOptions,
    FieldOptions,
    FileDescriptorSet,
    MessageOptions,
    MethodOptions,
)
from google.protobuf.descriptor_pool import DescriptorPool

BASELINE = Path(__file__).with_name("baseline") / "v1.binpb"
PACKAGE = "inferd.v1"


def _load() -> tuple[DescriptorPool, list[str]]:
    pool = DescriptorPool()
    names = []
    for file in FileDescriptorSet.FromString(BASELINE.read_bytes()).file:
        pool.Add(file)
        if file.package == PACKAGE:
            names.append(file.name)
    return pool, names


POOL, _names = _load()
FILES = [POOL.FindFileByName(name) for name in _names]
METHODS: dict[str, MethodDescriptor] = {
    method.full_name: method
    for file in FILES
    for service in file.services_by_name.values()
    for method in service.methods
}
MESSAGES: dict[str, Descriptor] = {
    message.full_name: message for file in FILES for message in file.message_types_by_name.values()
}
ENUMS: dict[str, EnumDescriptor] = {
    enum.full_name: enum for file in FILES for enum in file.enum_types_by_name.values()
}

_OPTIONS: dict[type, Any] = {
    MethodDescriptor: MethodOptions,
    Descriptor: MessageOptions,
    FieldDescriptor: FieldOptions,
    EnumValueDescriptor: EnumValueOptions,
}


def options_of(found: Any) -> Any:
    """The options of a descriptor of any pool, with the extensions of the generated code."""
    kind = next(kind for kind in _OPTIONS if isinstance(found, kind))
    return _OPTIONS[kind].FromString(found.GetOptions().SerializeToString())


def input_messages() -> Iterator[Descriptor]:
    """The messages of requests, and all messages within them."""
    known: set[str] = set()
    waiting = [method.input_type for method in METHODS.values()]
    while waiting:
        message = waiting.pop()
        if message.full_name not in known and message.file.package == PACKAGE:
            known.add(message.full_name)
            yield message
            waiting += [field.message_type for field in message.fields if field.message_type is not None]
