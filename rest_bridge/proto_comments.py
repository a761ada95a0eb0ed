"""The comments of the protos, by the full name of the declaration.

Reads them from the descriptor set that `make generate` writes, because generated Python has no comments. Does
not use them: the OpenAPI document and docs/parameters.md do.
"""

import re
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2

# For each kind of declaration, the fields of descriptor.proto that hold its inner declarations, and their
# numbers. The paths of SourceCodeInfo consist of these numbers.
_INNER_DECLARATIONS: Mapping[type, tuple[tuple[str, int], ...]] = {
    descriptor_pb2.FileDescriptorProto: (("message_type", 4), ("enum_type", 5), ("service", 6)),
    descriptor_pb2.DescriptorProto: (("field", 2), ("nested_type", 3), ("enum_type", 4), ("oneof_decl", 8)),
    descriptor_pb2.EnumDescriptorProto: (("value", 2),),
    descriptor_pb2.ServiceDescriptorProto: (("method", 2),),
}


def load() -> dict[str, str]:
    """The comments of inferd's own protos, from the descriptor set in the package `inferd`; see `read`."""
    data = resources.files("inferd").joinpath("descriptors.binpb").read_bytes()
    return read(descriptor_pb2.FileDescriptorSet.FromString(data))


def read(files: descriptor_pb2.FileDescriptorSet) -> dict[str, str]:
    """The comments before declarations, by full name; declarations without a comment are absent.

    The name of an enum value is the enum's full name, a dot and the value's name. In a comment, each
    paragraph is one line, and an empty line separates two paragraphs.
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
    """The paths (of SourceCodeInfo) and full names of all declarations within `parent`."""
    for attribute, number in _INNER_DECLARATIONS.get(type(parent), ()):
        for index, inner in enumerate(getattr(parent, attribute)):
            name, inner_path = f"{scope}.{inner.name}", (*path, number, index)
            yield inner_path, name
            yield from _declarations(inner, name, inner_path)


def _unwrap(comment: str) -> str:
    paragraphs = re.split(r"\n\s*\n", comment.strip())
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
