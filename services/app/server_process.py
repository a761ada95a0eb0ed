"""The two servers of one process, gRPC and REST, over the same services: start, supervise, stop.

The composition root: with `cli`, the only module of `services` that knows the bridge.
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
from inferd.rest_bridge.transport import InProcess
from inferd.services.app.grpc_services import QUEUE, create_grpc_server, create_health, create_methods
from inferd.services.app.health import Health
from inferd.services.app.load_models import load_models
from inferd.services.app.service_descriptors import JOB_MESSAGE, SERVICES
from inferd.services.config import Config
from inferd.services.fleet.catalog import Catalog
from inferd.services.queue.job_queue import JobQueue

#: Objects made and not freed before the garbage collector looks at the young ones; then how many such looks
#: before it looks at older ones.
_GC_THRESHOLDS = (20_000, 20, 20)


async def run_server_process(
    config: Config,
    stop: asyncio.Event,
    *,
    shared_ports: bool = False,
    on_serving: Callable[[bool], None] = lambda _: None,
    on_listening: Callable[[int, int], None] = lambda _grpc, _rest: None,
) -> None:
    """Serve until `stop` is set, or one of the servers fails; then let calls end within the grace time.

    `on_serving` is told of the health at start and whenever it changes, `on_listening` the ports of gRPC
    and REST. Raises OSError where an address cannot be had, TokenizerError where a model's files cannot be
    read.
    """
    limits = config.server
    changed = asyncio.Event()

    def on_runtime() -> None:
        changed.set()
        queue.wake()

    catalog = await load_models(config, on_runtime)

    def on_queue(available: bool) -> None:
        health.set_failing(QUEUE, not available)
        changed.set()

    queue = JobQueue(
        config.queue,
        catalog,
        run_seconds=limits.request_timeout,
        encode=Encoder(JOB_MESSAGE).encode,
        on_available=on_queue,
    )
    methods = create_methods(catalog, queue, config)
    health = create_health(catalog, methods)

    async def serving() -> bool:
        return health.serving

    bridge = Bridge(
        SERVICES,
        InProcess(methods),
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
    _settle_memory()
    _track_no_generators()
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


def _settle_memory() -> None:
    """Spare the garbage collector what was made at the start, which stays, and most of its looks at what
    streams hold: without this it takes 6 % of the time with 256 of them."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


def _track_no_generators() -> None:
    """The loop keeps a weak set of asynchronous generators, to close what is left of them at its end: 2 µs
    for each of a request's. Ours are closed by those who read them."""
    sys.set_asyncgen_hooks(firstiter=None)


async def _publish(health: Health, changed: asyncio.Event, on_serving: Callable[[bool], None]) -> None:
    """Publish the health at start and whenever a runtime's state changes."""
    while True:
        await health.update()
        on_serving(health.serving)
        await changed.wait()
        changed.clear()


async def _each_runtime(catalog: Catalog, action: str) -> None:
    calls: list[Any] = [
        getattr(runtime, action)() for model in catalog for runtime in model.replicas.runtimes
    ]
    await asyncio.gather(*calls)
