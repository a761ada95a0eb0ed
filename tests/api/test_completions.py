"""Chat and text completion through the official OpenAI SDK, over both transports of the bridge."""

import asyncio
import itertools
import json
from datetime import UTC, datetime

import openai
import pytest

from tests.doubles.simulated_scheduler import Fault, SimulatedRuntime, echo, fixed
from tests.support.running import running_front

HELLO = {"model": "small", "messages": [{"role": "user", "content": "Hello world"}]}


def says(small_text, text: str, **settings):
    """A script that answers with a text, and then ends."""
    return fixed([*small_text.tokenizer.encode(text, add_special_tokens=False), 2], **settings)


async def streamed(client: openai.AsyncOpenAI, **request) -> list:
    return [chunk async for chunk in await client.chat.completions.create(**request, stream=True)]


async def test_chat_whole_and_streamed_agree(start_inferd, small_text):
    client = (await start_inferd(says(small_text, "Paris é 🙂 你好 stop"))).openai()
    whole = await client.chat.completions.create(**HELLO)
    assert whole.object == "chat.completion"
    assert whole.id.startswith("chatcmpl-")
    assert whole.model == "small"
    [choice] = whole.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == "Paris é 🙂 你好 stop"
    assert choice.finish_reason == "stop"
    assert choice.logprobs is None

    chunks = await streamed(client, **HELLO, stream_options={"include_usage": True})
    *parts, last = chunks
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert parts[0].choices[0].delta.role == "assistant"
    assert all(chunk.choices[0].delta.role is None for chunk in parts[1:])
    assert "".join(chunk.choices[0].delta.content or "" for chunk in parts) == choice.message.content
    assert all("\ufffd" not in (chunk.choices[0].delta.content or "") for chunk in parts)
    assert [chunk.choices[0].finish_reason for chunk in parts][-2:] == [None, "stop"]
    assert last.choices == []
    assert last.usage == whole.usage
    assert all(chunk.usage is None for chunk in parts)


