"""The http adapter against the real SGLang: the fields that the scheduler protocol does not have."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from inferd.services.errors import ServiceError
from inferd.services.runtimes.http import HttpRuntime
from tests.real.test_runtimes_real import generate, tokens


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
