"""An inferd over the scripted model, and the results of the programs of this folder."""

import asyncio
import contextlib
import functools
import json
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from smg_grpc_proto import sglang_scheduler_pb2 as scheduler_pb2

from inferd.services.config import Config, parse_config
from inferd.services.text.model_text import ModelText
from tests.doubles.simulated_scheduler import SimulatedRuntime
from tests.interop.scripted_model import END, scripted_model
from tests.support.clients import run_program
from tests.support.running import running_bridge, running_front
from tests.support.small_model import write_small_model

#: The prompts have tools in them, and each character is a token or so.
_CONTEXT = 16384


@dataclass(frozen=True)
class Seen:
    """What a program saw, by topic; the requests that reached the runtime; how many of them were cancelled
    there, and how many ran on long after."""

    topics: dict[str, Any] = field(repr=False)
    requests: list[scheduler_pb2.GenerateRequest] = field(repr=False)
    cancelled: int
    left: int

    def __getitem__(self, topic: str) -> Any:
        seen = self.topics[topic]
        assert not (isinstance(seen, dict) and "raised" in seen), seen["raised"]
        return seen


@dataclass(frozen=True)
class ScriptedModel:
    """The files of the small model, and their text side."""

    path: Path
    text: ModelText

    @contextlib.asynccontextmanager
    async def served(
        self, folder: Path, *, bridge_alone: bool
    ) -> AsyncIterator[tuple[str, SimulatedRuntime]]:
        """An inferd over a runtime that speaks for it: its URL, and the runtime. The queue is in `folder`."""
        tokenizer = self.text.tokenizer
        runtime = SimulatedRuntime(
            scripted_model(tokenizer),
            decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=False),
            eos_token_id=END,
        )
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(runtime)
            config = _config(self.path, runtime.address, folder)
            grpc_port, rest_port = await stack.enter_async_context(running_front(config))
            if bridge_alone:
                rest_port = await stack.enter_async_context(running_bridge(grpc_port, config))
            yield f"http://127.0.0.1:{rest_port}", runtime


@pytest.fixture(scope="session")
def scripted(tmp_path_factory) -> ScriptedModel:
    path = write_small_model(tmp_path_factory.mktemp("scripted-model"))
    config_file = path / "config.json"
    document = json.loads(config_file.read_text())
    config_file.write_text(json.dumps({**document, "max_position_embeddings": _CONTEXT}))
    return ScriptedModel(path, ModelText.load(path))


@pytest.fixture(scope="module")
def scripted_url(scripted, tmp_path_factory) -> Iterator[str]:
    """The URL of an inferd over the scripted model, which runs in a thread of its own."""
    urls: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    loop = asyncio.new_event_loop()
    is_done = asyncio.Event()

    async def serve() -> None:
        try:
            async with scripted.served(tmp_path_factory.mktemp("queue"), bridge_alone=False) as (url, _):
                urls.put(url)
                await is_done.wait()
        finally:
            urls.put(None)

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        url = urls.get()
        assert url is not None, "the server did not start"
        yield url
    finally:
        loop.call_soon_threadsafe(is_done.set)
        thread.join()
        loop.close()


@pytest.fixture(scope="session")
def seen_by(scripted, tmp_path_factory) -> Callable[..., Seen]:
    """Runs a program of this folder once for each transport of the bridge. Returns its results."""

    async def run(program: str, bridge_alone: bool) -> Seen:
        folder = tmp_path_factory.mktemp("queue")
        async with scripted.served(folder, bridge_alone=bridge_alone) as (url, runtime):
            topics = await run_program(program, url)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(20):
                    while runtime.running:
                        await asyncio.sleep(0.01)
            return Seen(topics, list(runtime.requests), runtime.cancelled, runtime.running)

    @functools.cache
    def see(program: str, *, bridge_alone: bool = False) -> Seen:
        return asyncio.run(run(program, bridge_alone))

    return see


def _config(path: Path, address: str, folder: Path) -> Config:
    model = {
        "id": "small",
        "aliases": ["org/small"],
        "path": str(path),
        "owned_by": "tests",
        "tool_call_parser": "hermes",
        "reasoning_parser": "qwen3",
        "runtimes": [{"grpc": address}],
    }
    server = {"grpc": "127.0.0.1:0", "rest": "127.0.0.1:0", "grace": 1}
    queue = {"url": f"sqlite:///{folder}/queue.db"}
    return parse_config({"models": [model], "queue": queue, "server": server}, "tests")
