"""The bridge alone, in front of a gRPC server elsewhere: `inferd bridge`. Does not serve models itself."""

import asyncio
from collections.abc import Callable, Iterable, Sequence

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from inferd.rest_bridge.app import create_app
from inferd.rest_bridge.bridge import Bridge
from inferd.rest_bridge.docs_page import docs_routes
from inferd.rest_bridge.http_server import HttpServer, listen
from inferd.rest_bridge.openapi import document
from inferd.rest_bridge.remote_health import ChannelHealth
from inferd.rest_bridge.transport import ChannelTransport

_CHANNEL_OPTIONS = [
    # The server limits the size of requests. The size of its responses has no limit.
    ("grpc.max_receive_message_length", -1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_http_proxy", 0),
]


async def run_bridge(
    services: Iterable[ServiceDescriptor],
    target: str,
    address: tuple[str, int],
    stop: asyncio.Event,
    *,
    max_body_bytes: int,
    keep_alive_seconds: float,
    grace_seconds: float,
    cors_origins: Sequence[str] = (),
    on_listening: Callable[[int], None] = lambda _: None,
) -> None:
    """Serve `services` of the gRPC server at `target` over REST at `address`, until `stop` is set.

    `keep_alive_seconds` is the longest silence of a stream, `grace_seconds` the time in which requests may
    end after `stop`. `on_listening` is called with the port. Raises OSError if the address is not available.
    """
    services = tuple(services)
    listener = listen(*address)
    async with grpc.aio.insecure_channel(target, options=_CHANNEL_OPTIONS) as channel:
        bridge = Bridge(
            services,
            ChannelTransport(channel),
            max_body_bytes=max_body_bytes,
            keep_alive_seconds=keep_alive_seconds,
        )
        app = create_app(
            bridge,
            ChannelHealth(channel),
            cors_origins=cors_origins,
            pages=docs_routes(document(services)),
            home="/docs",
        )
        rest = HttpServer(app, grace_seconds=grace_seconds)
        serving = asyncio.create_task(rest.serve(sockets=[listener]))
        stopping = asyncio.create_task(stop.wait())
        on_listening(listener.getsockname()[1])
        await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        rest.stop()
        await serving
