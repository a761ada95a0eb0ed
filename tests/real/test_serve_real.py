"""`inferd serve` with a real SGLang of its own: it restarts SGLang after a crash, and leaves no process."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import openai
import pytest
import yaml

from inferd.services.launch.supervisor import descendants
from tests.support.ports import free_ports

INFERD = Path(sys.executable).with_name("inferd")
LONG = {"model": "tiny", "prompt": "a", "max_tokens": 1900, "extra_body": {"ignore_eos": True}}


@contextlib.asynccontextmanager
async def serving(
    model: Path, folder: Path, **keys: object
) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """A running `inferd serve` of `model`, and its REST port. `keys` are further keys of the model.

    If it runs at the end, it is told to stop: it must exit with 0, and leave no process.
    """
    ports = free_ports(2)
    launch = {"launch": {"args": ["--max-total-tokens", "4096"]}}
    config = folder / "config.yaml"
    document = {
        "models": [{"id": "tiny", "path": str(model), "runtimes": [launch], **keys}],
        "server": {"grpc": f"127.0.0.1:{ports[0]}", "rest": f"127.0.0.1:{ports[1]}", "grace": 2},
        "queue": {"url": f"sqlite:///{folder}/queue.db"},
    }
    config.write_text(yaml.safe_dump(document))
    log = (folder / "inferd.log").open("wb")
    process = await asyncio.create_subprocess_exec(
        INFERD, "serve", "--config", config, stdout=log, stderr=subprocess.STDOUT
    )
    try:
        await health(ports[1], 200)
        yield process, ports[1]
        if process.returncode is None:
            below = descendants(process.pid)
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(30):
                assert await process.wait() == 0
            await gone(below)
    finally:
        log.close()
        if process.returncode is None:
            process.kill()
            await process.wait()


async def health(port: int, status: int, seconds: float = 240) -> None:
    async with asyncio.timeout(seconds), httpx.AsyncClient() as http:
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await http.get(f"http://127.0.0.1:{port}/health")).status_code == status:
                    return
            await asyncio.sleep(0.1)


def named(pids: list[int], name: str) -> int:
    for pid in pids:
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            if name in words[0] or name in words[1:5]:
                return pid
    raise AssertionError(f"no process {name} among {pids}")


async def gone(pids: list[int]) -> None:
    async with asyncio.timeout(20):
        while any(map(alive, pids)):
            await asyncio.sleep(0.05)


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@contextlib.asynccontextmanager
async def client_of(port: int) -> AsyncIterator[openai.AsyncOpenAI]:
    url = f"http://127.0.0.1:{port}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


async def crash(inferd: int, client: openai.AsyncOpenAI, victim: str) -> list[int]:
    """Kill a process of SGLang while it answers two callers, who must both learn of it.

    Returns the ids of the processes below inferd that ran before.
    """
    stream = await client.completions.create(**LONG, stream=True)
    await anext(aiter(stream))
    unary = asyncio.create_task(client.completions.create(**LONG))
    await asyncio.sleep(0.5)
    before = descendants(inferd)
    os.kill(named(before, victim), signal.SIGKILL)
    # Two seconds on a machine with nothing else to do.
    async with asyncio.timeout(20):
        with pytest.raises(openai.APIError, match="runtime") as raised:
            async for _ in stream:
                pass
        assert raised.value.body["type"] == "server_error"
        with pytest.raises(openai.InternalServerError) as raised:
            await unary
        assert raised.value.status_code == 503
    return before


async def test_a_crash_is_told_and_mended_and_kill_9_leaves_no_process(tiny_model_path, tmp_path):
    async with serving(tiny_model_path, tmp_path) as (process, port), client_of(port) as client:
        pids = []
        for victim in ("sglang.launch_server", "sglang::scheduler"):
            pids += await crash(process.pid, client, victim)
            await health(port, 503, 20)
            await health(port, 200)
            answer = await client.completions.create(model="tiny", prompt="a", max_tokens=2)
            assert answer.usage.completion_tokens == 2

        stream = await client.completions.create(**LONG, stream=True)
        await anext(aiter(stream))
        running = descendants(process.pid)
        assert named(running, "sglang::scheduler")
        process.kill()
        await process.wait()
        await gone([*pids, *running])
