"""Calls come before queued jobs, also if the engine is full."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from inferd.v1 import chat_pb2, chat_pb2_grpc, message_pb2, queue_pb2, queue_pb2_grpc
from tests.doubles.simulated_scheduler import Reply, SimulatedRuntime
from tests.support.running import Inferd, running_front


def conversation(text: str) -> chat_pb2.CreateChatCompletionRequest:
    message = message_pb2.Message(role=message_pb2.ROLE_USER, content=[message_pb2.ContentPart(text=text)])
    return chat_pb2.CreateChatCompletionRequest(model="small", messages=[message], max_tokens=8)


@pytest.fixture
async def engine(small_text) -> AsyncIterator[SimulatedRuntime]:
    """Works on two requests at once. A job never ends by itself, a call at once."""

    def script(request) -> Reply:
        text = small_text.tokenizer.decode(request.tokenized.input_ids, skip_special_tokens=True)
        return Reply((5, 6, 2), first_token_delay=3600 if "queued" in text else 0)

    async with SimulatedRuntime(script, eos_token_id=2, max_running=2) as runtime:
        yield runtime


@pytest.fixture
async def inferd(engine, make_config) -> AsyncIterator[Inferd]:
    async with contextlib.AsyncExitStack() as stack:
        ports = await stack.enter_async_context(running_front(make_config(engine.address)))
        yield Inferd(*ports, stack)


async def test_a_call_that_waits_in_the_engine_is_let_through(inferd, engine):
    async with inferd.channel() as channel, asyncio.timeout(60):
        queue = queue_pb2_grpc.QueueServiceStub(channel)
        chat = chat_pb2_grpc.ChatServiceStub(channel)
        jobs = [
            await queue.Enqueue(queue_pb2.EnqueueRequest(request=conversation(f"queued {number}")))
            for number in range(6)
        ]
        while engine.running + engine.waiting < 6:
            await asyncio.sleep(0.01)
        # No job ends, so no job would make room.
        answer = await chat.CreateChatCompletion(conversation("a call"))
        assert answer.choices[0].finish_reason
        found = [await queue.GetJob(queue_pb2.GetJobRequest(id=job.id)) for job in jobs]
        assert [job.attempts - (job.state == queue_pb2.JOB_STATE_RUNNING) for job in found] == [0] * 6
        assert [job.lost_attempts for job in found] == [0] * 6
        # The oldest keeps its place.
        assert found[0].state == queue_pb2.JOB_STATE_RUNNING


async def test_jobs_that_gave_way_run_again(inferd, engine):
    async with inferd.channel() as channel, asyncio.timeout(60):
        queue = queue_pb2_grpc.QueueServiceStub(channel)
        chat = chat_pb2_grpc.ChatServiceStub(channel)
        for number in range(4):
            await queue.Enqueue(queue_pb2.EnqueueRequest(request=conversation(f"queued {number}")))
        while engine.running + engine.waiting < 4:
            await asyncio.sleep(0.01)
        await chat.CreateChatCompletion(conversation("a call"))
        # As many as the engine takes, and no more than one that waits there.
        while engine.running < 2:
            await asyncio.sleep(0.01)


async def test_a_job_that_somebody_follows_does_not_give_way(inferd, engine):
    async with inferd.channel() as channel, asyncio.timeout(60):
        queue = queue_pb2_grpc.QueueServiceStub(channel)
        chat = chat_pb2_grpc.ChatServiceStub(channel)
        first = await queue.Enqueue(queue_pb2.EnqueueRequest(request=conversation("queued 1")))
        second = queue.EnqueueAndWatch(queue_pb2.EnqueueRequest(request=conversation("queued 2")))
        while engine.running < 2:
            await asyncio.sleep(0.01)
        followed = [await anext(aiter(second))]
        while followed[-1].job.state != queue_pb2.JOB_STATE_RUNNING:
            followed.append(await anext(aiter(second)))
        await chat.CreateChatCompletion(conversation("a call"))
        kept = await queue.GetJob(queue_pb2.GetJobRequest(id=followed[0].job.id))
        assert (kept.state, kept.attempts) == (queue_pb2.JOB_STATE_RUNNING, 1)
        assert (await queue.GetJob(queue_pb2.GetJobRequest(id=first.id))).lost_attempts == 0
