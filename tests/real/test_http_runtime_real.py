"""The http adapter against the real SGLang: what the scheduler protocol has not, and an engine that dies."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from inferd.services.errors import ServiceError
from inferd.services.launch.supervisor import descendants
from inferd.services.runtimes.http import HttpRuntime

from tests.real.http_engine import running_http_engine
from tests.real.test_runtimes_real import PROMPT, generate, tokens


async def serving(url: str) -> HttpRuntime:
    """A started runtime, once it serves: it knows then what the engine has."""
    runtime = HttpRuntime(url)
    await runtime.start()
    async with asyncio.timeout(30):
        while not runtime.serving:
            await asyncio.sleep(0.05)
    return runtime


@pytest.fixture
async def runtime(sglang_url: str) -> AsyncIterator[HttpRuntime]:
    runtime = await serving(sglang_url)
    yield runtime
    await runtime.close()


async def test_what_the_engine_lacks_is_known(sglang_cumulative_url: str, runtime: HttpRuntime) -> None:
    """A seed needs --enable-deterministic-inference, which SGLang refuses with a CPU's attention."""
    assert runtime.unsupported == {"seed"}
    plain = await serving(sglang_cumulative_url)
    assert plain.unsupported == {"seed", "priority"}
    assert plain.media == runtime.media == frozenset()
    await plain.close()


async def test_fields_of_its_own_are_taken(runtime: HttpRuntime) -> None:
    deltas = await generate(
        runtime, priority=3, seed=7, cache_salt="tenant", extra_key="class", ignore_eos=True
    )
    assert len(tokens(deltas)) == 6


async def test_a_cache_salt_keeps_prefixes_apart(runtime: HttpRuntime) -> None:
    prompt = tuple(range(700, 764))
    cached = []
    for salt in ("a", "a", "b"):
        (delta,) = await generate(runtime, False, token_ids=prompt, cache_salt=salt, ignore_eos=True)
        cached.append(delta.cached_tokens)
    assert cached[1] > 0
    assert cached[0] == cached[2] == 0


async def test_an_adapter_that_is_not_loaded(runtime: HttpRuntime) -> None:
    with pytest.raises(ServiceError) as caught:
        await generate(runtime, adapter="unknown")
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.UNAVAILABLE, "ADAPTER_NOT_LOADED")


@pytest.mark.parametrize("whole", [False, True], ids=["its scheduler", "all of it"])
async def test_an_engine_that_dies_ends_its_calls(tiny_model_path: Path, tmp_path: Path, whole: bool) -> None:
    arguments = ("--max-total-tokens", "4096", "--incremental-streaming-output")
    with running_http_engine(tiny_model_path, tmp_path / "log", *arguments) as engine:
        runtime = await serving(engine.url)
        calls = [
            asyncio.create_task(
                generate(runtime, stream, token_ids=PROMPT, max_new_tokens=1800, ignore_eos=True)
            )
            for stream in (True, False)
        ]
        async with asyncio.timeout(30):
            while (await runtime._ask(b"/v1/loads"))["loads"][0]["num_running_reqs"] < 2:
                await asyncio.sleep(0.02)
        below = descendants(engine.process.pid)
        victims = [pid for pid in below if whole or "sglang::scheduler" in command_line(pid)]
        assert victims
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(30):
            for call in calls:
                with pytest.raises(ServiceError) as caught:
                    await call
                assert caught.value.code is grpc.StatusCode.UNAVAILABLE
            while runtime.serving:
                await asyncio.sleep(0.05)
        with pytest.raises(ServiceError) as caught:
            await generate(runtime)
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE
        await runtime.close()


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
