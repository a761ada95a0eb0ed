"""Chat and text completion on a real SGLang: the official SDK over REST, and the same requests over gRPC."""

import asyncio
import contextlib
import json
import re
from pathlib import Path

import grpc
import openai
import pytest
from smg_grpc_proto import sglang_scheduler_pb2 as scheduler_pb2
from smg_grpc_proto import sglang_scheduler_pb2_grpc as scheduler_pb2_grpc

from inferd.services.config import Config, parse_config
from inferd.v1 import chat_pb2, chat_pb2_grpc, message_pb2
from tests.support.running import Inferd, running_bridge, running_front

FRANCE = {
    "model": "smollm2",
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "max_tokens": 24,
    "temperature": 0,
}


def config_of(path, address: str, folder: Path) -> Config:
    model = {"id": "smollm2", "aliases": ["org/smol"], "path": str(path), "runtimes": [{"grpc": address}]}
    server = {"grpc": "127.0.0.1:0", "rest": "127.0.0.1:0", "grace": 1}
    queue = {"url": f"sqlite:///{folder}/queue.db"}
    return parse_config({"models": [model], "server": server, "queue": queue}, "tests")


@pytest.fixture
async def start(request, tmp_path):
    """Starts inferd on a runtime's address; ends it with the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def run(path, address: str, *, alone: bool = False) -> Inferd:
            config = config_of(path, address, tmp_path)
            grpc_port, rest_port = await stack.enter_async_context(running_front(config))
            if alone:
                rest_port = await stack.enter_async_context(running_bridge(grpc_port, config))
            return Inferd(grpc_port, rest_port, stack)

        yield run


@pytest.fixture(params=[False, True], ids=["in process", "over a channel"])
async def smollm2(start, request, smollm2_path, smollm2_address) -> Inferd:
    return await start(smollm2_path, smollm2_address, alone=request.param)


@pytest.fixture
async def tiny(start, tiny_model_path, sglang_address) -> Inferd:
    return await start(tiny_model_path, sglang_address)


async def test_chat_answers_whole_streamed_and_over_grpc_alike(smollm2):
    client = smollm2.openai()
    whole = await client.chat.completions.create(**FRANCE)
    assert "Paris" in whole.choices[0].message.content
    assert whole.choices[0].finish_reason == "stop"
    stream = await client.chat.completions.create(
        **FRANCE, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == "stop"
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert getattr(chunks[-1].usage, name) == getattr(whole.usage, name)
    async with smollm2.http() as http:
        counted = (await http.post("/utils/token_counter", json=FRANCE)).json()
    assert counted["total_tokens"] == whole.usage.prompt_tokens

    content = [message_pb2.ContentPart(text=FRANCE["messages"][0]["content"])]
    request = chat_pb2.CreateChatCompletionRequest(
        model="smollm2",
        messages=[message_pb2.Message(role=message_pb2.ROLE_USER, content=content)],
        max_tokens=24,
        temperature=0,
    )
    async with smollm2.channel() as channel:
        chat = chat_pb2_grpc.ChatServiceStub(channel)
        answer = await chat.CreateChatCompletion(request)
        assert answer.choices[0].message.content == text
        parts = [chunk.choices[0].delta.content async for chunk in chat.StreamChatCompletion(request)]
    assert "".join(parts) == text


async def test_text_completion_scores_and_continues(smollm2):
    client = smollm2.openai()
    prompt = "The capital of France is"
    answer = await client.completions.create(
        model="smollm2", prompt=prompt, max_tokens=3, temperature=0, echo=True, logprobs=2
    )
    assert answer.choices[0].text.startswith(prompt + " Paris")
    logprobs = answer.choices[0].logprobs
    assert "".join(logprobs.tokens) == answer.choices[0].text
    # Greedy: each new token is the most likely one of its position.
    for token, top in list(zip(logprobs.tokens, logprobs.top_logprobs, strict=True))[-3:]:
        assert max(top, key=top.get) == token
    scored = await client.completions.create(
        model="smollm2", prompt=prompt, max_tokens=0, temperature=0, echo=True, logprobs=1
    )
    assert scored.choices[0].text == prompt
    assert scored.usage.completion_tokens == 0
    assert scored.choices[0].logprobs.token_logprobs[1:] == pytest.approx(
        logprobs.token_logprobs[1 : len(scored.choices[0].logprobs.tokens)], abs=1e-3
    )


async def test_output_follows_its_form(start, smollm2_path, smollm2_address):
    inferd = await start(smollm2_path, smollm2_address)
    client = inferd.openai()
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}, "people": {"type": "integer"}},
        "required": ["city", "people"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema}}
    answer = await client.chat.completions.create(**{**FRANCE, "max_tokens": 60}, response_format=form)
    document = json.loads(answer.choices[0].message.content)
    assert document.keys() == {"city", "people"}
    assert isinstance(document["people"], int)
    for extra, pattern in (
        ({"regex": "(Paris|London), [0-9]{3}"}, r"(Paris|London), \d{3}"),
        ({"ebnf": 'root ::= "yes " [ab]'}, "yes [ab]"),
    ):
        answer = await client.chat.completions.create(**FRANCE, extra_body=extra)
        assert re.fullmatch(pattern, answer.choices[0].message.content)
    for extra in (
        {"regex": "([a"},
        {"ebnf": "root ::= ("},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "nope"}},
            }
        },
    ):
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError) as raised:
                await client.chat.completions.create(**FRANCE, extra_body=extra, stream=stream)
            assert raised.value.code == "invalid_constraint"
            assert raised.value.param.startswith(next(iter(extra)))


async def test_stop_strings_and_tokens(tiny):
    client = tiny.openai()
    base = {"model": "org/smol", "prompt": "once upon a time", "max_tokens": 40, "temperature": 0}
    whole = (await client.completions.create(**base, logprobs=0)).choices[0]
    tokens = whole.logprobs.tokens
    text = whole.text
    # A stop string out of the middle, that begins and ends inside tokens.
    middle = len(text) // 2
    stop = text[middle : middle + 5]
    cut = await client.completions.create(**base, stop=stop)
    assert cut.choices[0].text == text[: text.index(stop)]
    assert cut.choices[0].finish_reason == "stop"
    stream = await client.completions.create(**base, stop=stop, stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == cut.choices[0].text
    async with tiny.http() as http:
        ids = (await http.post("/tokenize", json={"model": "smollm2", "prompt": text})).json()["tokens"]
    assert len(tokens) == 40
    assert ids


async def test_the_token_that_ends_an_answer_is_no_part_of_it(start, smollm2_path, smollm2_address):
    """The engine streams it before it says that it was the end."""
    inferd = await start(smollm2_path, smollm2_address)
    client = inferd.openai()
    async with inferd.http() as http:
        body = {"model": "smollm2", "prompt": " capital"}
        [capital] = (await http.post("/tokenize", json=body)).json()["tokens"]
    for extra, expected in (
        ({"stop_token_ids": [capital]}, "The"),
        ({"skip_special_tokens": False}, "The capital of France is Paris."),
    ):
        whole = await client.chat.completions.create(**FRANCE, extra_body=extra)
        assert whole.choices[0].message.content == expected
        stream = await client.chat.completions.create(**FRANCE, extra_body=extra, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == expected


async def test_several_prompts_and_answers(tiny):
    client = tiny.openai()
    base = {"model": "smollm2", "max_tokens": 5, "temperature": 0}
    prompts = ["a cat", "the dog", "my house"]
    together = await client.completions.create(**base, prompt=prompts, n=2)
    assert [choice.index for choice in together.choices] == list(range(6))
    for index, prompt in enumerate(prompts):
        alone = await client.completions.create(**base, prompt=prompt)
        assert (
            together.choices[2 * index].text == together.choices[2 * index + 1].text == alone.choices[0].text
        )
    by_ids = await client.completions.create(**base, prompt=[[1, 5, 9], [7]])
    assert len(by_ids.choices) == 2
    assert by_ids.usage.prompt_tokens == 4


async def test_logit_bias_forces_a_token(tiny):
    client = tiny.openai()
    answer = await client.completions.create(
        model="smollm2", prompt="x", max_tokens=3, temperature=0, logit_bias={"100": 100}
    )
    async with tiny.http() as http:
        text = await http.post("/detokenize", json={"model": "smollm2", "tokens": [100, 100, 100]})
    assert answer.choices[0].text == text.json()["text"]


async def test_what_would_kill_an_engine_is_refused(tiny):
    client = tiny.openai()
    for body in (
        {"prompt": ""},
        {"prompt": [60000]},
        {"prompt": "a", "logit_bias": {"60000": 1}},
        {"prompt": "a", "n": 1_000_000},
        {"prompt": "a " * 3000},
        {"prompt": "a", "max_tokens": 5000},
    ):
        with pytest.raises(openai.BadRequestError):
            await client.completions.create(model="smollm2", **body)
    assert (await client.completions.create(model="smollm2", prompt="a", max_tokens=1)).choices


async def test_a_full_context_is_answered(tiny):
    client = tiny.openai()
    async with tiny.http() as http:
        limit = (await http.get("/v1/models/smollm2")).json()["max_model_len"]
    # SGLang keeps up to six tokens of the context for itself.
    for prompt, max_tokens in ((limit - 8, 2), (8, limit - 20)):
        answer = await client.completions.create(
            model="smollm2", prompt=[[5] * prompt], max_tokens=max_tokens
        )
        assert answer.choices[0].finish_reason in ("length", "stop")
    for prompt in (limit - 4, limit - 3, limit, limit + 1):
        with pytest.raises(openai.BadRequestError) as raised:
            await client.completions.create(model="smollm2", prompt=[[5] * prompt], max_tokens=4)
        assert raised.value.code == "context_length_exceeded"
        assert str(prompt) in raised.value.message


async def test_leaving_and_cancelling_reach_the_engine(tiny, sglang_address):
    async with grpc.aio.insecure_channel(sglang_address) as channel:
        scheduler = scheduler_pb2_grpc.SglangSchedulerStub(channel)

        async def running() -> int:
            loads = await scheduler.GetLoads(scheduler_pb2.GetLoadsRequest(include=["core"]))
            return sum(load.num_running_reqs for load in loads.loads)

        client = tiny.openai()
        long = {"model": "smollm2", "prompt": "a", "max_tokens": 1900, "extra_body": {"ignore_eos": True}}
        # Often: the servicer loses a cancellation that comes while it writes, one in ten or so.
        for _ in range(20):
            stream = await client.completions.create(**long, stream=True)
            await anext(aiter(stream))
            await stream.close()
        unary = asyncio.create_task(client.completions.create(**long))
        await asyncio.sleep(0.5)
        unary.cancel()
        # A generation that was lost would go on for longer.
        async with asyncio.timeout(8):
            while await running():
                await asyncio.sleep(0.1)


async def test_the_documents_sample_body_works_on_every_path(smollm2):
    body = {
        "model": "smollm2",
        "prompt": "[your prompt here]",
        "max_tokens": 7000,
        "temperature": 0.7,
        "top_k": 40,
        "repetition_penalty": 1.2,
        "messages": [{"role": "user", "content": "[your prompt here]"}],
    }
    async with smollm2.http() as http:
        for prefix in ("", "/v1", "/engines/smollm2", "/openai/deployments/org/smol"):
            for path in (f"{prefix}/chat/completions", f"{prefix}/completions"):
                # As a stream that is left, since 7000 tokens may take a while.
                async with http.stream("POST", path, json={**body, "stream": True}) as response:
                    assert response.status_code == 200
                    lines = [line async for line in _first(response.aiter_lines(), 3)]
                assert json.loads(lines[0].removeprefix("data: "))["choices"]
        assert (await http.post("/utils/token_counter", json=body)).json()["total_tokens"] > 0
        queued = await http.post("/queue/chat/completions", json=body)
        assert queued.status_code == 202
        # 7000 tokens here too.
        assert (await http.delete(queued.headers["location"])).json()["deleted"]


async def _first(lines, count: int):
    async for line in lines:
        # A slow engine's stream has keep-alive comments before its data.
        if line.startswith("data: "):
            yield line
            count -= 1
        if not count:
            return