async def test_usage_is_what_the_counter_says(start_inferd, small_text):
    inferd = await start_inferd(says(small_text, "Hello"))
    client = inferd.openai()
    async with inferd.http() as http:
        for body in (
            {"messages": [{"role": "user", "content": "é 🙂 <|im_end|> x"}]},
            {
                "messages": [
                    {
                        "role": "system",
                        "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                    }
                ]
            },
            {
                "messages": [{"role": "user", "content": "use it"}],
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
            },
        ):
            answer = await client.chat.completions.create(model="small", **body)
            counted = (await http.post("/utils/token_counter", json={"model": "small", **body})).json()
            assert counted == {
                "total_tokens": answer.usage.prompt_tokens,
                "request_model": "small",
                "model_used": "small",
                "tokenizer_type": "huggingface_tokenizer",
            }
        for prompt in ("Hello world", ["Hello", "how are you"], [3, 4, 5], [[3, 4], [5]]):
            answer = await client.completions.create(model="org/small", prompt=prompt, max_tokens=2)
            counted = (
                await http.post("/utils/token_counter", json={"model": "org/small", "prompt": prompt})
            ).json()
            assert counted["total_tokens"] == answer.usage.prompt_tokens
            assert counted["request_model"] == "org/small"
            assert counted["model_used"] == "small"


async def test_a_stop_string_never_leaks_however_the_tokens_come(start_inferd, small_text):
    for sizes in ((1,), (2,), (3, 1), (50,)):
        inferd = await start_inferd(says(small_text, "Hello STOP here, and more", chunk_sizes=sizes))
        client = inferd.openai()
        whole = await client.chat.completions.create(**HELLO, stop=["STOP"])
        chunks = await streamed(client, **HELLO, stop="STOP")
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text == whole.choices[0].message.content == "Hello "
        assert whole.choices[0].finish_reason == chunks[-1].choices[0].finish_reason == "stop"


async def test_what_ends_a_text_is_no_part_of_it_streamed_or_not(start_inferd, small_text):
    inferd = await start_inferd(says(small_text, "Hello world, and more"))
    client = inferd.openai()
    [stop, *_] = small_text.tokenizer.encode(" world", add_special_tokens=False)
    for extra, expected in (
        ({"stop_token_ids": [stop]}, "Hello"),
        ({"skip_special_tokens": False}, "Hello world, and more"),
        # A stop token that does not stop is text like any other.
        ({"skip_special_tokens": False, "ignore_eos": True}, "Hello world, and more<|im_end|>"),
    ):
        whole = await client.chat.completions.create(**HELLO, extra_body=extra)
        assert whole.choices[0].message.content == expected
        chunks = await streamed(client, **HELLO, extra_body=extra, stream_options={"include_usage": True})
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == expected
        assert chunks[-1].usage == whole.usage


async def test_logprobs_end_where_a_stop_string_cuts_the_text(start_inferd, small_text):
    client = (await start_inferd(says(small_text, "Hello é world, and more"))).openai()
    for stop, expected in (
        (["rld"], "Hello é wo"),
        (["é w"], "Hello "),
        (["none"], "Hello é world, and more"),
    ):
        whole = await client.chat.completions.create(**HELLO, logprobs=True, stop=stop)
        assert whole.choices[0].message.content == expected
        content = whole.choices[0].logprobs.content
        joined = b"".join(bytes(entry.bytes) for entry in content).decode().removesuffix("<|im_end|>")
        assert expected.startswith(joined)
        chunks = await streamed(client, **HELLO, logprobs=True, stop=stop)
        pieces = [chunk.choices[0].logprobs.content for chunk in chunks if chunk.choices[0].logprobs]
        assert [entry for piece in pieces for entry in piece] == content


async def test_text_offsets_count_characters(start_inferd, small_text):
    client = (await start_inferd(says(small_text, "a𝄞b"))).openai()
    answer = await client.completions.create(model="small", prompt="😀x", max_tokens=9, logprobs=0, echo=True)
    [choice] = answer.choices
    assert choice.text == "😀xa𝄞b"
    ids = [
        token
        for text in ("😀x", "a𝄞b")
        for token in small_text.tokenizer.encode(text, add_special_tokens=True)
    ]
    data = list(map(small_text.tokenizer.token_bytes, ids))
    before = [len(b"".join(data[:index]).decode(errors="ignore")) for index in range(len(data))]
    assert len(set(before)) < len(before)
    # The last is the token that ended the text.
    assert choice.logprobs.text_offset == [*before, len(choice.text)]


@pytest.mark.parametrize("prompt", ["<|im_start|>x", [0, 0, 33]], ids=["text", "tokens"])
async def test_text_offsets_count_the_special_tokens_of_an_echoed_prompt(start_inferd, small_text, prompt):
    client = (await start_inferd(says(small_text, "a"))).openai()
    answer = await client.completions.create(
        model="small", prompt=prompt, max_tokens=9, logprobs=0, echo=True
    )
    [choice] = answer.choices
    logprobs = choice.logprobs
    assert logprobs.tokens[0].startswith("<|") and choice.text.endswith("a")
    spans = itertools.pairwise(logprobs.text_offset)
    assert [choice.text[start:end] for start, end in spans] == logprobs.tokens[:-1]


async def test_a_long_text_does_not_stall_the_others(start_inferd):
    """The tokenizer's thread must leave the interpreter to the event loop."""
    inferd = await start_inferd()
    async with inferd.http() as http:
        prompt = "lorem ipsum dolor sit amet " * 60_000
        counting = asyncio.create_task(
            http.post("/utils/token_counter", json={"model": "small", "prompt": prompt}, timeout=120)
        )
        served = 0
        while not counting.done():
            assert (await http.get("/v1/models")).status_code == 200
            served += 1
        assert (await counting).json()["total_tokens"] > 60_000
        # If the loop is blocked, only one or two arrive: before and after the block.
        assert served > 5


async def test_stop_tokens_are_not_part_of_the_text(start_inferd, small_text):
    client = (await start_inferd(says(small_text, "Hello world"))).openai()
    [stop, *_] = small_text.tokenizer.encode(" world", add_special_tokens=False)
    answer = await client.chat.completions.create(**HELLO, extra_body={"stop_token_ids": [stop]})
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("Hello", "stop")
    answer = await client.chat.completions.create(
        **HELLO, extra_body={"ignore_eos": True, "skip_special_tokens": False}
    )
    assert answer.choices[0].message.content == "Hello world<|im_end|>"


async def test_every_choice_of_every_prompt_has_its_index(start_inferd, small_text):
    prompts = ["Hello", "how are you", "Paris"]
    client = (await start_inferd(echo())).openai()
    answer = await client.completions.create(model="small", prompt=prompts, n=2, max_tokens=9, echo=True)
    assert [choice.index for choice in answer.choices] == list(range(6))
    for choice in answer.choices:
        # The simulated runtime repeats the prompt: another prompt's tokens would show.
        prompt = prompts[choice.index // 2]
        assert choice.text.startswith(prompt * 2)
    assert answer.usage.prompt_tokens == sum(
        len(small_text.tokenizer.encode(prompt, add_special_tokens=True)) for prompt in prompts
    )
    assert answer.usage.completion_tokens == 6 * 9

    texts = dict.fromkeys(range(6), "")
    stream = await client.completions.create(
        model="small", prompt=prompts, n=2, max_tokens=9, echo=True, stream=True
    )
    async for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert list(texts.values()) == [choice.text for choice in answer.choices]


async def test_two_hundred_streams_lose_and_cross_nothing(start_inferd, small_text):
    inferd = await start_inferd(echo(chunk_sizes=(1, 3, 2)))
    client = inferd.openai()

    async def one(index: int) -> None:
        prompt = f"<{index}>"
        ids = small_text.tokenizer.encode(prompt, add_special_tokens=True)
        expected = small_text.tokenizer.decode(
            list(itertools.islice(itertools.cycle(ids), 40)), skip_special_tokens=True
        )
        stream = await client.completions.create(model="small", prompt=prompt, max_tokens=40, stream=True)
        assert "".join([chunk.choices[0].text async for chunk in stream]) == expected

    await asyncio.gather(*map(one, range(200)))
    assert inferd.runtime.running == 0


async def test_logprobs_in_both_shapes(start_inferd, small_text):
    client = (await start_inferd(says(small_text, "Hello é world"))).openai()
    answer = await client.chat.completions.create(**HELLO, logprobs=True, top_logprobs=2)
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    joined = b"".join(bytes(entry.bytes) for entry in content).decode()
    assert joined == "Hello é world<|im_end|>"
    for entry in content:
        assert len(entry.top_logprobs) == 2
        assert entry.logprob <= 0

    chunks = await streamed(client, **HELLO, logprobs=True, top_logprobs=2)
    pieces = [chunk.choices[0].logprobs.content for chunk in chunks if chunk.choices[0].logprobs]
    assert [entry for piece in pieces for entry in piece] == content

    answer = await client.completions.create(
        model="small", prompt="Hello", max_tokens=3, logprobs=2, echo=True
    )
    logprobs = answer.choices[0].logprobs
    assert "".join(logprobs.tokens) == answer.choices[0].text
    assert logprobs.token_logprobs[0] is None
    assert logprobs.top_logprobs[0] is None
    assert all(value <= 0 for value in logprobs.token_logprobs[1:])
    for token, value, top in zip(
        logprobs.tokens[1:], logprobs.token_logprobs[1:], logprobs.top_logprobs[1:], strict=True
    ):
        assert top[token] == value
    offsets = [0, *itertools.accumulate(map(len, logprobs.tokens))]
    assert logprobs.text_offset == offsets[:-1]


async def test_what_is_sent_to_the_runtime(start_inferd):
    inferd = await start_inferd()
    await inferd.openai().chat.completions.create(
        **HELLO,
        temperature=0.25,
        top_p=0.5,
        frequency_penalty=-1,
        presence_penalty=1.5,
        max_completion_tokens=7,
        max_tokens=3,
        logit_bias={"5": -100},
        seed=3,
        extra_body={"top_k": 0, "min_p": 0.125, "repetition_penalty": 1.25, "min_tokens": 2},
    )
    [request] = inferd.runtime.requests
    params = request.sampling_params
    assert not request.stream
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.25, 0.5, -1, 0.125)
    assert (params.frequency_penalty, params.presence_penalty, params.repetition_penalty) == (-1, 1.5, 1.25)
    assert (params.max_new_tokens, params.min_new_tokens) == (7, 2)
    assert dict(params.logit_bias) == {"5": -100}
    assert params.WhichOneof("constraint") is None

    await inferd.openai().chat.completions.create(**HELLO, extra_body={"regex": "a+"})
    assert inferd.runtime.requests[1].sampling_params.regex == "a+"


_SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {}}}


