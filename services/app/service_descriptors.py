"""The protobuf descriptors of all services in protos/inferd/v1, for the REST bridge.

Whether a service is served does not show here; `grpc_services` registers the servicers.
"""

from inferd.v1 import chat_pb2, completion_pb2, models_pb2, queue_pb2, tokenize_pb2

SERVICES = tuple(
    service
    for module in (chat_pb2, completion_pb2, tokenize_pb2, models_pb2, queue_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
)

#: The descriptor of inferd.v1.Job.
JOB_MESSAGE = queue_pb2.DESCRIPTOR.message_types_by_name["Job"]
