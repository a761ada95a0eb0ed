"""Options of text completion only: scored prompts, best_of, token ids, usage in streams, failing choices.

Through the official OpenAI SDK, over both transports of the bridge.
"""

import itertools

import grpc
import openai
import pytest
from google.rpc import code_pb2

from inferd.v1 import completion_pb2 as pb
from inferd.v1 import completion_pb2_grpc, prompt_pb2, sampling_pb2
from tests.doubles.simulated_scheduler import Fault, Reply, echo, fixed, logprob_of, spoken


def ids_of(small_text, text: str) -> list[int]:
    return small_text.tokenizer.encode(text, add_special_tokens=True)


async def streamed(client: openai.AsyncOpenAI, **request) -> list:
    stream = await client.completions.create(model="small", **request, stream=True)
    return [chunk async for chunk in stream]


def parts_of(chunks: list, index: int) -> list:
    """One choice's parts, in order."""
    return [choice for chunk in chunks for choice in chunk.choices if choice.index == index]


def logprobs_of(parts: list) -> list[tuple]:
    """One entry a token: text, log probability, likely ones, offset."""
    return [
        entry
        for part in parts
        if part.logprobs
        for entry in zip(
            part.logprobs.tokens,
            part.logprobs.token_logprobs,
            part.logprobs.top_logprobs,
            part.logprobs.text_offset,
            strict=True,
        )
    ]


def in_turn(*replies: Reply):
    """Each request the next reply."""
    turns = iter(replies)
    return lambda request: next(turns)


def by_first_token(replies: dict[int, Reply]):
    """A reply by the first token of the prompt."""
    return lambda request: replies[request.tokenized.input_ids[0]]


async def test_the_best_are_those_with_the_greatest_log_probability_a_token(start_inferd, small_text):
    tokens = range(60, 70)
    likely, middling, unlikely = (tokens[:2], tokens[3:7], tokens[8:])
    scores = [sum(map(logprob_of, ids)) / len(ids) for ids in (likely, middling, unlikely)]
    assert scores == sorted(scores, reverse=True)
    texts = [
        small_text.tokenizer.decode(ids, skip_special_tokens=True) for ids in (likely, middling, unlikely)
    ]
    replies = [Reply(tuple(ids)) for ids in (middling, unlikely, likely)]
    for n in (1, 2, 3):
        inferd = await start_inferd(in_turn(*replies))
        request = {"model": "small", "prompt": "Hello", "n": n, "best_of": 3}
        answer = await inferd.openai().completions.create(**request)
        assert [choice.index for choice in answer.choices] == list(range(n))
        # All of them are returned in no particular order.
        told = [choice.text for choice in answer.choices]
        assert (told if n < 3 else sorted(told)) == (texts[:n] if n < 3 else sorted(texts))
        # The client did not ask for log probabilities.
        assert all(choice.logprobs is None for choice in answer.choices)
        assert answer.usage.completion_tokens == 2 + 4 + 2
        assert answer.usage.prompt_tokens == len(ids_of(small_text, "Hello"))
        assert len(inferd.runtime.requests) == 3


async def test_the_best_of_each_prompt_and_none_that_failed(start_inferd, small_text):
    hello, paris = (ids_of(small_text, prompt) for prompt in ("Hello", "Paris"))
    seen = itertools.count()

    def script(request):
        if tuple(request.tokenized.input_ids) == tuple(paris):
            return Reply((60, 61))
        # More likely than the other choice, but it failed.
        return Reply((0, 0), fault=Fault("status", after=1)) if next(seen) else Reply((90,))

    client = (await start_inferd(script)).openai()
    answer = await client.completions.create(
        model="small", prompt=["Hello", "Paris"], n=1, best_of=2, logprobs=1, echo=True
    )
    first, second = answer.choices
    decode = small_text.tokenizer.decode
    assert first.text == "Hello" + decode([90], skip_special_tokens=True)
    assert second.text == "Paris" + decode([60, 61], skip_special_tokens=True)
    assert (first.finish_reason, second.finish_reason) == ("stop", "stop")
    assert len(first.logprobs.tokens) == len(hello) + 1
    assert second.logprobs.token_logprobs[-2:] == [logprob_of(60), logprob_of(61)]


@pytest.mark.parametrize(
    ("request_fields", "field"),
    [
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"n": 1, "best_of": 2, "stream": True}, "best_of"),
        ({"best_of": 128, "prompt": ["x"] * 9}, "best_of"),
        ({"n": 128, "prompt": ["x"] * 9}, "n"),
        ({"logprobs": 21}, "logprobs"),
        # The scheduler protocol has none of these.
        ({"extra_body": {"extra_key": "a"}}, "extra_key"),
        ({"extra_body": {"priority": 0}}, "priority"),
        ({"extra_body": {"cache_salt": "a"}}, "cache_salt"),
        ({"extra_body": {"extra_key": "a"}}, "extra_key"),
        ({"extra_body": {"stop_regex": "(a"}}, "stop_regex[0]"),
        ({"extra_body": {"stop_regex": ["a", ""]}}, "stop_regex[1]"),
    ],
)
async def test_what_cannot_be_done_is_refused_naming_the_field(start_inferd, request_fields, field):
    inferd = await start_inferd()
    with pytest.raises(openai.BadRequestError) as raised:
        await inferd.openai().completions.create(**{"model": "small", "prompt": "Hello", **request_fields})
    assert raised.value.param == field
    assert not inferd.runtime.requests


