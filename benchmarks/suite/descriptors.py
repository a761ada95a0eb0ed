"""Writes the descriptors of our protos into one file, for transcoders that are not ours."""

from pathlib import Path

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from inferd.v1 import completion_pb2


def write_descriptors(file: Path) -> None:
    """Write the completion service's proto file and all files that it imports, each after its own imports."""
    found = FileDescriptorSet()
    seen: set[str] = set()

    def add(descriptor: FileDescriptor) -> None:
        if descriptor.name not in seen:
            seen.add(descriptor.name)
            for dependency in descriptor.dependencies:
                add(dependency)
            descriptor.CopyToProto(found.file.add())

    add(completion_pb2.DESCRIPTOR)
    file.write_bytes(found.SerializeToString())
