"""Options of a chat request, through a whole inferd: the form of calls and reasoning, several answers,
answers that fail, token ids, and usage that grows during a stream."""

import json

import grpc
import openai
import pytest

from tests.doubles.simulated_scheduler import Fault, Reply, fixed

FUNCTION = {
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
TOOLS = [{"type": "function", "function": FUNCTION}]
HELLO = {"model": "small", "messages": [{"role": "user", "content": "Hello"}]}
HERMES = {"tool_call_parser": "hermes", "reasoning_parser": "qwen3"}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "%s"}}\n</tool_call>'


@pytest.fixture
def says(small_text):
    def script(text: str, **settings):
        return fixed([*small_text.tokenizer.encode(text, add_special_tokens=False), 2], **settings)

    return script


@pytest.fixture
def tokens(small_text):
    return lambda text: small_text.tokenizer.encode(text, add_special_tokens=False)


async def streamed(client: openai.AsyncOpenAI, **request) -> list:
    return [chunk async for chunk in await client.chat.completions.create(**request, stream=True)]


async def test_calls_after_the_first_are_left_out_where_asked(start_inferd, says):
    client = (await start_inferd(says(CALL % "Paris" + CALL % "Rome"), model=HERMES)).openai()
    answer = await client.chat.completions.create(**HELLO, tools=TOOLS, parallel_tool_calls=False)
    [call] = answer.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    assert answer.choices[0].message.content is None
    chunks = await streamed(client, **HELLO, tools=TOOLS, parallel_tool_calls=False)
    indices = {call.index for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()}
    assert indices == {0}


async def test_the_older_functions(start_inferd, says):
    client = (await start_inferd(says(CALL % "Paris"), model=HERMES)).openai()
    answer = await client.chat.completions.create(**HELLO, functions=[FUNCTION], function_call="auto")
    [choice] = answer.choices
    assert choice.finish_reason == "function_call"
    assert choice.message.tool_calls is None
    assert choice.message.function_call.name == "get_weather"
    assert json.loads(choice.message.function_call.arguments) == {"city": "Paris"}
    chunks = await streamed(client, **HELLO, functions=[FUNCTION])
    deltas = [chunk.choices[0].delta.function_call for chunk in chunks]
    assert [delta.name for delta in deltas if delta and delta.name] == ["get_weather"]
    assert json.loads("".join(delta.arguments or "" for delta in deltas if delta)) == {"city": "Paris"}
    assert chunks[-1].choices[0].finish_reason == "function_call"


async def test_without_tools_nothing_is_a_call(start_inferd, says):
    client = (await start_inferd(says(CALL % "Paris"), model=HERMES)).openai()
    for request in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        answer = await client.chat.completions.create(**HELLO, **request)
        assert answer.choices[0].message.content == CALL % "Paris"
        assert answer.choices[0].message.tool_calls is None
        assert answer.choices[0].finish_reason == "stop"


async def test_a_cut_call_is_no_finished_one(start_inferd, says):
    client = (await start_inferd(says(CALL % "Paris"), model=HERMES)).openai()
    length = 50
    answer = await client.chat.completions.create(**HELLO, tools=TOOLS, max_tokens=length)
    [choice] = answer.choices
    assert choice.finish_reason == "length"
    assert choice.message.tool_calls[0].function.arguments.startswith('{"')
    with pytest.raises(json.JSONDecodeError):
        json.loads(choice.message.tool_calls[0].function.arguments)


NAMED = {"type": "function", "function": {"name": "get_weather"}}


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
async def test_a_forced_call_is_constrained_in_the_engine(start_inferd, says, choice):
    inferd = await start_inferd(says(CALL % "Paris"), model={"tool_call_parser": "hermes"})
    answer = await inferd.openai().chat.completions.create(**HELLO, tools=TOOLS, tool_choice=choice)
    assert answer.choices[0].message.tool_calls[0].function.name == "get_weather"
    assert answer.choices[0].finish_reason == "tool_calls"
    sent = inferd.runtime.requests[-1].sampling_params
    assert sent.WhichOneof("constraint") == "structural_tag"
    assert "get_weather" in sent.structural_tag


async def test_a_forced_call_of_a_model_without_a_parser(start_inferd, says):
    text = '[{"name": "get_weather", "parameters": {"city": "Paris"}}]'
    inferd = await start_inferd(says(text), model={"tool_call_parser": "none"})
    answer = await inferd.openai().chat.completions.create(**HELLO, tools=TOOLS, tool_choice="required")
    [call] = answer.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})
    sent = inferd.runtime.requests[-1].sampling_params
    assert "get_weather" in sent.structural_tag


