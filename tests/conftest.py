"""Fixtures for most tests: a whole inferd over a simulated runtime, on real sockets."""

import contextlib
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from inferd.services.config import Config, parse_config
from inferd.services.text.model_text import ModelText
from tests.doubles.simulated_scheduler import SimulatedRuntime
from tests.support.running import Inferd, running_bridge, running_front
from tests.support.small_model import write_small_model

ROOT = Path(__file__).parents[1]

# No test asserts on time: on a busy machine an example may take long.
settings.register_profile("tests", deadline=None)
settings.register_profile("coverage", deadline=None, max_examples=20)
settings.load_profile("tests")


def pytest_configure() -> None:
    """Refuse to run with compiled modules that are older than their sources."""
    for package in ("services", "rest_bridge"):
        for compiled in (ROOT / package).rglob("*.so"):
            source = compiled.with_name(compiled.name.partition(".")[0]).with_suffix(".py")
            sources = (source, source.with_suffix(".pxd"))
            made = compiled.stat().st_mtime
            if not all(path.exists() and path.stat().st_mtime <= made for path in sources):
                pytest.exit(
                    f"{source.relative_to(ROOT)} changed since it was compiled: scripts/install dev", 4
                )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        from tests.support.side_by_side import slowest_first

        slowest_first(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    from tests.support.side_by_side import FileScheduling

    return FileScheduling(config, log)


@dataclass
class Simulation(Inferd):
    """An inferd, and the simulated runtime behind it."""

    runtime: SimulatedRuntime


@pytest.fixture(scope="session")
def small_model(tmp_path_factory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("small-model"))


@pytest.fixture(scope="session")
def small_text(small_model) -> ModelText:
    return ModelText.load(small_model)


@pytest.fixture
def queue_url(tmp_path) -> str:
    """The URL of the queue's database: a SQLite file. Tests of the queue override this fixture."""
    return f"sqlite:///{tmp_path}/queue.db"


@pytest.fixture
def make_config(small_model, queue_url) -> Callable[..., Config]:
    """Makes a configuration of the small model at given runtime addresses; `server` keys as given, and
    those of `queue` and of the `model`."""

    def make(
        *addresses: str,
        queue: dict[str, object] | None = None,
        model: dict[str, object] | None = None,
        **server: object,
    ) -> Config:
        return parse_config(
            {
                "models": [
                    {
                        "id": "small",
                        "aliases": ["org/small"],
                        "path": str(small_model),
                        "owned_by": "tests",
                        "runtimes": [{"grpc": address} for address in addresses],
                        **(model or {}),
                    }
                ],
                "queue": {"url": queue_url, **(queue or {})},
                "server": {"grpc": "127.0.0.1:0", "rest": "127.0.0.1:0", "grace": 1, **server},
            },
            "tests",
        )

    return make


@pytest.fixture(params=["in process", "over a channel"])
def transport(request) -> str:
    """The way from the bridge to the services."""
    return request.param


@pytest.fixture
async def start_inferd(make_config, small_text, transport) -> AsyncIterator[Callable[..., object]]:
    """Starts an inferd over a simulated runtime with a script; all of it ends with the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(script=None, **server: object) -> Simulation:
            runtime = SimulatedRuntime(
                script,
                decode=lambda ids: small_text.tokenizer.decode(ids, skip_special_tokens=False),
                eos_token_id=2,
            )
            await stack.enter_async_context(runtime)
            config = make_config(runtime.address, **server)
            grpc_port, rest_port = await stack.enter_async_context(running_front(config))
            if transport == "over a channel":
                rest_port = await stack.enter_async_context(running_bridge(grpc_port, config))
            return Simulation(grpc_port, rest_port, stack, runtime)

        yield start
