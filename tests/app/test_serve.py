"""`inferd` as a process, over a simulated runtime: start, signals, workers, errors."""

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

from tests.doubles.simulated_scheduler import SimulatedRuntime, echo
from tests.support.ports import free_ports

INFERD = Path(sys.executable).with_name("inferd")
HELLO = {"model": "small", "messages": [{"role": "user", "content": "Hello world"}], "max_tokens": 20}


@pytest.fixture
async def runtime() -> AsyncIterator[SimulatedRuntime]:
    async with SimulatedRuntime() as server:
        yield server


@pytest.fixture
def write_config(tmp_path, small_model, runtime):
    def write(**server: object) -> tuple[Path, int, int]:
        grpc_port, rest_port = free_ports(2)
        model = {"id": "small", "path": str(small_model), "runtimes": [{"grpc": runtime.address}]}
        addresses = {"grpc": f"127.0.0.1:{grpc_port}", "rest": f"127.0.0.1:{rest_port}"}
        path = tmp_path / "config.yaml"
        queue = {"url": f"sqlite:///{tmp_path}/queue.db"}
        document = {"models": [model], "server": {**addresses, **server}, "queue": queue}
        path.write_text(yaml.safe_dump(document))
        return path, grpc_port, rest_port

    return write


@contextlib.asynccontextmanager
async def inferd(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        INFERD, *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def healthy(port: int) -> None:
    async with asyncio.timeout(120), httpx.AsyncClient() as http:
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await http.get(f"http://127.0.0.1:{port}/health")).status_code == 200:
                    return
            await asyncio.sleep(0.05)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("workers", [1, 2])
async def test_serves_until_it_is_told_to_stop(write_config, workers, runtime):
    config, _, port = write_config(workers=workers, grace=5)
    async with inferd("serve", "--config", str(config)) as process:
        await healthy(port)
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none") as client:
            answer = await client.chat.completions.create(**HELLO)
            assert answer.usage.completion_tokens == 20
            # A stream that runs when the stop comes ends as it should.
            runtime.script = echo(tokens_per_second=20)
            stream = await client.chat.completions.create(**HELLO, stream=True)
            await anext(aiter(stream))
            pids = [process.pid, *children(process.pid)]
            process.send_signal(signal.SIGTERM)
            *_, last = [chunk async for chunk in stream]
            assert last.choices[0].finish_reason == "length"
        async with asyncio.timeout(20):
            output, _ = await process.communicate()
        assert process.returncode == 0, output
        assert b"inferd is ready" in output
        assert b"Traceback" not in output
        assert not any(map(alive, pids))


async def test_calls_that_take_too_long_are_cut_at_the_grace(write_config, runtime):
    runtime.script = echo(tokens_per_second=1)
    config, _, port = write_config(grace=1)
    async with inferd("serve", "--config", str(config)) as process:
        await healthy(port)
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none") as client:
            stream = await client.chat.completions.create(**HELLO, stream=True)
            await anext(aiter(stream))
            process.send_signal(signal.SIGTERM)
            with pytest.raises(openai.APIError, match="stopping"):
                async for _ in stream:
                    pass
        async with asyncio.timeout(20):
            output, _ = await process.communicate()
        assert process.returncode == 0, output
        assert b"Traceback" not in output
    async with asyncio.timeout(5):
        while runtime.running:
            await asyncio.sleep(0.01)


async def test_a_worker_that_dies_is_replaced_and_none_outlives_the_supervisor(write_config):
    config, _, port = write_config(workers=2)
    async with inferd("serve", "--config", str(config)) as process:
        await healthy(port)
        async with asyncio.timeout(60):
            while len(first := children(process.pid)) < 2:
                await asyncio.sleep(0.05)
            os.kill(first[0], signal.SIGKILL)
            while first[0] in (now := children(process.pid)) or len(now) < 2:
                await asyncio.sleep(0.05)
        workers = children(process.pid)
        process.kill()
        await process.wait()
        async with asyncio.timeout(30):
            while any(map(alive, workers)):
                await asyncio.sleep(0.05)


async def test_the_bridge_alone_serves_a_remote_server(write_config):
    config, grpc_port, port = write_config()
    [alone] = free_ports(1)
    async with (
        inferd("serve", "--config", str(config)),
        inferd("bridge", "--target", f"127.0.0.1:{grpc_port}", "--rest", f"127.0.0.1:{alone}") as bridge,
    ):
        await healthy(port)
        await healthy(alone)
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{alone}/v1", api_key="none") as client:
            assert (await client.chat.completions.create(**HELLO)).usage.completion_tokens == 20
        listed = await asyncio.create_subprocess_exec(
            INFERD, "models", "--target", f"127.0.0.1:{grpc_port}", stdout=subprocess.PIPE
        )
        output, _ = await listed.communicate()
        assert b"small" in output
        bridge.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            await bridge.communicate()
        assert bridge.returncode == 0


async def run(*arguments: str) -> str:
    """The output of an inferd that fails."""
    async with inferd(*arguments) as process, asyncio.timeout(60):
        output, _ = await process.communicate()
        assert process.returncode == 1, output
        assert b"Traceback" not in output
        return " ".join(output.decode().split())


async def test_what_cannot_be_served_is_said(write_config, tmp_path):
    config, grpc_port, rest_port = write_config()
    for port, name in ((grpc_port, "gRPC"), (rest_port, "REST")):
        with socket.create_server(("127.0.0.1", port)):
            output = await run("serve", "--config", str(config))
            assert f"127.0.0.1:{port}" in output
            assert name in output
    assert str(tmp_path / "none.yaml") in await run("serve", "--config", str(tmp_path / "none.yaml"))
    assert "config.json" in await run("serve", "--model", str(tmp_path))
    assert "does not answer" in await run("models", "--target", f"127.0.0.1:{grpc_port}")


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({}, "models: Field required"),
        ({"models": []}, "models: List should have at least 1 item"),
        ({"models": [{"id": "a"}]}, "models[0].path: Field required"),
        ({"models": [{"id": "a", "path": "p", "pth": 1}]}, "models[0].pth: Extra inputs are not permitted"),
        ({"models": [{"id": "a", "path": "p", "runtimes": [{"grpc": "x"}]}]}, "models[0].runtimes[0].grpc"),
        (
            {"models": [{"id": "a", "path": "p", "runtimes": [{}]}]},
            "models[0].runtimes[0]: Value error, must have",
        ),
        (
            {"models": [{"id": "a", "path": "p"}, {"id": "b", "aliases": ["a"], "path": "p"}]},
            "two models are named 'a'",
        ),
        ({"models": [{"id": "a", "path": "p"}], "server": {"workers": 0}}, "server.workers: Input should be"),
        (
            {"models": [{"id": "a", "path": "p"}], "server": {"rest": "8000"}},
            "server.rest: Value error, must be HOST",
        ),
        ([1], "must be a mapping"),
    ],
)
async def test_a_configuration_error_names_the_key(tmp_path, document, expected):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(document))
    output = await run("serve", "--config", str(path))
    assert expected in output
    assert str(path) in output.replace(" ", "")


async def test_a_configuration_that_is_no_yaml_is_said(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("models: [")
    assert "is no YAML" in await run("serve", "--config", str(path))
