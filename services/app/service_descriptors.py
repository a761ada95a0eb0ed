"""The services of the contract, by descriptor: what is declared in protos/inferd/v1, served or not yet."""

from inferd.v1 import chat_pb2, completion_pb2, models_pb2, queue_pb2, tokenize_pb2

SERVICES = tuple(
    service
    for module in (chat_pb2, completion_pb2, tokenize_pb2, models_pb2, queue_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
)

#: The message of a queued job.
JOB_MESSAGE = queue_pb2.DESCRIPTOR.message_types_by_name["Job"]