@pytest.mark.parametrize(
    ("form", "schema"),
    [
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"name": "s", "schema": _SCHEMA}}, _SCHEMA),
    ],
)
async def test_response_formats(start_inferd, form, schema):
    inferd = await start_inferd()
    await inferd.openai().chat.completions.create(**HELLO, response_format=form, max_tokens=1)
    sent = json.loads(inferd.runtime.requests[0].sampling_params.structural_tag)["format"]["json_schema"]
    assert sent == schema
    assert list(sent.get("properties", {})) == list(schema.get("properties", {}))


async def test_free_text_is_not_constrained(start_inferd):
    inferd = await start_inferd()
    form = {"type": "text"}
    await inferd.openai().chat.completions.create(**HELLO, response_format=form, max_tokens=1)
    assert inferd.runtime.requests[0].sampling_params.WhichOneof("constraint") is None


async def test_a_stream_that_fails_under_way_ends_with_an_error_event(start_inferd, small_text):
    inferd = await start_inferd(echo(fault=Fault("status", after=3)))
    received = []
    with pytest.raises(openai.APIError) as raised:
        stream = await inferd.openai().completions.create(
            model="small", prompt="Hello world", max_tokens=9, stream=True
        )
        async for chunk in stream:
            received.append(chunk.choices[0].text)
    assert "".join(received) == small_text.tokenizer.decode(
        inferd.runtime.requests[0].tokenized.input_ids[:3], skip_special_tokens=True
    )
    assert raised.value.body["type"] == "server_error"
    with pytest.raises(openai.InternalServerError) as raised:
        await inferd.openai().chat.completions.create(**HELLO)
    assert raised.value.status_code == 503


