"""Custom tools, through a whole inferd and the official OpenAI SDK: shown as functions, called with text."""

import json

import openai
import pytest
from google.protobuf import json_format
from openai.types.chat import ChatCompletionMessageCustomToolCall

from inferd.v1 import chat_pb2, chat_pb2_grpc
from tests.api.test_answers import long_model as long_model
from tests.doubles.simulated_scheduler import fixed

SHELL = {"type": "custom", "custom": {"name": "shell", "description": "Runs a command."}}
CLOCK = {"type": "function", "function": {"name": "clock"}}
SHOWN = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
}
TEXTS = ['echo "é 🙂"\n\\t </tool_call> {brace}', "", "ls"]
HI = [{"role": "user", "content": "Hello"}]
ASK = {"model": "small", "messages": HI, "tools": [SHELL, CLOCK]}


def call_of(arguments: str, name: str = "shell") -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


@pytest.fixture
def says(small_text):
    def script(text: str, **settings):
        return fixed([*small_text.tokenizer.encode(text, add_special_tokens=False), 2], **settings)

    return script


@pytest.fixture
async def start(start_inferd, long_model, tmp_path):
    """Starts an inferd whose template writes tools and messages as JSON."""
    file = tmp_path / "chat.jinja"
    file.write_text("{{ tools | tojson }}{{ messages | tojson }}")

    async def started(script=None, parser: str = "hermes"):
        model = {"path": long_model, "tool_call_parser": parser, "chat_template": str(file)}
        return await start_inferd(script, model=model)

    return started


async def streamed(client: openai.AsyncOpenAI, **request) -> tuple[str, list[str], str]:
    """The name of the call, the parts of its input, and the finish reason of a stream with one call."""
    name, parts, finish, ids = "", [], "", set()
    async for chunk in await client.chat.completions.create(**request, stream=True):
        [choice] = chunk.choices
        finish = choice.finish_reason or finish
        assert not choice.delta.content
        for call in choice.delta.model_dump(exclude_unset=True).get("tool_calls") or []:
            if "id" in call:
                assert list(call) == ["index", "id", "type", "custom"]
                assert call["type"] == "custom"
                ids.add(call["id"])
            name += call["custom"].get("name", "")
            parts.append(call["custom"].get("input", ""))
    assert len(ids) == 1
    return name, parts, finish


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("sizes", [(1,), (3, 1, 5), (10_000,)], ids=str)
async def test_a_call_has_the_text_that_the_model_wrote(start, says, text, sizes):
    arguments = json.dumps({"input": text}, ensure_ascii=len(text) % 2 == 0)
    client = (await start(says(call_of(arguments), chunk_sizes=sizes))).openai()
    answer = await client.chat.completions.create(**ASK)
    [choice] = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    [call] = choice.message.tool_calls
    assert isinstance(call, ChatCompletionMessageCustomToolCall)
    assert (call.type, call.custom.name, call.custom.input) == ("custom", "shell", text)
    assert call.model_dump(exclude_unset=True) == {
        "id": call.id,
        "type": "custom",
        "custom": {"name": "shell", "input": text},
    }
    name, parts, finish = await streamed(client, **ASK)
    assert (name, "".join(parts), finish) == ("shell", text, "tool_calls")
    if sizes == (1,) and len(text) > 10:
        assert len([part for part in parts if part]) > 5


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"other": 1, "input": "ls"}', "ls"),
        ('{"input": "ls", "other": 1}', "ls"),
        ('{ "input" : "ls" }', "ls"),
        ('{"command": "ls"}', '{"command": "ls"}'),
        ('{"input": ["ls"]}', '{"input": ["ls"]}'),
        ("{}", "{}"),
    ],
)
async def test_arguments_of_another_form(start, says, arguments, text):
    client = (await start(says(call_of(arguments)))).openai()
    [choice] = (await client.chat.completions.create(**ASK)).choices
    assert choice.message.tool_calls[0].custom.input == text
    assert "".join((await streamed(client, **ASK))[1]) == text


async def test_a_call_that_is_cut_has_the_text_up_to_the_cut(start, says, small_text):
    arguments = json.dumps({"input": "é" * 9})
    client = (await start(says(call_of(arguments)))).openai()
    ids = small_text.tokenizer.encode(call_of(arguments), add_special_tokens=False)
    for count in range(len(ids) - 70, len(ids)):
        request = {**ASK, "max_tokens": count}
        [choice] = (await client.chat.completions.create(**request)).choices
        assert not choice.message.content
        assert choice.finish_reason == "length"
        if not choice.message.tool_calls:
            continue
        text = choice.message.tool_calls[0].custom.input
        assert ("é" * 9).startswith(text)
        assert "".join((await streamed(client, **request))[1]) == text


