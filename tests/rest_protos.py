"""Services for the bridge's tests, compiled from proto source: rules that inferd's own protos do not have."""

import tempfile
from importlib import resources
from pathlib import Path

from google.api import annotations_pb2
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from grpc_tools import protoc

PROTOS = Path(__file__).parent.parent / "protos"
HEADER = """
syntax = "proto3";
package rest.test;
import "google/api/annotations.proto";
import "inferd/options/v1/options.proto";
"""


def compile_services(source: str) -> list[ServiceDescriptor]:
    """The services of a proto3 file's body. `$http`, `$streaming`, … stand for the options' names."""
    source = source.replace("$http", "option (google.api.http)")
    for name in ("streaming", "success_status"):
        source = source.replace(f"${name}", f"option (inferd.options.v1.{name})")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "t.proto").write_text(HEADER + source)
        descriptors = Path(folder) / "t.binpb"
        status = protoc.main(
            [
                "protoc",
                f"-I{folder}",
                f"-I{PROTOS}",
                f"-I{resources.files('grpc_tools') / '_proto'}",
                f"-I{Path(annotations_pb2.__file__).parents[2]}",
                "--include_imports",
                f"--descriptor_set_out={descriptors}",
                "t.proto",
            ]
        )
        assert status == 0, source
        files = descriptor_pb2.FileDescriptorSet.FromString(descriptors.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return list(pool.FindFileByName("t.proto").services_by_name.values())
