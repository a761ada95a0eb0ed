"""The gRPC server: the services, health and reflection on one address."""

from collections.abc import Sequence

import grpc
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection
from inferd.v1 import (
    chat_pb2_grpc,
    completion_pb2_grpc,
    models_pb2_grpc,
    queue_pb2_grpc,
    tokenize_pb2_grpc,
)

from services.catalog import Catalog
from services.chat import ChatServicer
from services.completion import CompletionServicer
from services.config import Config
from services.guard import Guard
from services.health import Health
from services.methods import Methods
from services.models import ModelServicer
from services.queue.job_queue import JobQueue
from services.queue.servicer import QueueServicer
from services.tokenize import TokenizeServicer

#: These need a runtime; the others need only the models' files.
GENERATING = ("inferd.v1.ChatService", "inferd.v1.CompletionService")

#: Needs the queue's database.
QUEUE = "inferd.v1.QueueService"


def create_methods(catalog: Catalog, queue: JobQueue, config: Config) -> Methods:
    """All servicers over `catalog` and `queue`, guarded."""
    limits = config.server
    methods, waiting = (
        Methods(Guard(limits.max_concurrent_requests, limits.request_timeout)) for _ in range(2)
    )
    chat_pb2_grpc.add_ChatServiceServicer_to_server(ChatServicer(catalog), methods)
    completion_pb2_grpc.add_CompletionServiceServicer_to_server(CompletionServicer(catalog), methods)
    tokenize_pb2_grpc.add_TokenizeServiceServicer_to_server(TokenizeServicer(catalog), methods)
    models_pb2_grpc.add_ModelServiceServicer_to_server(ModelServicer(catalog), methods)
    queue_servicer = QueueServicer(catalog, queue, config.queue, limits.request_timeout)
    queue_pb2_grpc.add_QueueServiceServicer_to_server(queue_servicer, waiting)
    # Those who wait for jobs take no place from those who wait for answers.
    methods.include(waiting)
    return methods


def create_health(catalog: Catalog, methods: Methods) -> Health:
    """The health of all services in `methods`."""
    return Health(catalog, GENERATING, [name for name in methods if name not in GENERATING])


def create_server(
    methods: Methods, health_of: Health, address: str, *, max_message_bytes: int, shared_port: bool
) -> tuple[grpc.aio.Server, int]:
    """A server that is bound but not started, and its port.

    `shared_port` lets several processes listen on the same address. Raises OSError where the address
    cannot be had.
    """
    server = grpc.aio.server(options=_options(max_message_bytes, shared_port))
    methods.attach(server)
    health_of.attach(server)
    names: Sequence[str] = (*methods, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"gRPC cannot listen on {address}: is something else listening there?") from error
    return server, port


def _options(max_message_bytes: int, shared_port: bool) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", -1),
        # On by default in grpcio: two servers would silently share a port.
        ("grpc.so_reuseport", int(shared_port)),
        # Clients that wait long for an answer may ping to keep the connection.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # A client that is gone without a word is noticed, and its work aborted.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
    ]