async def test_reasoning_is_told_as_asked(start_inferd, says):
    inferd = await start_inferd(says("<think>Well...</think>Paris"), model=HERMES)
    client = inferd.openai()
    answer = await client.chat.completions.create(**HELLO)
    assert answer.choices[0].message.reasoning_content == "Well..."
    assert answer.choices[0].message.content == "Paris"
    whole = await client.chat.completions.create(**HELLO, extra_body={"separate_reasoning": False})
    assert whole.choices[0].message.content == "<think>Well...</think>Paris"
    assert not hasattr(whole.choices[0].message, "reasoning_content")
    chunks = await streamed(client, **HELLO, extra_body={"stream_reasoning": False})
    told = [getattr(chunk.choices[0].delta, "reasoning_content", None) for chunk in chunks]
    assert [text for text in told if text] == ["Well..."]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Paris"


@pytest.mark.parametrize("cut", [(1,), (2,), (5, 3), (1000,)], ids=str)
async def test_reasoning_tokens_are_counted(start_inferd, says, tokens, cut):
    inferd = await start_inferd(says("<think>Well...</think>Paris", chunk_sizes=cut), model=HERMES)
    client = inferd.openai()
    expected = len(tokens("<think>Well...</think>"))
    assert tokens("<think>Well...</think>Paris")[:expected] == tokens("<think>Well...</think>")
    answer = await client.chat.completions.create(**HELLO)
    assert answer.usage.completion_tokens_details.reasoning_tokens == expected
    chunks = await streamed(client, **HELLO, stream_options={"include_usage": True})
    assert chunks[-1].usage == answer.usage


async def test_usage_as_it_grows(start_inferd, says, tokens):
    inferd = await start_inferd(says("Paris is it"))
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = await streamed(inferd.openai(), **HELLO, stream_options=options)
    counts = [chunk.usage.completion_tokens for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[0] == 1
    assert counts[-1] == len(tokens("Paris is it")) + 1
    assert all(chunk.usage.prompt_tokens == chunks[-1].usage.prompt_tokens for chunk in chunks)


async def test_token_ids_where_asked(start_inferd, says, tokens):
    inferd = await start_inferd(says("Paris é"))
    client = inferd.openai()
    answer = await client.chat.completions.create(**HELLO, extra_body={"return_token_ids": True})
    ids = [*tokens("Paris é"), 2]
    assert answer.choices[0].token_ids == ids
    assert len(answer.prompt_token_ids) == answer.usage.prompt_tokens
    chunks = await streamed(client, **HELLO, extra_body={"return_token_ids": True})
    assert [token for chunk in chunks for token in getattr(chunk.choices[0], "token_ids", ())] == ids
    assert chunks[0].prompt_token_ids == answer.prompt_token_ids
    assert not any(hasattr(chunk, "prompt_token_ids") for chunk in chunks[1:])


async def test_what_ended_an_answer(start_inferd, says):
    client = (await start_inferd(says("Hello world, how are you"))).openai()
    by_token = (await client.chat.completions.create(**HELLO)).choices[0]
    assert by_token.matched_stop == 2
    by_string = (await client.chat.completions.create(**HELLO, stop=["how"])).choices[0]
    assert (by_string.matched_stop, by_string.message.content) == ("how", "Hello world, ")
    kept = await client.chat.completions.create(**HELLO, stop=["how"], extra_body={"no_stop_trim": True})
    assert kept.choices[0].message.content == "Hello world, how"
    by_length = (await client.chat.completions.create(**HELLO, max_tokens=2)).choices[0]
    assert by_length.matched_stop is None


def failing(tokens, text: str, which: int, fault: Fault):
    """A script that answers each request with a text, and fails the request of one number."""
    count = iter(range(1000))

    def script(request):
        number = next(count)
        return Reply((*tokens(text), 2), fault=fault if number == which else None)

    return script


async def test_one_failing_answer_does_not_lose_the_others(start_inferd, tokens):
    fault = Fault("status", after=2, code=grpc.StatusCode.INTERNAL)
    inferd = await start_inferd(failing(tokens, "Paris is it", 1, fault))
    client = inferd.openai()
    chunks = await streamed(client, **HELLO, n=3)
    texts, ends = {}, {}
    for chunk in chunks:
        [choice] = chunk.choices
        texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
        if choice.finish_reason:
            ends[choice.index] = choice
    reasons = sorted(choice.finish_reason for choice in ends.values())
    assert reasons == ["error", "stop", "stop"]
    for index, choice in ends.items():
        if choice.finish_reason == "stop":
            assert texts[index] == "Paris is it"
        else:
            assert choice.error["code"] == "runtime_error"
            assert "Paris is it".startswith(texts[index])

    inferd.runtime.script = failing(tokens, "Paris is it", 2, Fault("status", code=grpc.StatusCode.INTERNAL))
    answer = await client.chat.completions.create(**HELLO, n=3)
    assert sorted(choice.finish_reason for choice in answer.choices) == ["error", "stop", "stop"]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]


async def test_where_all_answers_fail_the_call_does(start_inferd, tokens):
    def script(request):
        return Reply(tuple(tokens("Paris")), fault=Fault("status", code=grpc.StatusCode.INTERNAL))

    client = (await start_inferd(script)).openai()
    with pytest.raises(openai.InternalServerError):
        await client.chat.completions.create(**HELLO, n=2)
    with pytest.raises(openai.InternalServerError):
        await streamed(client, **HELLO, n=2)


