"""From requests to prompts: one function serves chat, its usage and the token counter."""

import pytest

from inferd.services.errors import ServiceError
from inferd.services.prompt.prompt_tokens import Prompt, chat_prompt, completion_tokens
from inferd.services.prompt.tools import Tools, tools_of
from inferd.services.text.model_text import ModelText
from inferd.v1 import chat_pb2 as pb
from inferd.v1 import message_pb2, prompt_pb2

#: A template that prints its variables, so that a test sees them.
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% for name in ['reasoning_effort', 'thinking', 'enable_thinking', 'thinking_mode', 'verbosity', 'x'] %}"
    "{% set value = {'reasoning_effort': reasoning_effort, 'thinking': thinking, 'verbosity': verbosity,"
    " 'enable_thinking': enable_thinking, 'thinking_mode': thinking_mode, 'x': x}[name] %}"
    "{% if value is defined %} {{ name }}={{ value | tojson }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="session")
def text(small_model, tmp_path_factory) -> ModelText:
    file = tmp_path_factory.mktemp("template") / "chat.jinja"
    file.write_text(TEMPLATE)
    return ModelText.load(small_model, file)


def message(text: str, role: int = message_pb2.ROLE_USER) -> message_pb2.Message:
    return message_pb2.Message(role=role, content=[message_pb2.ContentPart(text=text)])


HI = [message("hi")]
SAID = [*HI, message("so", message_pb2.ROLE_ASSISTANT)]
TOOL = message_pb2.Tool(function=message_pb2.FunctionTool(name="f"))
SHOWN = (
    '[{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]'
)


async def prompt_of(text: ModelText, **fields: object) -> Prompt:
    request = pb.CreateChatCompletionRequest(**fields)
    return await chat_prompt(text, request, tools_of(request))


async def rendered(text: ModelText, **fields: object) -> str:
    prompt = await prompt_of(text, **fields)
    whole = text.tokenizer.decode(prompt.token_ids, skip_special_tokens=False)
    assert whole.endswith(prompt.end)
    return whole


async def refused(text: ModelText, **fields: object) -> ServiceError:
    with pytest.raises(ServiceError) as raised:
        await prompt_of(text, **fields)
    return raised.value


#: Requests, and what is rendered of them.
CASES = [
    ({"messages": HI}, "<user>hi<assistant>"),
    ({"messages": HI, "add_generation_prompt": False}, "<user>hi"),
    ({"messages": SAID}, "<user>hi<assistant>so<assistant>"),
    ({"messages": SAID, "continue_final_message": True}, "<user>hi<assistant>so"),
    (
        {"messages": SAID, "continue_final_message": True, "add_generation_prompt": False},
        "<user>hi<assistant>so",
    ),
    ({"messages": HI, "tools": [TOOL]}, f"<user>hi{SHOWN}<assistant>"),
    (
        {"messages": HI, "tools": [TOOL], "tool_choice": pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_NONE)},
        "<user>hi<assistant>",
    ),
    (
        {"messages": HI, "tools": [TOOL], "tool_choice": pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_REQUIRED)},
        f"<user>hi{SHOWN}<assistant>",
    ),
    ({"messages": HI, "functions": [TOOL.function]}, f"<user>hi{SHOWN}<assistant>"),
    (
        {
            "messages": HI,
            "functions": [TOOL.function],
            "function_call": pb.FunctionCallChoice(mode=pb.TOOL_CHOICE_MODE_NONE),
        },
        "<user>hi<assistant>",
    ),
    (
        {"messages": HI, "reasoning_effort": pb.REASONING_EFFORT_HIGH},
        '<user>hi reasoning_effort="high" thinking=true enable_thinking=true<assistant>',
    ),
    (
        {"messages": HI, "reasoning_effort": pb.REASONING_EFFORT_NONE},
        '<user>hi reasoning_effort="none" thinking=false enable_thinking=false<assistant>',
    ),
    ({"messages": HI, "reasoning_effort": pb.REASONING_EFFORT_UNSPECIFIED}, "<user>hi<assistant>"),
    (
        {
            "messages": HI,
            "reasoning_effort": pb.REASONING_EFFORT_NONE,
            "chat_template_kwargs": '{"enable_thinking": true, "x": {"b": [1, null], "a": "é"}}',
        },
        '<user>hi reasoning_effort="none" thinking=false enable_thinking=true x={"b": [1, null], "a": "é"}'
        "<assistant>",
    ),
    ({"messages": HI, "thinking": "false"}, "<user>hi thinking=false enable_thinking=false<assistant>"),
    (
        {"messages": HI, "thinking": '{"type": "disabled"}', "reasoning_effort": pb.REASONING_EFFORT_LOW},
        '<user>hi reasoning_effort="low" thinking=false enable_thinking=false thinking_mode="disabled"'
        "<assistant>",
    ),
    (
        {"messages": HI, "thinking": '{"type": "enabled", "budget_tokens": 10}'},
        '<user>hi thinking=true enable_thinking=true thinking_mode="enabled"<assistant>',
    ),
    ({"messages": HI, "thinking": '"deep"'}, '<user>hi thinking="deep"<assistant>'),
    ({"messages": HI, "thinking": "null"}, "<user>hi<assistant>"),
    ({"messages": HI, "verbosity": "low"}, '<user>hi verbosity="low"<assistant>'),
    ({"input_ids": [72, 73]}, None),
    ({"messages": HI, "input_ids": [5, 6, 7], "tools": [TOOL]}, None),
]


