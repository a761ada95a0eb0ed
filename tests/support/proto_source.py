"""Protos for tests, compiled from source: shapes and rules that inferd's own protos do not have."""

import tempfile
from importlib import resources
from pathlib import Path

from google.api import annotations_pb2
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor, FileDescriptor, ServiceDescriptor
from grpc_tools import protoc

PROTOS = Path(__file__).parents[2] / "protos"

_IMPORTS = """
import "google/api/annotations.proto";
import "google/api/field_behavior.proto";
import "google/protobuf/any.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/field_mask.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
import "google/rpc/status.proto";
import "inferd/options/v1/options.proto";
"""
#: What stands for an option's name in a test's source.
_SHORT = {
    "$http": "option (google.api.http)",
    "$streaming": "option (inferd.options.v1.streaming)",
    "$success_status": "option (inferd.options.v1.success_status)",
    "$pending": "option (inferd.options.v1.pending)",
    "$location": "option (inferd.options.v1.location)",
    "$prefer_wait": "option (inferd.options.v1.prefer_wait)",
    "$json": "(inferd.options.v1.json)",
    "$message": "(inferd.options.v1.message_json)",
    "$word": "(inferd.options.v1.json_value)",
    "$dialect_word": "(inferd.options.v1.dialect_value)",
    "$dialect": "option (inferd.options.v1.dialect)",
    "$limits": "(inferd.options.v1.limits)",
    "$required": "(google.api.field_behavior) = REQUIRED",
}


def compile_messages(source: str) -> dict[str, Descriptor]:
    """The messages of a proto3 file's body, in package codec.test."""
    return dict(_compile("codec.test", source).message_types_by_name)


def compile_services(source: str) -> list[ServiceDescriptor]:
    """The services of a proto3 file's body, in package rest.test."""
    return list(_compile("rest.test", source).services_by_name.values())


def _compile(package: str, source: str) -> FileDescriptor:
    for short, option in _SHORT.items():
        source = source.replace(short, option)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.proto"
        path.write_text(f'syntax = "proto3";\npackage {package};\n{_IMPORTS}{source}')
        return compile_file(path)


def compile_file(path: Path) -> FileDescriptor:
    """A proto file, which may import google's and inferd's."""
    with tempfile.TemporaryDirectory() as folder:
        descriptors = Path(folder) / "t.binpb"
        status = protoc.main(
            [
                "protoc",
                f"-I{path.parent}",
                f"-I{PROTOS}",
                f"-I{resources.files('grpc_tools') / '_proto'}",
                f"-I{Path(annotations_pb2.__file__).parents[2]}",
                "--include_imports",
                f"--descriptor_set_out={descriptors}",
                path.name,
            ]
        )
        assert status == 0, path.read_text()
        files = descriptor_pb2.FileDescriptorSet.FromString(descriptors.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return pool.FindFileByName(path.name)
