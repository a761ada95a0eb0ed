"""Runs one server process: a gRPC and a REST server over the same services, started, supervised and stopped.

All parts of a process are put together here. Only this module and `cli` import the REST bridge.
"""

import asyncio
import gc
import sys
from collections.abc import Callable
from typing import Any

from inferd.rest_bridge.app import create_app
from inferd.rest_bridge.bridge import Bridge
from inferd.rest_bridge.docs_page import docs_routes
from inferd.rest_bridge.encode import Encoder
from inferd.rest_bridge.http_server import HttpServer, listen
from inferd.rest_bridge.openapi import document
from inferd.rest_bridge.transport import InProcessTransport
from inferd.services.app.grpc_services import QUEUE_SERVICE, create_grpc_server, create_health, create_methods
from inferd.services.app.health import Health
from inferd.services.app.load_models import load_models
from inferd.services.app.service_descriptors import JOB_MESSAGE, SERVICES
from inferd.services.config import Config
from inferd.services.fleet.catalog import Catalog
from inferd.services.queue.job_queue import JobQueue

#: Thresholds of the garbage collector (gc.set_threshold): new objects until a young collection, and young
#: collections until an older one.
_GC_THRESHOLDS = (20_000, 20, 20)


async def run_server_process(
    config: Config,
    stop: asyncio.Event,
    *,
    shared_ports: bool = False,
    on_serving: Callable[[bool], None] = lambda _: None,
    on_listening: Callable[[int, int], None] = lambda _grpc, _rest: None,
) -> None:
    """Serve until `stop` is set or a server fails. Running calls then have the grace time to end.

    `shared_ports` lets several processes listen on the same ports. `on_serving` is called with the health at
    start and at each change, `on_listening` with the ports of gRPC and REST. Raises OSError if an address
    cannot be bound, and TokenizerError if a model's files cannot be read.
    """
    limits = config.server
    changed = asyncio.Event()

    def on_runtime_change() -> None:
        changed.set()
        queue.wake()

    catalog = await load_models(config, on_runtime_change)

    def on_queue_change(available: bool) -> None:
        health.set_failing(QUEUE_SERVICE, not available)
        changed.set()

    queue = JobQueue(
        config.queue,
        catalog,
        run_seconds=limits.request_timeout,
        encode=Encoder(JOB_MESSAGE).encode,
        on_available=on_queue_change,
    )
    methods = create_methods(catalog, queue, config)
    health = create_health(catalog, methods)

    async def serving() -> bool:
        return health.serving

    bridge = Bridge(
        SERVICES,
        InProcessTransport(methods),
        max_body_bytes=limits.max_body_bytes,
        keep_alive_seconds=limits.keep_alive,
    )
    app = create_app(
        bridge, serving, cors_origins=limits.cors_origins, pages=docs_routes(document(SERVICES)), home="/docs"
    )
    rest = HttpServer(app, grace_seconds=limits.grace)
    listener = listen(*limits.rest_address, reuse_port=shared_ports)
    server, port = create_grpc_server(
        methods, health, limits.grpc, max_message_bytes=limits.max_body_bytes, shared_port=shared_ports
    )
    on_listening(port, listener.getsockname()[1])
    await queue.start()
    await server.start()
    await _each_runtime(catalog, "start")
    _tune_garbage_collector()
    _stop_tracking_generators()
    http = asyncio.create_task(rest.serve(sockets=[listener]), name="REST server")
    others = [
        asyncio.create_task(server.wait_for_termination(), name="gRPC server"),
        asyncio.create_task(_publish(health, changed, on_serving), name="health"),
        asyncio.create_task(stop.wait(), name="stop"),
    ]
    try:
        done, _ = await asyncio.wait([http, *others], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await health.drain()
        rest.stop()
        await asyncio.gather(
            server.stop(limits.grace), http, queue.close(limits.grace), return_exceptions=True
        )
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await _each_runtime(catalog, "close")


def _tune_garbage_collector() -> None:
    """Make the garbage collector ignore the objects made at start, which stay, and collect less often.

    Otherwise it takes 6 % of the time with 256 streams.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


def _stop_tracking_generators() -> None:
    """Keep the event loop from tracking asynchronous generators, to close them at its end.

    Tracking costs 2 µs for each generator. Ours are closed by the code that reads them.
    """
    sys.set_asyncgen_hooks(firstiter=None)


async def _publish(health: Health, changed: asyncio.Event, on_serving: Callable[[bool], None]) -> None:
    """Publish the health at start and whenever the state of a runtime or of the queue changes."""
    while True:
        await health.update()
        on_serving(health.serving)
        await changed.wait()
        changed.clear()


async def _each_runtime(catalog: Catalog, action: str) -> None:
    """Call the method `action` ("start" or "close") of all runtimes."""
    calls: list[Any] = [
        getattr(runtime, action)() for model in catalog for runtime in model.replicas.runtimes
    ]
    await asyncio.gather(*calls)
