"""Runs inferd in the process of a test: all of it, or the bridge alone in front of a gRPC server."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import httpx
import openai

from inferd.rest_bridge.standalone import run_bridge
from inferd.services.app.server_process import run_server_process
from inferd.services.app.service_descriptors import SERVICES
from inferd.services.config import Config

#: Each HTTP client would else read the certificates of all authorities anew, though no test needs them.
_TLS = ssl.create_default_context()


@dataclass
class Inferd:
    """A running front: its gRPC port, its REST port, and clients of them."""

    grpc_port: int
    rest_port: int
    stack: contextlib.AsyncExitStack

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.rest_port}"

    def channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(f"127.0.0.1:{self.grpc_port}")

    def http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, timeout=60, verify=_TLS)

    def openai(self) -> openai.AsyncOpenAI:
        client = openai.AsyncOpenAI(
            base_url=f"{self.url}/v1",
            api_key="none",
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(verify=_TLS),
        )
        self.stack.push_async_callback(client.close)
        return client


@contextlib.asynccontextmanager
async def running_front(config: Config) -> AsyncIterator[tuple[int, int]]:
    """`run_server_process` until the context is left; its ports, once it serves."""
    stop, serving = asyncio.Event(), asyncio.Event()
    ports: list[int] = []
    front = asyncio.create_task(
        run_server_process(
            config,
            stop,
            on_serving=lambda healthy: serving.set() if healthy else None,
            on_listening=lambda *found: ports.extend(found),
        )
    )
    waiting = asyncio.create_task(serving.wait())
    await asyncio.wait([front, waiting], return_when=asyncio.FIRST_COMPLETED)
    if front.done():
        front.result()
    yield ports[0], ports[1]
    stop.set()
    await front


@contextlib.asynccontextmanager
async def running_bridge(grpc_port: int, config: Config) -> AsyncIterator[int]:
    """`run_bridge` in front of a gRPC server until the context is left; its port."""
    stop = asyncio.Event()
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    bridge = asyncio.create_task(
        run_bridge(
            SERVICES,
            f"127.0.0.1:{grpc_port}",
            ("127.0.0.1", 0),
            stop,
            max_body_bytes=config.server.max_body_bytes,
            keep_alive_seconds=config.server.keep_alive,
            grace_seconds=1,
            on_listening=port.set_result,
        )
    )
    yield await port
    stop.set()
    await bridge
