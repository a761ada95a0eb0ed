"""The protos' doc comments by full name, out of the descriptor set that `make generate` writes: generated
Python keeps none. Does not know what they are used for.
"""

import re
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2

# What a declaration may hold, and the number of the field that holds it in descriptor.proto: the paths of
# SourceCodeInfo are made of these numbers.
_PARTS: Mapping[type, tuple[tuple[str, int], ...]] = {
    descriptor_pb2.FileDescriptorProto: (("message_type", 4), ("enum_type", 5), ("service", 6)),
    descriptor_pb2.DescriptorProto: (("field", 2), ("nested_type", 3), ("enum_type", 4), ("oneof_decl", 8)),
    descriptor_pb2.EnumDescriptorProto: (("value", 2),),
    descriptor_pb2.ServiceDescriptorProto: (("method", 2),),
}


def load() -> dict[str, str]:
    """The comments of inferd's own protos, from the descriptor set in the package `inferd`."""
    data = resources.files("inferd").joinpath("descriptors.binpb").read_bytes()
    return read(descriptor_pb2.FileDescriptorSet.FromString(data))


def read(files: descriptor_pb2.FileDescriptorSet) -> dict[str, str]:
    """The comment before each declaration that has one: full name → text.

    An enum value goes by its enum's full name and its own. A paragraph is one line, and an empty line
    stands between two.
    """
    comments: dict[str, str] = {}
    for file in files.file:
        names = dict(_declarations(file, file.package, ()))
        for location in file.source_code_info.location:
            name = names.get(tuple(location.path))
            if name is not None and location.leading_comments:
                comments[name] = _unwrap(location.leading_comments)
    return comments


def _declarations(parent: Any, scope: str, path: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], str]]:
    for attribute, number in _PARTS.get(type(parent), ()):
        for index, part in enumerate(getattr(parent, attribute)):
            name, place = f"{scope}.{part.name}", (*path, number, index)
            yield place, name
            yield from _declarations(part, name, place)


def _unwrap(comment: str) -> str:
    paragraphs = re.split(r"\n\s*\n", comment.strip())
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