async def test_a_stream_may_say_best_of_where_it_is_n(start_inferd):
    client = (await start_inferd()).openai()
    chunks = await streamed(client, prompt="Hello", n=2, best_of=2, max_tokens=2)
    assert {choice.index for chunk in chunks for choice in chunk.choices} == {0, 1}


@pytest.mark.parametrize("max_tokens", [0, 3])
@pytest.mark.parametrize("prompt", ["Hello é", ["Hello", "how are you"], [3, 4, 5], [[3, 4], [200, 201]]])
async def test_a_scored_prompt_is_the_same_streamed(start_inferd, small_text, prompt, max_tokens):
    client = (await start_inferd(echo(chunk_sizes=(2, 1)))).openai()
    request = {"prompt": prompt, "echo": True, "logprobs": 2, "max_tokens": max_tokens}
    whole = await client.completions.create(model="small", **request)
    chunks = await streamed(client, **request)
    prompts = [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt
    assert len(whole.choices) == len(prompts)
    for choice, given in zip(whole.choices, prompts, strict=True):
        ids = ids_of(small_text, given) if isinstance(given, str) else given
        values = choice.logprobs.token_logprobs
        assert len(values) == len(ids) + max_tokens
        assert values[0] is None
        assert choice.logprobs.top_logprobs[0] is None
        assert values[1 : len(ids)] == [logprob_of(token_id) for token_id in ids[1:]]
        assert choice.text.startswith(small_text.tokenizer.decode(ids, skip_special_tokens=False))
        parts = parts_of(chunks, choice.index)
        assert "".join(part.text for part in parts) == choice.text
        assert logprobs_of(parts) == logprobs_of([choice])
        assert [part.finish_reason for part in parts] == [*[None] * (len(parts) - 1), choice.finish_reason]
    assert whole.usage.completion_tokens == len(prompts) * max_tokens


async def test_tokens_are_returned_where_they_are_asked_for(start_inferd, small_text):
    script = spoken(small_text.tokenizer, "Hello é STOP, and", end=2, chunk_sizes=(3, 1))
    client = (await start_inferd(script)).openai()
    prompt, answer = ids_of(small_text, "how are"), [*ids_of(small_text, "Hello é STOP, and"), 2]
    for extra in ({}, {"stop": ["STOP"]}):
        request = {"prompt": "how are", "extra_body": {"return_token_ids": True}, **extra}
        [choice] = (await client.completions.create(model="small", **request)).choices
        assert choice.prompt_token_ids == prompt
        assert choice.token_ids == answer if not extra else len(choice.token_ids) < len(answer)
        text = small_text.tokenizer.decode(choice.token_ids, skip_special_tokens=True)
        assert text.startswith(choice.text)
        assert "STOP" in text
        chunks = await streamed(client, **request)
        first, *later = parts_of(chunks, 0)
        assert first.prompt_token_ids == prompt
        assert all(not hasattr(part, "prompt_token_ids") for part in later)
        told = [token_id for part in (first, *later) for token_id in getattr(part, "token_ids", ())]
        assert told == choice.token_ids
    [choice] = (await client.completions.create(model="small", prompt="how are")).choices
    assert not hasattr(choice, "token_ids")
    assert not hasattr(choice, "prompt_token_ids")


async def test_usage_so_far_is_on_every_chunk_where_it_is_asked_for(start_inferd, small_text):
    script = spoken(small_text.tokenizer, "Hello world, how are you", end=2, cached_tokens=1)
    client = (await start_inferd(script)).openai()
    whole = await client.completions.create(model="small", prompt="Hello")
    assert whole.usage.prompt_tokens_details.cached_tokens == 1
    options = {"continuous_usage_stats": True}
    chunks = await streamed(client, prompt="Hello", stream_options=options)
    counts = [chunk.usage.completion_tokens for chunk in chunks]
    assert counts == sorted(counts)
    assert 0 < counts[0] < counts[-1]
    assert chunks[-1].choices
    assert chunks[-1].usage == whole.usage
    *parts, last = await streamed(client, prompt="Hello", stream_options={**options, "include_usage": True})
    assert all(part.choices and part.usage for part in parts)
    assert not last.choices
    assert last.usage == whole.usage


async def test_what_ended_a_text_is_told(start_inferd, small_text):
    client = (await start_inferd(spoken(small_text.tokenizer, "Hello STOP, and", end=2))).openai()
    [word, *_] = ids_of(small_text, ",")
    for request, text, matched in (
        ({}, "Hello STOP, and", 2),
        ({"stop": ["STOP", "and"]}, "Hello ", "STOP"),
        ({"stop": "STOP", "extra_body": {"no_stop_trim": True}}, "Hello STOP", "STOP"),
        ({"extra_body": {"stop_token_ids": [word]}}, "Hello STOP", word),
        ({"max_tokens": 1}, None, None),
    ):
        [choice] = (await client.completions.create(model="small", prompt="x", **request)).choices
        assert choice.matched_stop == matched
        assert choice.finish_reason == ("length" if text is None else "stop")
        parts = parts_of(await streamed(client, prompt="x", **request), 0)
        assert parts[-1].matched_stop == matched
        assert all(part.matched_stop is None for part in parts[:-1])
        if text is not None:
            assert choice.text == "".join(part.text for part in parts) == text


async def test_a_choice_that_fails_does_not_take_the_others_with_it(start_inferd, small_text):
    [good], [bad] = ([ids_of(small_text, prompt)[0]] for prompt in ("Hello", "Paris"))
    ids = tuple(ids_of(small_text, "how are you"))
    fault = Fault("status", after=2, code=grpc.StatusCode.RESOURCE_EXHAUSTED)
    inferd = await start_inferd(by_first_token({good: Reply(ids), bad: Reply(ids, fault=fault)}))
    prompts = [prompt_pb2.Prompt(text=prompt) for prompt in ("Paris", "Hello")]
    request = pb.CreateCompletionRequest(model="small", prompt=prompts)
    begun = small_text.tokenizer.decode(ids[:2], skip_special_tokens=True)
    async with inferd.channel() as channel:
        stub = completion_pb2_grpc.CompletionServiceStub(channel)
        whole = await stub.CreateCompletion(request)
        chunks = [chunk async for chunk in stub.StreamCompletion(request)]
    for index, text, finish in (
        (0, begun, sampling_pb2.FINISH_REASON_ERROR),
        (1, "how are you", sampling_pb2.FINISH_REASON_STOP),
    ):
        parts = parts_of(chunks, index)
        assert "".join(part.text for part in parts) == text
        assert parts[-1].finish_reason == whole.choices[index].finish_reason == finish
    for failed in (whole.choices[0], parts_of(chunks, 0)[-1]):
        assert failed.error.code == code_pb2.RESOURCE_EXHAUSTED
        assert failed.error.message == "the runtime's queue is full"
        assert failed.error.details
    assert whole.choices[1].text == "how are you"
    assert not any(part.HasField("error") for part in (whole.choices[1], *parts_of(chunks, 1)))
    assert whole.usage.completion_tokens == len(ids)

    answer = await inferd.openai().completions.create(model="small", prompt=["Paris", "Hello"])
    assert [choice.finish_reason for choice in answer.choices] == ["error", "stop"]
    assert answer.choices[0].error["type"] == "rate_limit_error"
    assert not hasattr(answer.choices[1], "error")


async def test_where_every_choice_fails_the_call_does(start_inferd):
    client = (await start_inferd(fixed((60, 61), fault=Fault("abort")))).openai()
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError) as raised:
            await client.completions.create(model="small", prompt="Hello", n=3, stream=stream)
        assert raised.value.status_code == 503


