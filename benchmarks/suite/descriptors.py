"""Our protos' descriptors as one file: what a transcoder that is not ours reads."""

from pathlib import Path

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from inferd.v1 import completion_pb2


def write_descriptors(file: Path) -> None:
    """Write the completion service's file and all that it imports, each after what it needs."""
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