async def test_what_is_not_done_is_refused(start_inferd, says):
    inferd = await start_inferd(says("Paris"))
    async with inferd.http() as http:

        async def refusal(**request):
            answer = await http.post("/v1/chat/completions", json={**HELLO, **request})
            return answer.status_code, answer.json()["error"]["param"], answer.json()["error"]["code"]

        assert await refusal(audio={"voice": "x"}) == (400, "audio", "unsupported_parameter")
        assert await refusal(modalities=["text", "audio"]) == (400, "modalities[1]", "unsupported_parameter")
        assert await refusal(priority=3) == (400, "priority", "unsupported_parameter")
        assert await refusal(tool_choice="required") == (400, "tool_choice", "invalid_argument")
        assert await refusal(tools=TOOLS, functions=[FUNCTION])
        assert await refusal(tools=TOOLS, tool_choice="required", regex="a")
        accepted = {
            "user": "u",
            "metadata": {"a": "b"},
            "store": True,
            "service_tier": "auto",
            "safety_identifier": "s",
            "prompt_cache_key": "k",
            "prediction": {"type": "content", "content": "Paris"},
            "modalities": ["text"],
            "audio": None,
            "return_hidden_states": False,
        }
        answer = await http.post("/v1/chat/completions", json={**HELLO, **accepted})
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["message"]["content"] == "Paris"


async def test_stop_expressions(start_inferd, says):
    inferd = await start_inferd(says("Hello world, how are you"))
    client = inferd.openai()
    answer = await client.chat.completions.create(**HELLO, extra_body={"stop_regex": "h.w\\b"})
    assert answer.choices[0].message.content == "Hello world, "
    assert answer.choices[0].matched_stop == "h.w\\b"
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(**HELLO, extra_body={"stop_regex": ["a", "("]})
    assert refused.value.param == "stop_regex[1]"


async def test_images_need_a_model_that_sees(start_inferd, says):
    inferd = await start_inferd(says("Paris"))
    parts = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    ]
    with pytest.raises(openai.BadRequestError) as refused:
        await inferd.openai().chat.completions.create(
            model="small", messages=[{"role": "user", "content": parts}]
        )
    assert refused.value.param.startswith("messages[0].content[1]")
    assert refused.value.code == "unsupported_content"


async def test_a_queued_call_is_told_again_as_it_was(start_inferd, says):
    inferd = await start_inferd(says("<think>So</think>" + CALL % "Paris"), model=HERMES)
    async with inferd.http() as http:
        answer = await http.post(
            "/queue/chat/completions", json={**HELLO, "tools": TOOLS}, headers={"Prefer": "wait=30"}
        )
        job = answer.json()
        assert job["status"] == "succeeded"
        [choice] = job["choices"]
        [call] = choice["message"]["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}
        events = (await http.get(f"/queue/chat/completions/{job['id']}?stream=true")).text
    chunks = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: {")]
    [told] = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    assert told["delta"]["reasoning_content"] == choice["message"]["reasoning_content"] == "So"
    assert told["delta"]["tool_calls"] == [{"index": 0, **call}]
    assert told["finish_reason"] == choice["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("options", "content"),
    [
        ({}, "Hello"),
        ({"no_stop_trim": True}, "Hello"),
        ({"skip_special_tokens": False}, "Hello"),
        ({"no_stop_trim": True, "skip_special_tokens": False}, "Hello<|im_end|>"),
    ],
)
async def test_the_end_of_sequence_has_a_log_probability_and_hardly_ever_a_text(
    start_inferd, says, options, content
):
    client = (await start_inferd(says("Hello"))).openai()
    request = {**HELLO, "logprobs": True, "extra_body": options}
    [choice] = (await client.chat.completions.create(**request)).choices
    assert choice.message.content == content
    assert "".join(entry.token for entry in choice.logprobs.content) == "Hello<|im_end|>"
    chunks = await streamed(client, **request)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == content
    parts = [chunk.choices[0].logprobs for chunk in chunks]
    joined = "".join(entry.token for part in parts if part for entry in part.content)
    assert joined == "Hello<|im_end|>"


async def test_names_of_authors_are_any_text_and_names_of_functions_are_not(start_inferd, says):
    client = (await start_inferd(says("Hello"))).openai()
    ask = HELLO["messages"]
    for name in ("Zoë 🙂", "a b\n", "\0", "x" * 256):
        await client.chat.completions.create(model="small", messages=[{**ask[0], "name": name}])
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model="small", messages=[{**ask[0], "name": "x" * 257}])
    assert caught.value.param == "messages[0].name"
    for name in ("f", "a-b_c.d:e/f", "x" * 256):
        await client.chat.completions.create(
            **HELLO, tools=[{"type": "function", "function": {"name": name}}]
        )
    for name in ("Zoë", "a b", "f\n", "x" * 257, "٣", ""):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(
                **HELLO, tools=[{"type": "function", "function": {"name": name}}]
            )
        assert caught.value.param == "tools[0].function.name"
