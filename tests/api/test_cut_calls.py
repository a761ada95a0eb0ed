"""Calls that are cut off: an answer never shows the form of a call as content, wherever the call is cut."""

import json

import pytest

from tests.api.test_answers import ASK, PARIS, TRUTHS, Truth, every_way
from tests.api.test_answers import long_model as long_model
from tests.doubles.simulated_scheduler import fixed

NAMED = {"type": "function", "function": {"name": "get_weather"}}
ARGUMENTS = json.dumps(PARIS)
#: The form into which the engine forces calls if the model's own form cannot be enforced.
ARRAY = f'[{{"name": "get_weather", "parameters": {ARGUMENTS}}}]'
FORMS = {
    "array": Truth("none", ARRAY),
    "llama 3": Truth("llama3", f'{{"name": "get_weather", "parameters": {ARGUMENTS}}}'),
    "hermes": Truth(
        "hermes", f'<tool_call>\n{{"name": "get_weather", "arguments": {ARGUMENTS}}}\n</tool_call>'
    ),
    "gpt-oss": Truth("gpt-oss", f" to=functions.get_weather<|channel|>commentary json<|message|>{ARGUMENTS}"),
    "kimi k2": Truth("kimi_k2", TRUTHS["kimi k2"].text.removeprefix("Sure.")),
}


async def cut_answers(start_inferd, small_text, long_model, form, **request):
    """For some numbers of tokens: the answers to a request whose answer is cut after that many."""
    ids = small_text.tokenizer.encode(form.text, add_special_tokens=False)
    inferd = await start_inferd(model={"path": long_model, "tool_call_parser": form.tools})
    inferd.runtime.script = fixed([*ids, 2], chunk_sizes=(1, 3))
    first = len(small_text.tokenizer.encode(form.text.partition(ARGUMENTS)[0], add_special_tokens=False))
    for count in sorted({*range(1, first, max(1, first // 8)), first, first + 3}):
        answers = await every_way(inferd, {**ASK, **request, "max_tokens": count})
        assert len({str(said.but_ids()) for said in answers.values()}) == 1
        yield count > first, answers["gRPC"]


@pytest.mark.parametrize("choice", ["required", NAMED])
@pytest.mark.parametrize("name", FORMS)
async def test_a_forced_call_that_is_cut(start_inferd, small_text, long_model, name, choice):
    async for has_arguments, said in cut_answers(
        start_inferd, small_text, long_model, FORMS[name], tool_choice=choice
    ):
        assert (said.content, said.finish) == ("", "length")
        for _, function, arguments in said.calls:
            assert function == "get_weather"
            assert ARGUMENTS.startswith(arguments)
        assert not has_arguments or said.calls[0][2]


@pytest.mark.parametrize("name", ["llama 3", "hermes"])
async def test_a_call_that_is_cut_where_the_answer_is_calls_or_a_document(
    start_inferd, small_text, long_model, name
):
    form = {"response_format": {"type": "json_object"}, "parallel_tool_calls": False}
    async for has_arguments, said in cut_answers(start_inferd, small_text, long_model, FORMS[name], **form):
        assert (said.content, said.finish) == ("", "length")
        assert bool(said.calls) >= has_arguments


@pytest.mark.parametrize("stop", [{"stop": ["name"]}, {"stop": ["name"], "no_stop_trim": True}])
@pytest.mark.parametrize("name", ["array", "hermes"])
async def test_a_forced_call_that_a_stop_string_cuts(start_inferd, small_text, long_model, name, stop):
    form = FORMS[name]
    ids = small_text.tokenizer.encode(form.text, add_special_tokens=False)
    inferd = await start_inferd(model={"path": long_model, "tool_call_parser": form.tools})
    inferd.runtime.script = fixed([*ids, 2])
    for way, said in (await every_way(inferd, {**ASK, **stop, "tool_choice": "required"})).items():
        assert said.but_ids() == ("", "", [], "stop"), way


async def test_an_older_function_call_that_is_cut_and_several_answers(start_inferd, small_text, long_model):
    ids = small_text.tokenizer.encode(ARRAY, add_special_tokens=False)
    inferd = await start_inferd(model={"path": long_model, "tool_call_parser": "none"})
    inferd.runtime.script = fixed([*ids, 2])
    body = {
        "model": "small",
        "messages": ASK["messages"],
        "functions": [tool["function"] for tool in ASK["tools"]],
        "function_call": {"name": "get_weather"},
        "n": 3,
    }
    async with inferd.http() as http:
        for count in (1, 3, 8, len(ids) - 4):
            answer = await http.post("/v1/chat/completions", json={**body, "max_tokens": count})
            for choice in answer.json()["choices"]:
                message = choice["message"]
                assert not message["content"]
                assert choice["finish_reason"] == "length"
                call = message.get("function_call")
                if call is not None:
                    assert call["name"] == "get_weather"
                    assert ARGUMENTS.startswith(call["arguments"])
                assert (call is not None) >= (count == len(ids) - 4)


async def test_the_beginning_of_a_marker_is_content_if_the_model_ends_with_it(
    start_inferd, small_text, long_model
):
    inferd = await start_inferd(model={"path": long_model, "tool_call_parser": "hermes"})
    ids = small_text.tokenizer.encode("<tool", add_special_tokens=False)
    inferd.runtime.script = fixed([*ids, 2])
    for way, said in (await every_way(inferd, ASK)).items():
        assert said.but_ids() == ("<tool", "", [], "stop"), way
    for way, said in (await every_way(inferd, {**ASK, "max_tokens": len(ids)})).items():
        assert said.but_ids() == ("", "", [], "length"), way


async def test_the_beginning_of_reasoning_is_no_content_if_the_answer_is_cut(
    start_inferd, small_text, long_model
):
    inferd = await start_inferd(model={"path": long_model, "reasoning_parser": "qwen3"})
    ids = small_text.tokenizer.encode('<think>Hm</think>{"a": 1}', add_special_tokens=False)
    inferd.runtime.script = fixed([*ids, 2])
    body = {"model": "small", "messages": ASK["messages"], "response_format": {"type": "json_object"}}
    begin = len(small_text.tokenizer.encode("<think>", add_special_tokens=False))
    for count in range(1, begin + 2):
        for way, said in (await every_way(inferd, {**body, "max_tokens": count})).items():
            reasoning = "" if count <= begin else "H"
            assert said.but_ids() == ("", reasoning, [], "length"), (way, count)
