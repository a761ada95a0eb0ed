"""Message types for the codec's tests, compiled from proto source: shapes that inferd's own protos do not
have."""

import tempfile
from importlib import resources
from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor
from grpc_tools import protoc

PROTOS = Path(__file__).parent.parent / "protos"
HEADER = """
syntax = "proto3";
package codec.test;
import "inferd/options/v1/options.proto";
import "google/protobuf/any.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/field_mask.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
"""


def compile_protos(source: str) -> dict[str, Descriptor]:
    """The messages of a proto3 file's body. `$json`, `$message` and `$word` stand for the options' names."""
    for short, option in (
        ("$json", "(inferd.options.v1.json)"),
        ("$message", "(inferd.options.v1.message_json)"),
        ("$word", "(inferd.options.v1.json_value)"),
    ):
        source = source.replace(short, option)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "t.proto").write_text(HEADER + source)
        descriptors = Path(folder) / "t.binpb"
        status = protoc.main(
            [
                "protoc",
                f"-I{folder}",
                f"-I{PROTOS}",
                f"-I{resources.files('grpc_tools') / '_proto'}",
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
    return dict(pool.FindFileByName("t.proto").message_types_by_name)