async def test_a_client_that_leaves_ends_the_work(start_inferd):
    inferd = await start_inferd(echo(tokens_per_second=50))
    stream = await inferd.openai().chat.completions.create(**HELLO, stream=True)
    async for _ in stream:
        break
    assert inferd.runtime.running == 1
    await stream.close()
    async with asyncio.timeout(5):
        while inferd.runtime.running:
            await asyncio.sleep(0.01)
        # An Abort comes too: the real servicer loses a cancellation that arrives while it writes.
        while not inferd.runtime.aborted:
            await asyncio.sleep(0.01)
    assert inferd.runtime.cancelled == 1
    assert list(inferd.runtime.aborted) == [inferd.runtime.requests[0].request_id]


async def test_what_ends_by_itself_is_not_aborted(start_inferd):
    inferd = await start_inferd()
    client = inferd.openai()
    await client.chat.completions.create(**HELLO, max_tokens=3)
    await streamed(client, **HELLO, max_tokens=3)
    assert not inferd.runtime.aborted


async def test_the_documents_sample_body_works_on_every_path(start_inferd, small_text):
    inferd = await start_inferd(says(small_text, "Hello"))
    body = {
        "model": "small",
        "prompt": "[your prompt here]",
        "max_tokens": 400,
        "temperature": 0.7,
        "top_k": 40,
        "repetition_penalty": 1.2,
        "messages": [{"role": "user", "content": "[your prompt here]"}],
    }
    async with inferd.http() as http:
        for prefix in ("", "/v1", "/engines/small", "/openai/deployments/org/small"):
            answer = await http.post(f"{prefix}/chat/completions", json=body)
            assert answer.status_code == 200
            assert answer.json()["choices"][0]["message"]["content"] == "Hello"
            answer = await http.post(f"{prefix}/completions", json=body)
            assert answer.json()["choices"][0]["text"] == "Hello"
            # A model in the path is the one that was asked for.
            assert answer.json()["model"] == ("org/small" if "org" in prefix else "small")
        assert (await http.post("/utils/token_counter", json=body)).json()["total_tokens"] > 5
        answer = await http.post("/queue/chat/completions", json=body, headers={"prefer": "wait=30"})
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["message"]["content"] == "Hello"


