"""`inferd serve` with a real SGLang of its own: it comes back from a crash, and leaves nothing behind."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import openai
import pytest
import yaml
from inferd.services.launch.supervisor import descendants

INFERD = Path(sys.executable).with_name("inferd")
LONG = {"model": "tiny", "prompt": "a", "max_tokens": 1900, "extra_body": {"ignore_eos": True}}


@contextlib.asynccontextmanager
async def serving(
    model: Path, folder: Path, **keys: object
) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """A running `inferd serve` of `model`, and its REST port; killed at the end, if it still runs. `keys` are
    further ones of the model."""
    ports = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ports.append(listener.getsockname()[1])
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


@pytest.mark.parametrize("victim", ["sglang.launch_server", "sglang::scheduler"])
async def test_a_crash_of_sglang_is_told_and_mended(tiny_model_path, tmp_path, victim):
    async with serving(tiny_model_path, tmp_path) as (process, port):
        async with openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0
        ) as client:
            stream = await client.completions.create(**LONG, stream=True)
            await anext(aiter(stream))
            unary = asyncio.create_task(client.completions.create(**LONG))
            await asyncio.sleep(0.5)
            first = descendants(process.pid)
            os.kill(named(first, victim), signal.SIGKILL)
            # Two seconds on a machine with nothing else to do.
            async with asyncio.timeout(10):
                with pytest.raises(openai.APIError, match="runtime") as raised:
                    async for _ in stream:
                        pass
                assert raised.value.body["type"] == "server_error"
                with pytest.raises(openai.InternalServerError) as raised:
                    await unary
                assert raised.value.status_code == 503
            await health(port, 503, 20)
            await health(port, 200)
            answer = await client.completions.create(model="tiny", prompt="a", max_tokens=2)
            assert answer.usage.completion_tokens == 2
        second = descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            assert await process.wait() == 0
        await gone([*first, *second])


async def test_kill_9_under_load_leaves_no_process(tiny_model_path, tmp_path):
    async with serving(tiny_model_path, tmp_path) as (process, port):
        async with openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0
        ) as client:
            stream = await client.completions.create(**LONG, stream=True)
            await anext(aiter(stream))
            pids = descendants(process.pid)
            assert named(pids, "sglang::scheduler")
            process.kill()
            await process.wait()
            await gone(pids)
