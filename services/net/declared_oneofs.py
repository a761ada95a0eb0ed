"""The oneofs that a proto declares, without those that protobuf makes of optional fields."""

from google.protobuf.descriptor import Descriptor, OneofDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto


def declared_oneofs(message: Descriptor) -> list[OneofDescriptor]:
    """The oneofs of a message. In a descriptor, each optional field is in a oneof of its own."""
    proto = DescriptorProto()
    message.CopyToProto(proto)
    optional = {field.name for field in proto.field if field.proto3_optional}
    return [oneof for oneof in message.oneofs if not optional.issuperset(f.name for f in oneof.fields)]
