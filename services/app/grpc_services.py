"""Creates the servicers of all services, and the gRPC server with health and reflection.

It starts nothing; `server_process` does.
"""

from grpc_health.v1 import health, health_pb2_grpc

from inferd.services.api.chat import ChatServicer
from inferd.services.api.completion import CompletionServicer
from inferd.services.api.models import ModelServicer
from inferd.services.api.tokenize import TokenizeServicer
from inferd.services.app.health import Health
from inferd.services.app.reflection import REFLECTION_SERVICES, DescriptorIndex, Reflection, served_files
from inferd.services.calls.chain import Chain, call_links, standard_links
from inferd.services.calls.methods import Methods
from inferd.services.config import Config
from inferd.services.fleet.catalog import Catalog
from inferd.services.net.http2.grpc_server import GrpcServer
from inferd.services.queue.job_queue import JobQueue
from inferd.services.queue.servicer import QueueServicer
from inferd.v1 import (
    chat_pb2_grpc,
    completion_pb2_grpc,
    models_pb2_grpc,
    queue_pb2_grpc,
    tokenize_pb2_grpc,
)

#: Services that need a runtime. The other services need only the files of the models.
GENERATING_SERVICES = ("inferd.v1.ChatService", "inferd.v1.CompletionService")

#: The service that needs the queue's database.
QUEUE_SERVICE = "inferd.v1.QueueService"


def create_methods(catalog: Catalog, queue: JobQueue, config: Config) -> Methods:
    """The methods of all servicers over `catalog` and `queue`, each behind the chain."""
    limits = config.server
    methods, queue_methods = (
        Methods(Chain(call_links(limits.max_concurrent_requests, limits.request_timeout))) for _ in range(2)
    )
    chat_pb2_grpc.add_ChatServiceServicer_to_server(ChatServicer(catalog), methods)
    completion_pb2_grpc.add_CompletionServiceServicer_to_server(CompletionServicer(catalog), methods)
    tokenize_pb2_grpc.add_TokenizeServiceServicer_to_server(TokenizeServicer(catalog), methods)
    models_pb2_grpc.add_ModelServiceServicer_to_server(ModelServicer(catalog), methods)
    queue_servicer = QueueServicer(catalog, queue, config.queue, limits.request_timeout)
    queue_pb2_grpc.add_QueueServiceServicer_to_server(queue_servicer, queue_methods)
    # The queue has a chain of its own, because calls that wait for jobs must not block other calls.
    methods.include(queue_methods)
    return methods


def create_health(catalog: Catalog, methods: Methods) -> Health:
    """The health service for all services in `methods`."""
    return Health(catalog, GENERATING_SERVICES, [name for name in methods if name not in GENERATING_SERVICES])


def create_grpc_server(
    methods: Methods, health_of: Health, address: str, *, max_message_bytes: int, shared_port: bool
) -> tuple[GrpcServer, int]:
    """A gRPC server that listens but is not started, and its port.

    A request may have `max_message_bytes`. `shared_port` lets several processes listen on the same address.
    Raises OSError if the address cannot be bound.
    """
    server = GrpcServer(max_message_bytes=max_message_bytes)
    methods.attach(server)
    standard = Methods(Chain(standard_links()))
    health_pb2_grpc.add_HealthServicer_to_server(health_of.servicer, standard)
    names = (*methods, health.SERVICE_NAME, *REFLECTION_SERVICES)
    Reflection(names, DescriptorIndex(served_files())).add_to(standard)
    standard.attach(server)
    try:
        port = server.bind(address, shared_port=shared_port)
    except OSError as error:
        raise OSError(f"gRPC cannot listen on {address}: is something else listening there?") from error
    return server, port
