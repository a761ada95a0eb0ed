"""What messages of the contract hold over gRPC, and how the same is spelled over REST."""

import contextlib

import pytest

from inferd.v1 import (
    chat_pb2,
    chat_pb2_grpc,
    completion_pb2,
    completion_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    queue_pb2,
    queue_pb2_grpc,
    tokenize_pb2,
    tokenize_pb2_grpc,
)
from tests.doubles.simulated_scheduler import SimulatedRuntime, fixed
from tests.support.running import Inferd, running_front

#: Of gRPC's prefix of a message (5 bytes), and of the header of an HTTP/2 frame (9).
FRAMING = 14
MOST_BYTES = 30


def hello(**fields) -> chat_pb2.CreateChatCompletionRequest:
    request = chat_pb2.CreateChatCompletionRequest(model="small", max_tokens=6, **fields)
    request.messages.add(role="ROLE_USER").content.add(text="Hello")
    return request


async def test_a_chunk_has_what_is_new(start_inferd, small_text):
    ids = small_text.tokenizer.encode("one token after another", add_special_tokens=False)
    inferd = await start_inferd(fixed(ids, tokens_per_second=200))
    async with inferd.channel() as channel:
        chat = chat_pb2_grpc.ChatServiceStub(channel)
        first, *others, _ = [
            chunk async for chunk in chat.StreamChatCompletion(hello(max_completion_tokens=20))
        ]
        assert first.id.startswith("chatcmpl-")
        assert (first.model, first.create_time.seconds > 0) == ("small", True)
        assert others
        for chunk in others:
            assert not (chunk.id or chunk.model or chunk.HasField("create_time"))
            text = chunk.choices[0].delta.content
            assert chunk.ByteSize() - len(text.encode()) + 6 + FRAMING <= MOST_BYTES
        completion = completion_pb2_grpc.CompletionServiceStub(channel)
        request = completion_pb2.CreateCompletionRequest(
            model="small", prompt=[{"text": "Hi"}], max_tokens=20
        )
        first, *others, _ = [chunk async for chunk in completion.StreamCompletion(request)]
        assert first.id.startswith("cmpl-")
        for chunk in others:
            assert not (chunk.id or chunk.model or chunk.HasField("create_time"))
            assert chunk.ByteSize() - len(chunk.choices[0].text.encode()) + 6 + FRAMING <= MOST_BYTES


async def test_models_come_in_pages(make_config):
    runtime = SimulatedRuntime()
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(runtime)
        config = make_config(runtime.address)
        [model] = config.models
        names = [f"m{number}" for number in range(4)]
        more = [model.model_copy(update={"id": name, "aliases": []}) for name in names]
        config = config.model_copy(update={"models": [model, *more]})
        ports = await stack.enter_async_context(running_front(config))
        inferd = Inferd(*ports, stack)
        channel = await stack.enter_async_context(inferd.channel())
        http = await stack.enter_async_context(inferd.http())
        stub = models_pb2_grpc.ModelServiceStub(channel)
        everything = await stub.ListModels(models_pb2.ListModelsRequest())
        assert len(everything.models) == 5 and not everything.HasField("next_page_token")
        found, token = [], ""
        while True:
            page = await stub.ListModels(models_pb2.ListModelsRequest(page_size=2, page_token=token))
            found += page.models
            if not page.HasField("next_page_token"):
                break
            assert len(page.models) == 2
            token = page.next_page_token
        assert found == list(everything.models)
        whole = (await http.get("/v1/models")).json()
        assert "next_page_token" not in whole
        part = (await http.get("/v1/models?limit=2")).json()
        assert part["data"] == whole["data"][:2]
        rest = (await http.get("/v1/models", params={"page_token": part["next_page_token"]})).json()
        assert rest["data"] == whole["data"][2:]


async def test_a_basic_view_of_a_job_has_no_completion(start_inferd):
    inferd = await start_inferd()
    async with inferd.channel() as channel, inferd.http() as http:
        stub = queue_pb2_grpc.QueueServiceStub(channel)
        job = await stub.Enqueue(queue_pb2.EnqueueRequest(request=hello(), wait={"seconds": 30}))
        assert job.HasField("completion")
        for view, whole in (("JOB_VIEW_BASIC", False), ("JOB_VIEW_FULL", True), (None, True)):
            request = queue_pb2.GetJobRequest(id=job.id, view=view)
            assert (await stub.GetJob(request)).HasField("completion") is whole
            [listed] = (await stub.ListJobs(queue_pb2.ListJobsRequest(view=view))).jobs
            assert listed.HasField("completion") is whole
        path = f"/queue/chat/completions/{job.id}"
        assert (await http.get(path)).json()["choices"]
        basic = (await http.get(f"{path}?view=basic")).json()
        assert (basic["choices"], basic["status"]) == ([], "succeeded")


@pytest.mark.parametrize("name", ["priority", "runtime_priority"])
async def test_the_runtime_s_priority_has_a_name_of_its_own(start_inferd, name):
    inferd = await start_inferd()
    async with inferd.http() as http:
        body = {
            "model": "small",
            "messages": [{"role": "user", "content": "Hello"}],
            "max_tokens": 2,
            name: 3,
        }
        answer = await http.post("/v1/chat/completions", json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "priority")
        job = (await http.post("/queue/chat/completions", json=body)).json()
        if name == "priority":
            assert job["priority"] == 3
        else:
            assert job["error"]["param"] == "runtime_priority"


async def test_a_count_takes_the_whole_request(start_inferd):
    inferd = await start_inferd()
    async with inferd.channel() as channel:
        tokens = tokenize_pb2_grpc.TokenizeServiceStub(channel)
        chat = chat_pb2_grpc.ChatServiceStub(channel)
        request = hello(temperature=0.5, stop=["x"])
        answer = await chat.CreateChatCompletion(request)
        count = await tokens.CountTokens(tokenize_pb2.CountTokensRequest(chat=request))
        assert count.total_tokens == answer.usage.prompt_tokens
        found = await tokens.Tokenize(tokenize_pb2.TokenizeRequest(chat=request))
        assert found.count == count.total_tokens
