"""LoRA adapters: how requests name them, how they are listed, and how they reach a runtime."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import openai
import pytest

from inferd.services.config import ConfigError, parse_config
from inferd.services.launch.sglang_command import sglang_command
from inferd.v1 import models_pb2, models_pb2_grpc
from tests.doubles.simulated_http import SimulatedHttpServer
from tests.support.running import Inferd, running_front

ADAPTERS = [{"name": "one", "aliases": ["uno"]}, {"name": "two"}]


def document(**model: Any) -> dict[str, Any]:
    return {"models": [{"id": "small", "path": "org/weights", "adapters": ADAPTERS, **model}]}


@pytest.fixture
async def engine() -> AsyncIterator[SimulatedHttpServer]:
    async with SimulatedHttpServer() as server:
        yield server


@pytest.fixture
async def inferd(engine: SimulatedHttpServer, small_model: Path, queue_url: str) -> AsyncIterator[Inferd]:
    config = parse_config(
        {
            **document(
                aliases=["org/small"],
                path=str(small_model),
                owned_by="tests",
                runtimes=[{"http": engine.url}],
            ),
            "queue": {"url": queue_url},
            "server": {"grpc": "127.0.0.1:0", "rest": "127.0.0.1:0", "grace": 1},
        },
        "tests",
    )
    async with contextlib.AsyncExitStack() as stack:
        yield Inferd(*await stack.enter_async_context(running_front(config)), stack)


@pytest.mark.parametrize(
    ("model", "lora_path", "adapter"),
    [
        ("small", None, None),
        ("small:one", None, "one"),
        ("org/small:two", None, "two"),
        ("uno", None, "one"),
        ("small", "two", "two"),
        ("small", "uno", "one"),
        ("small:one", "one", "one"),
        ("uno", "one", "one"),
        # As a client that fills in every field. It means no adapter.
        ("small", "", None),
    ],
)
async def test_a_request_names_its_adapter(
    inferd: Inferd, engine: SimulatedHttpServer, model: str, lora_path: str | None, adapter: str | None
) -> None:
    extra = {} if lora_path is None else {"extra_body": {"lora_path": lora_path}}
    client = inferd.openai()
    answer = await client.completions.create(model=model, prompt="Hello", max_tokens=3, **extra)
    assert answer.model == model
    messages: Any = [{"role": "user", "content": "Hello"}]
    stream = await client.chat.completions.create(
        model=model, messages=messages, max_tokens=3, stream=True, **extra
    )
    assert {chunk.model async for chunk in stream} == {model}
    assert [request.get("lora_path") for request in engine.requests] == [adapter, adapter]


@pytest.mark.parametrize(
    ("model", "lora_path", "status", "field"),
    [
        ("small:three", None, 404, "model"),
        ("one", None, 404, "model"),
        ("small", "three", 404, "lora_path"),
        ("small", "small", 404, "lora_path"),
        ("small:one", "two", 400, "lora_path"),
        ("uno", "two", 400, "lora_path"),
    ],
)
async def test_an_adapter_that_is_not_there(
    inferd: Inferd, engine: SimulatedHttpServer, model: str, lora_path: str | None, status: int, field: str
) -> None:
    extra = {} if lora_path is None else {"extra_body": {"lora_path": lora_path}}
    with pytest.raises(openai.APIStatusError) as raised:
        await inferd.openai().completions.create(model=model, prompt="Hello", **extra)
    assert (raised.value.status_code, raised.value.param) == (status, field)
    assert (raised.value.code == "model_not_found") == (status == 404)
    assert not engine.requests


async def test_adapters_are_listed_after_their_model(inferd: Inferd) -> None:
    async with inferd.http() as http:
        models = (await http.get("/v1/models")).json()["data"]
        assert [model["id"] for model in models] == ["small", "small:one", "small:two"]
        base, one, _ = models
        assert base["parent"] is None and base["root"]
        assert one["parent"] == one["root"] == "small"
        assert set(one["aliases"]) == {"uno", "org/small:one"}
        assert (one["object"], one["owned_by"]) == ("model", "tests")
        assert one["max_model_len"] == base["max_model_len"]
        for name in ("small:one", "uno", "org/small:one"):
            assert (await http.get(f"/v1/models/{name}")).json() == one
        assert (await http.get("/v1/models/small:three")).status_code == 404
    async with inferd.channel() as channel:
        stub = models_pb2_grpc.ModelServiceStub(channel)
        listed = (await stub.ListModels(models_pb2.ListModelsRequest())).models
        assert [model.parent for model in listed] == ["", "small", "small"]
        assert not listed[0].HasField("parent")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.GetModel(models_pb2.GetModelRequest(model="org/small:none"))
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_queued_job_has_its_adapter(inferd: Inferd, engine: SimulatedHttpServer) -> None:
    async with inferd.http() as http:
        body = {"model": "small:two", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}
        job = await http.post("/queue/chat/completions", json=body, headers={"Prefer": "wait=20"})
        assert job.json()["status"] == "succeeded", job.text
    assert engine.requests[0]["lora_path"] == "two"


@pytest.mark.parametrize(
    ("model", "fault"),
    [
        ({"runtimes": [{"http": "http://h:1"}, {"grpc": "h:2"}]}, "adapters need runtimes"),
        ({"runtimes": [{"launch": {}}]}, "'one' needs a path"),
        ({"adapters": [*ADAPTERS, {"name": "one"}]}, "two models are named 'small:one'"),
        ({"adapters": [{"name": "one", "aliases": ["small"]}]}, "two models are named 'small'"),
        ({"adapters": [{"name": "a:b"}]}, "adapters"),
        ({"adapters": [{"name": "a=b"}]}, "adapters"),
        ({"adapters": [{"name": ""}]}, "adapters"),
    ],
)
def test_a_configuration_that_cannot_work(model: dict[str, Any], fault: str) -> None:
    runtimes = [{"http": "http://h:1"}]
    with pytest.raises(ConfigError, match=fault):
        parse_config(document(**{"runtimes": runtimes, **model}), "tests")


@pytest.mark.parametrize(
    "url",
    ["10.0.0.6:30000", "http://", "ftp://h", "http://h:0", "http://h:x", "http://u:p@h", "http://h/?a=b"],
)
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(ConfigError, match=r"models\[0\]\.runtimes\[0\]\.http"):
        parse_config(document(runtimes=[{"http": url}]), "tests")


def test_what_is_launched_here_loads_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    adapters = {"one": str(tmp_path), "two": "org/two"}
    for accelerator in (None, "NVIDIA"):
        monkeypatch.setattr(
            "inferd.services.launch.sglang_command.find_accelerator", lambda _, is_=accelerator: is_
        )
        command = sglang_command(tmp_path, ["--max-lora-rank", "8"], 1, 2, {}, adapters)
        args = list(command.args)
        place = args.index("--lora-paths")
        assert args[place + 1 : place + 3] == [f"one={tmp_path}", "two=org/two"]
        assert "--enable-lora" in args and "--incremental-streaming-output" in args
        assert "--smg-grpc-mode" not in args
        assert args[-2:] == ["--max-lora-rank", "8"]
        # The kernels of SGLang's own choice need a GPU.
        assert ("--lora-backend" in args) == (accelerator is None)
        # One of the adapters must be fetched.
        assert "HF_HUB_OFFLINE" not in command.environment