async def test_either_prompt_or_messages_will_do_for_both(start_inferd, small_text):
    inferd = await start_inferd(says(small_text, "Hello"))
    client = inferd.openai()
    await client.chat.completions.create(**HELLO)
    await client.chat.completions.create(model="small", messages=[], extra_body={"prompt": "Hello world"})
    await client.completions.create(model="small", prompt=None, extra_body={"messages": HELLO["messages"]})
    prompts = {tuple(request.tokenized.input_ids) for request in inferd.runtime.requests}
    assert len(prompts) == 1


async def test_models(start_inferd):
    client = (await start_inferd()).openai()
    [model] = (await client.models.list()).data
    assert (model.id, model.object, model.owned_by) == ("small", "model", "tests")
    assert model.created == int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
    assert (model.max_model_len, model.aliases) == (512, ["org/small"])
    assert (await client.models.retrieve("org/small")).id == "small"
    with pytest.raises(openai.NotFoundError) as raised:
        await client.models.retrieve("org/other")
    assert raised.value.code == "model_not_found"


async def test_tokens_and_back(start_inferd):
    inferd = await start_inferd()
    async with inferd.http() as http:
        tokens = (await http.post("/v1/tokenize", json={"model": "small", "prompt": "Hello é"})).json()
        assert tokens["count"] == len(tokens["tokens"])
        assert tokens["max_model_len"] == 512
        text = await http.post("/detokenize", json={"model": "small", "tokens": tokens["tokens"]})
        assert text.json() == {"text": "Hello é"}


async def test_no_runtime_is_unavailable_and_health_follows(start_inferd):
    inferd = await start_inferd()
    async with inferd.http() as http:
        assert (await http.get("/health")).status_code == 200
        await inferd.runtime.stop()
        async with asyncio.timeout(10):
            while (await http.get("/health")).status_code != 503:
                await asyncio.sleep(0.02)
        answer = await http.post("/v1/chat/completions", json=HELLO)
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["error"]["code"] == "model_unavailable"
        await inferd.runtime.start()
        async with asyncio.timeout(10):
            while (await http.get("/health")).status_code != 200:
                await asyncio.sleep(0.02)
        assert (await http.post("/v1/chat/completions", json=HELLO)).status_code == 200


async def test_calls_run_to_their_end_at_a_stop(make_config, small_text):

    script = fixed(small_text.tokenizer.encode("Hello world", add_special_tokens=False), tokens_per_second=20)
    async with SimulatedRuntime(script) as runtime:
        front = running_front(make_config(runtime.address, grace=10))
        _, port = await front.__aenter__()
        client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
        stream = await client.chat.completions.create(**HELLO, stream=True)
        first = await anext(aiter(stream))
        stopping = asyncio.create_task(front.__aexit__(None, None, None))
        rest = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert first.choices[0].delta.content + "".join(rest) == "Hello world"
        await stopping
