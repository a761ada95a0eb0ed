"""The prompt of a chat request, over REST, in OpenAI's JSON. The token counter counts the same prompt."""

import pytest

HI = [{"role": "user", "content": "hi"}]
SAID = [*HI, {"role": "assistant", "content": "Paris is"}]
FUNCTION = {
    "name": "get_weather",
    "description": "Tells the weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
TOOL = {"type": "function", "function": FUNCTION}
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+M8AAAMBAQA="
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
}

#: The rest of a chat request: all that its prompt depends on.
BODIES = [
    {"messages": HI},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": text} for text in "ab"]}]},
    {"messages": [{"role": "developer", "content": "be brief"}, *HI]},
    {"messages": HI, "tools": [TOOL]},
    {"messages": HI, "tools": [TOOL], "tool_choice": "none"},
    {"messages": HI, "tools": [{"type": "custom", "custom": {"name": "shell", "description": "Runs it."}}]},
    {"messages": HI, "functions": [FUNCTION]},
    {"messages": HI, "functions": [FUNCTION], "function_call": "none"},
    {"messages": HI, "tools": [TOOL], "tool_choice": "auto", "reasoning_effort": "low"},
    {"messages": HI, "tools": [TOOL, {**TOOL, "function": {"name": "g"}}], "tool_choice": {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "g"}}]},
    }},
    {"messages": [*HI, {"role": "assistant", "content": None, "tool_calls": [CALL]},
                  {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}], "tools": [TOOL]},
    {"messages": [*HI, {"role": "assistant", "content": None,
                        "function_call": {"name": "get_weather", "arguments": "{}"}},
                  {"role": "function", "name": "get_weather", "content": "sunny"}]},
    {"messages": [*HI, {"role": "assistant", "content": "4", "reasoning_content": "2+2"}, *HI]},
    {"messages": [*HI, {"role": "assistant", "content": None, "refusal": "no"}, *HI]},
    {"messages": [*HI, {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}, *HI]},
    {"messages": SAID, "continue_final_message": True},
    {"messages": SAID, "add_generation_prompt": False},
    {"messages": HI, "reasoning_effort": "none", "verbosity": "low", "thinking": {"type": "disabled"}},
    {"messages": HI, "chat_template_kwargs": {"enable_thinking": False}},
    {"messages": HI, "input_ids": [3, 4, 5]},
    {"input_ids": [3, 4, 5]},
]  # fmt: skip


@pytest.fixture(scope="session")
def chat_template(tmp_path_factory) -> str:
    """A template that writes all that it is given, so that all of it is counted."""
    file = tmp_path_factory.mktemp("template") / "chat.jinja"
    file.write_text(
        "{{ messages | tojson }}{{ tools | tojson }}{% if add_generation_prompt %}<assistant>{% endif %}"
        "{% for value in [reasoning_effort, enable_thinking, thinking, thinking_mode, verbosity] %}"
        "{% if value is defined %}{{ loop.index }}: {{ value | tojson }}{% endif %}{% endfor %}"
    )
    return str(file)


async def test_the_counter_counts_the_usage_of_the_same_request(start_inferd, chat_template):
    inferd = await start_inferd(model={"chat_template": chat_template})
    async with inferd.http() as http:
        for body in BODIES:
            counted = await http.post("/utils/token_counter", json={"model": "small", **body})
            answer = await http.post("/v1/chat/completions", json={"model": "small", "max_tokens": 1, **body})
            assert counted.status_code == answer.status_code == 200, counted.text + answer.text
            sent = len(inferd.runtime.requests[-1].tokenized.input_ids)
            assert counted.json()["total_tokens"] == answer.json()["usage"]["prompt_tokens"] == sent
    assert len(inferd.runtime.requests) == len(BODIES)


async def test_a_message_is_gone_on_with(start_inferd, small_text):
    inferd = await start_inferd()
    async with inferd.http() as http:
        body = {"model": "small", "messages": SAID, "continue_final_message": True, "max_tokens": 1}
        assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
    ids = list(inferd.runtime.requests[0].tokenized.input_ids)
    sent = small_text.tokenizer.decode(ids, skip_special_tokens=False)
    assert sent == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nParis is"


def part(kind: str, value: object) -> list[dict[str, object]]:
    content = [{"type": "text", "text": "what?"}, {"type": kind, kind: value}]
    return [*HI, {"role": "user", "content": content}]


#: Requests that are refused, each with the param and the code of its error.
REFUSED = [
    (
        {"messages": part("image_url", {"url": PIXEL})},
        "messages[1].content[1].image_url",
        "unsupported_content",
    ),
    ({"messages": part("image_url", PIXEL)}, "messages[1].content[1].image_url", "unsupported_content"),
    (
        {"messages": part("input_audio", {"data": "UklGRg==", "format": "wav"})},
        "messages[1].content[1].input_audio",
        "unsupported_content",
    ),
    (
        {"messages": HI, "chat_template_kwargs": {"tools": []}},
        "chat_template_kwargs.tools",
        "reserved_variable",
    ),
    ({"messages": HI, "continue_final_message": True}, "continue_final_message", "invalid_argument"),
    ({"messages": HI, "input_ids": [10**6]}, "input_ids[0]", "out_of_range"),
    (
        {"messages": HI, "tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
        "tool_choice.function.name",
        "invalid_argument",
    ),
    ({"messages": HI, "tools": [TOOL], "functions": [FUNCTION]}, "functions", "invalid_argument"),
    ({"messages": HI, "tools": [TOOL, TOOL]}, "tools[1].function.name", "invalid_argument"),
]


async def test_what_cannot_be_is_named(start_inferd):
    inferd = await start_inferd()
    async with inferd.http() as http:
        for path in ("/v1/chat/completions", "/utils/token_counter"):
            for fields, param, code in REFUSED:
                answer = await http.post(path, json={"model": "small", **fields})
                error = answer.json()["error"]
                assert (answer.status_code, error["param"], error["code"]) == (400, param, code)
    assert not inferd.runtime.requests
