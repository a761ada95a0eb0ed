"""The http adapter against a real SGLang that dies."""

import asyncio
import os
import signal
from pathlib import Path

import grpc
import pytest

from inferd.services.errors import ServiceError
from inferd.services.launch.supervisor import descendants
from tests.real.http_engine import running_http_engine
from tests.real.test_http_runtime_real import serving
from tests.real.test_runtimes_real import PROMPT, generate


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
            while (await runtime._query(b"/v1/loads"))["loads"][0]["num_running_reqs"] < 2:
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