async def test_a_fault_of_the_request_ends_it_whole(start_inferd, small_text):
    [good], [bad] = ([ids_of(small_text, prompt)[0]] for prompt in ("Hello", "Paris"))
    fault = Fault("status", code=grpc.StatusCode.INVALID_ARGUMENT, details="grammar: no")
    script = by_first_token({good: Reply((60,), first_token_delay=0.2), bad: Reply((60,), fault=fault)})
    client = (await start_inferd(script)).openai()
    with pytest.raises(openai.BadRequestError):
        await client.completions.create(model="small", prompt=["Hello", "Paris"])


async def test_usage_says_reasoning_and_cached_tokens_in_json(start_inferd):
    inferd = await start_inferd(echo(cached_tokens=1))
    async with inferd.http() as http:
        body = {"model": "small", "prompt": "Hello", "max_tokens": 2}
        answer = await http.post("/v1/completions", json=body)
    usage = answer.json()["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 1}
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 0}


async def test_the_form_of_a_text_reaches_the_runtime(start_inferd):
    inferd = await start_inferd()
    client = inferd.openai()
    schema = '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}'
    for extra in ({"json_schema": schema}, {"choice": ["yes", "no"]}, {"regex": "a+"}):
        await client.completions.create(model="small", prompt="x", max_tokens=1, extra_body=extra)
        params = inferd.runtime.requests[-1].sampling_params
        assert params.WhichOneof("constraint") is not None
    with pytest.raises(openai.BadRequestError):
        extra = {"choice": ["yes"], "regex": "a+"}
        await client.completions.create(model="small", prompt="x", extra_body=extra)


async def test_an_adapter_that_is_not_there_is_not_found(start_inferd):
    client = (await start_inferd()).openai()
    with pytest.raises(openai.NotFoundError) as raised:
        await client.completions.create(model="small", prompt="x", extra_body={"lora_path": "none"})
    assert raised.value.param == "lora_path"
