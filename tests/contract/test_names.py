"""Names of requests: each RPC has a request of its own, so that the request can grow with the RPC."""

from google.protobuf.descriptor import MethodDescriptor

from inferd.options.v1 import options_pb2
from inferd.services.app.service_descriptors import SERVICES

METHODS = [method for service in SERVICES for method in service.methods]


def streaming_sibling(method: MethodDescriptor) -> MethodDescriptor | None:
    """The RPC that streams the answer to the same request, as the protos declare it."""
    name = method.GetOptions().Extensions[options_pb2.streaming].rpc
    return method.containing_service.methods_by_name[name] if name else None


def test_a_request_is_named_after_its_rpc_or_after_the_unary_sibling():
    named_after = {method: method for method in METHODS}
    for method in METHODS:
        sibling = streaming_sibling(method)
        if sibling is not None:
            assert sibling.server_streaming
            assert not method.server_streaming
            named_after[sibling] = method
    for method, other in named_after.items():
        assert method.input_type.full_name == f"inferd.v1.{other.name}Request", method.full_name