async def test_the_template_gets_a_function_with_one_string_parameter(start, says, small_text):
    inferd = await start(says("Hello"))
    history = [
        *HI,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "call_1", "type": "custom", "custom": {"name": "shell", "input": 'say "é"'}}
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "done"},
    ]
    answer = await inferd.openai().chat.completions.create(**{**ASK, "messages": history, "max_tokens": 1})
    assert answer.choices
    ids = inferd.runtime.requests[-1].tokenized.input_ids
    prompt = small_text.tokenizer.decode(ids, skip_special_tokens=False)
    written = json.JSONDecoder().raw_decode(prompt)
    [shell, clock] = written[0]
    assert shell["type"] == "function"
    assert shell["function"] == {"name": "shell", "description": "Runs a command.", "parameters": SHOWN}
    assert clock["function"]["name"] == "clock"
    [_, called, result] = json.loads(prompt[written[1] :])
    [call] = called["tool_calls"]
    assert (call["id"], call["type"], call["function"]["name"]) == ("call_1", "function", "shell")
    given = call["function"]["arguments"]
    assert (given if isinstance(given, dict) else json.loads(given)) == {"input": 'say "é"'}
    assert result["tool_call_id"] == "call_1"


@pytest.mark.parametrize(
    "choice",
    [
        "required",
        {"type": "custom", "custom": {"name": "shell"}},
        {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "required", "tools": [{"type": "custom", "custom": {"name": "shell"}}]},
        },
    ],
)
async def test_a_choice_forces_the_call(start, says, choice):
    inferd = await start(says('[{"name": "shell", "parameters": {"input": "ls"}}]'), parser="none")
    client = inferd.openai()
    [answer] = (await client.chat.completions.create(**ASK, tool_choice=choice)).choices
    assert answer.message.tool_calls[0].custom.input == "ls"
    assert answer.finish_reason == "tool_calls"
    tag = inferd.runtime.requests[-1].sampling_params.structural_tag
    assert json.dumps(SHOWN["properties"], separators=(",", ":")) in tag


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"tool_choice": {"type": "custom", "custom": {"name": "clock"}}}, "tool_choice.custom.name", None),
        (
            {"tool_choice": {"type": "function", "function": {"name": "shell"}}},
            "tool_choice.function.name",
            None,
        ),
        (
            {
                "tools": [
                    {
                        "type": "custom",
                        "custom": {
                            "name": "shell",
                            "format": {
                                "type": "grammar",
                                "grammar": {"definition": "start: /a/", "syntax": "lark"},
                            },
                        },
                    }
                ]
            },
            "tools[0].custom.format.grammar",
            "unsupported_parameter",
        ),
        ({"tools": [{"type": "custom", "custom": {"name": "a b"}}]}, "tools[0].custom.name", None),
        ({"tools": [SHELL, SHELL]}, "tools[1].custom.name", None),
        (
            {"tools": [SHELL, {"type": "function", "function": {"name": "shell"}}]},
            "tools[1].function.name",
            None,
        ),
    ],
)
async def test_refusals(start, fields, param, code):
    client = (await start()).openai()
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(**{**ASK, **fields})
    assert caught.value.param == param
    assert code is None or caught.value.code == code


async def test_by_grpc_whole_and_streamed(start, says):
    inferd = await start(says(call_of('{"input": "ls"}') + call_of("{}", "clock")))
    request = chat_pb2.CreateChatCompletionRequest(model="small")
    request.messages.add(role="ROLE_USER").content.add(text="Hello")
    request.tools.add().custom.name = "shell"
    request.tools[0].custom.format.text.SetInParent()
    request.tools.add().function.name = "clock"
    async with inferd.channel() as channel:
        stub = chat_pb2_grpc.ChatServiceStub(channel)
        whole = await stub.CreateChatCompletion(request)
        chunks = [chunk async for chunk in stub.StreamChatCompletion(request)]
    shell, clock = whole.choices[0].message.tool_calls
    assert (shell.custom.name, shell.custom.input) == ("shell", "ls")
    assert (clock.function.name, clock.function.arguments) == ("clock", "{}")
    deltas = [call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls]
    assert {(call.index, call.WhichOneof("call")) for call in deltas} == {(0, "custom"), (1, "function")}
    assert "".join(call.custom.input for call in deltas) == "ls", json_format.MessageToJson(chunks[0])


async def test_a_queued_call_is_replayed(start, says):
    inferd = await start(says(call_of('{"input": "ls"}')))
    async with inferd.http() as http:
        headers = {"prefer": "wait=30"}
        job = (await http.post("/queue/chat/completions", json=ASK, headers=headers)).json()
        [call] = job["choices"][0]["message"]["tool_calls"]
        assert call["custom"] == {"name": "shell", "input": "ls"}
        events = (await http.get(f"/queue/chat/completions/{job['id']}?stream=true")).text
    assert '"custom":{"name":"shell","input":"ls"}' in events
