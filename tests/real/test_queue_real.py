"""The queue over a real SGLang: same answers as a call's, cancellation in the engine, and full engines."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import openai
import pytest
from smg_grpc_proto import sglang_scheduler_pb2 as scheduler_pb2
from smg_grpc_proto import sglang_scheduler_pb2_grpc as scheduler_pb2_grpc

from inferd.services.config import Config, parse_config
from tests.support.running import Inferd, running_front

FRANCE = {
    "model": "smollm2",
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "max_tokens": 32,
    "temperature": 0,
}
LONG = {**FRANCE, "max_tokens": 1500, "extra_body": {"ignore_eos": True}}


def config_of(path, address: str, url: str, **queue: object) -> Config:
    model = {"id": "smollm2", "path": str(path), "runtimes": [{"grpc": address}]}
    server = {"grpc": "127.0.0.1:0", "rest": "127.0.0.1:0", "grace": 1}
    return parse_config({"models": [model], "server": server, "queue": {"url": url, **queue}}, "tests")


@pytest.fixture
async def smollm2(smollm2_path, smollm2_address, tmp_path) -> AsyncIterator[Inferd]:
    config = config_of(smollm2_path, smollm2_address, f"sqlite:///{tmp_path}/queue.db")
    async with contextlib.AsyncExitStack() as stack:
        yield Inferd(*await stack.enter_async_context(running_front(config)), stack)


@pytest.fixture
async def queue(smollm2) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{smollm2.url}/queue", api_key="none") as client:
        yield client


async def load(address: str) -> scheduler_pb2.SchedulerLoad:
    """What the engine says of its load."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = scheduler_pb2_grpc.SglangSchedulerStub(channel)
        return (await stub.GetLoads(scheduler_pb2.GetLoadsRequest(include=["core"]))).loads[0]


async def ended(client: openai.AsyncOpenAI, job_id: str):
    async with asyncio.timeout(300):
        while True:
            job = await client.chat.completions.retrieve(job_id)
            if job.status not in ("queued", "running"):
                return job
            await asyncio.sleep(0.1)


async def test_a_job_is_answered_as_a_call_is(smollm2, queue):
    at_once = await smollm2.openai().chat.completions.create(**FRANCE)
    job = await queue.chat.completions.create(**FRANCE)
    assert (job.status, job.choices) == ("queued", [])
    done = await ended(queue, job.id)
    assert done.status == "succeeded"
    assert done.choices[0].message.content == at_once.choices[0].message.content
    assert "Paris" in done.choices[0].message.content
    assert done.usage.completion_tokens == at_once.usage.completion_tokens
    stream = await queue.chat.completions.create(**FRANCE, stream=True)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == at_once.choices[0].message.content


async def test_a_cancelled_job_ends_in_the_engine(smollm2, queue, smollm2_address):
    job = await queue.chat.completions.create(**LONG)
    async with smollm2.http() as http, asyncio.timeout(120):
        while (await load(smollm2_address)).num_running_reqs != 1:
            await asyncio.sleep(0.1)
        cancelled = await http.post(f"/queue/chat/completions/{job.id}/cancel")
        assert cancelled.json()["status"] == "cancelled"
        while (await load(smollm2_address)).num_running_reqs:
            await asyncio.sleep(0.1)
        assert (await http.post(f"/queue/chat/completions/{job.id}/cancel")).status_code == 409


async def test_an_interrupted_job_runs_again_in_another_process(smollm2_path, smollm2_address, tmp_path):
    config = config_of(smollm2_path, smollm2_address, f"sqlite:///{tmp_path}/queue.db")
    async with running_front(config) as (_, rest):
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{rest}/queue", api_key="none") as client:
            job = await client.chat.completions.create(
                **{**FRANCE, "max_tokens": 200}, extra_body={"ignore_eos": True}
            )
    async with running_front(config) as (_, rest):
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{rest}/queue", api_key="none") as client:
            done = await ended(client, job.id)
    assert (done.status, done.usage.completion_tokens) == ("succeeded", 200)


async def test_a_call_gets_past_queued_jobs_in_a_full_engine(smollm2_path, smollm2_address, tmp_path):
    # The tests' engine works on 32 requests at once: more jobs than that fill it.
    url = f"sqlite:///{tmp_path}/queue.db"
    config = config_of(smollm2_path, smollm2_address, url, running_limit=40, running_limit_per_model=40)
    async with running_front(config) as (_, rest):
        base = f"http://127.0.0.1:{rest}"
        async with (
            openai.AsyncOpenAI(base_url=f"{base}/queue", api_key="none") as queue,
            openai.AsyncOpenAI(base_url=f"{base}/v1", api_key="none") as client,
        ):
            jobs = [await queue.chat.completions.create(**{**LONG, "max_tokens": 200}) for _ in range(40)]
            try:
                async with asyncio.timeout(300):
                    while not (await load(smollm2_address)).num_waiting_reqs:
                        await asyncio.sleep(0.1)
                    answer = await client.chat.completions.create(**FRANCE)
                assert "Paris" in answer.choices[0].message.content
                states = [(await queue.chat.completions.retrieve(job.id)).status for job in jobs]
                # It came last, and was answered before all of those that came before.
                assert set(states) == {"queued", "running"}
            finally:
                for job in jobs:
                    await queue.chat.completions.delete(job.id)