@pytest.mark.parametrize(("fields", "expected"), CASES)
async def test_what_is_rendered(text, fields, expected):
    found = await rendered(text, **fields)
    if expected is None:
        expected = text.tokenizer.decode(fields["input_ids"], skip_special_tokens=False)
    assert found == expected


async def test_a_prompt_is_one_user_message_where_there_are_none(text):
    assert await rendered(text, prompt="hi") == "<user>hi<assistant>"
    assert await rendered(text, prompt="unread", messages=HI) == "<user>hi<assistant>"


async def test_the_end_is_what_there_is_of_the_answer(text):
    assert (await prompt_of(text, messages=[message("<think>")])).end == "<assistant>"
    assert (await prompt_of(text, messages=SAID, continue_final_message=True)).end == "<assistant>so"
    assert (await prompt_of(text, messages=SAID, add_generation_prompt=False)).end == ""


async def test_the_end_of_ids_is_that_of_their_text(text):
    ids = text.tokenizer.encode("<|im_start|>assistant\n<think>\n", add_special_tokens=False)
    assert (await prompt_of(text, input_ids=ids)).end == "<|im_start|>assistant\n<think>\n"
    assert len((await prompt_of(text, input_ids=ids * 100)).end) == 200


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "messages"),
        ({"messages": [message_pb2.Message(role=message_pb2.ROLE_USER)]}, "messages[0].content"),
        ({"messages": HI, "input_ids": [1, 10**6]}, "input_ids[1]"),
        (
            {"messages": SAID, "continue_final_message": True, "add_generation_prompt": True},
            "add_generation_prompt",
        ),
        ({"messages": HI, "continue_final_message": True}, "continue_final_message"),
        ({"messages": HI, "reasoning_effort": 99}, "reasoning_effort"),
        ({"messages": HI, "thinking": "{nope"}, "thinking"),
        ({"messages": HI, "chat_template_kwargs": "[]"}, "chat_template_kwargs"),
        ({"messages": HI, "chat_template_kwargs": "{nope"}, "chat_template_kwargs"),
    ],
)
async def test_what_cannot_be_rendered_is_named(text, fields, field):
    assert (await refused(text, **fields)).field == field


@pytest.mark.parametrize(
    "name",
    [
        "messages",
        "tools",
        "chat_template",
        "add_generation_prompt",
        "continue_final_message",
        "conversation",
        "tokenize",
        "return_dict",
        "return_tensors",
        "max_length",
        "eos_token",
        "raise_exception",
    ],
)
async def test_a_variable_of_the_server_s_is_refused(text, name):
    error = await refused(text, messages=HI, chat_template_kwargs=f'{{"{name}": true}}')
    assert (error.field, error.reason) == (f"chat_template_kwargs.{name}", "RESERVED_VARIABLE")


@pytest.mark.parametrize(
    "name", ["self", "range", "namespace", "documents", "loop", "message", "not a name", ""]
)
async def test_any_other_variable_is_rendered_or_refused(text, name):
    for value in ("1", "null", '"{{ 7 * 7 }}"'):
        try:
            found = await rendered(text, messages=HI, chat_template_kwargs=f'{{"{name}": {value}}}')
        except ServiceError as error:
            assert error.reason == "TEMPLATE_REFUSED"
        else:
            assert found == "<user>hi<assistant>"


async def test_a_prompt_without_tokens_is_refused(small_model, tmp_path):
    file = tmp_path / "chat.jinja"
    file.write_text("{% if add_generation_prompt %}<assistant>{% endif %}")
    text = ModelText.load(small_model, file)
    assert (await refused(text, messages=HI, add_generation_prompt=False)).reason == "EMPTY_PROMPT"


async def test_media_are_for_chat_alone(text):
    image = message_pb2.ContentPart(image_url=message_pb2.ImageUrl(url="data:"))
    messages = [*HI, message_pb2.Message(role=message_pb2.ROLE_USER, content=[image])]
    request = pb.CreateChatCompletionRequest(messages=messages)
    for prompt in (chat_prompt(text, request, Tools()), completion_tokens(text, (), messages)):
        with pytest.raises(ServiceError) as raised:
            await prompt
        assert raised.value.field == "messages[1].content[0].image_url"
        assert raised.value.reason == "UNSUPPORTED_CONTENT"


async def test_text_completion_takes_messages_as_chat_does(text):
    [ids] = await completion_tokens(text, (), HI)
    assert ids == (await prompt_of(text, messages=HI)).token_ids
    prompts = [
        prompt_pb2.Prompt(text="hi"),
        prompt_pb2.Prompt(token_ids=prompt_pb2.TokenIds(ids=[1, 2])),
    ]
    assert await completion_tokens(text, prompts, HI) == [
        text.tokenizer.encode("hi", add_special_tokens=True),
        [1, 2],
    ]
