"""The front's CPU time per streamed token and per unary request, over the simulated runtime.

    python benchmarks/front.py MODEL_FOLDER

Three processes: the simulated runtime, `inferd serve` (the one that is measured, from /proc) and this one,
the load. MODEL_FOLDER gives the tokenizer. Figures are CPU time, since machines are shared; wall time says
nothing.
"""

import asyncio
import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import httpx
import yaml
from inferd.v1 import completion_pb2, completion_pb2_grpc, prompt_pb2

TOKENS = 100
PROMPT = "The quick brown fox jumps over the lazy dog, and then it does so again."
_TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def resident_megabytes(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.asynccontextmanager
async def running(model: str) -> AsyncIterator[tuple[int, int, int]]:
    """Process id, gRPC port and REST port of an inferd over a simulated runtime."""
    runtime_port, grpc_port, rest_port = free_port(), free_port(), free_port()
    config = {
        "models": [{"id": "m", "path": model, "runtimes": [{"grpc": f"127.0.0.1:{runtime_port}"}]}],
        "server": {"grpc": f"127.0.0.1:{grpc_port}", "rest": f"127.0.0.1:{rest_port}", "grace": 1},
    }
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(config, file)
        file.flush()
        simulated = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "services.runtimes.simulated", "--port", str(runtime_port)),
            stdout=subprocess.DEVNULL,
        )
        inferd = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("inferd"),
            *("serve", "--config", file.name),
            stdout=subprocess.DEVNULL,
        )
        try:
            async with httpx.AsyncClient() as client, asyncio.timeout(60):
                while True:
                    with contextlib.suppress(httpx.TransportError):
                        if (await client.get(f"http://127.0.0.1:{rest_port}/health")).status_code == 200:
                            break
                    await asyncio.sleep(0.1)
            yield inferd.pid, grpc_port, rest_port
        finally:
            for process in (inferd, simulated):
                process.terminate()
                await process.wait()


async def measure(
    pid: int, name: str, streams: int, rounds: int, call: Callable[[], Awaitable[None]], tokens: int
) -> None:
    """Print the CPU time of `streams` calls at once, `rounds` times over: per token, or per call."""
    await asyncio.gather(*(call() for _ in range(streams)))
    before = cpu_seconds(pid)
    for _ in range(rounds):
        await asyncio.gather(*(call() for _ in range(streams)))
    each = (cpu_seconds(pid) - before) / (rounds * streams * (tokens or 1)) * 1e6
    unit = "µs a token" if tokens else "µs a call"
    print(f"{name:32} {streams:4} at once  {each:8.1f} {unit}   RSS {resident_megabytes(pid):.0f} MB")


async def main(model: str) -> None:
    async with running(model) as (pid, grpc_port, rest_port):
        limits = httpx.Limits(max_connections=None)
        body = {"model": "m", "prompt": PROMPT, "max_tokens": TOKENS, "ignore_eos": True}
        request = completion_pb2.CreateCompletionRequest(
            model="m", prompt=[prompt_pb2.Prompt(text=PROMPT)], max_tokens=TOKENS, ignore_eos=True
        )
        async with (
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{rest_port}", timeout=120, limits=limits) as http,
            grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel,
        ):
            stub = completion_pb2_grpc.CompletionServiceStub(channel)

            async def rest_stream() -> None:
                async with http.stream("POST", "/v1/completions", json={**body, "stream": True}) as response:
                    async for _ in response.aiter_raw():
                        pass

            async def grpc_stream() -> None:
                async for _ in stub.StreamCompletion(request):
                    pass

            async def rest_unary() -> None:
                await http.post("/v1/completions", json={**body, "max_tokens": 10})

            for streams, rounds in ((1, 40), (32, 8), (256, 1)):
                await measure(pid, "REST stream of 100 tokens", streams, rounds, rest_stream, TOKENS)
                await measure(pid, "gRPC stream of 100 tokens", streams, rounds, grpc_stream, TOKENS)
            await measure(pid, "REST unary, 10 tokens", 32, 20, rest_unary, 0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
