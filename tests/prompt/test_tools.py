"""The tools of a request, and the choice among them, in both of OpenAI's forms."""

import pytest

from inferd.services.errors import ServiceError
from inferd.services.prompt.tools import Tools, tools_of
from inferd.services.text.function import Function, FunctionChoice
from inferd.v1 import chat_pb2 as pb
from inferd.v1 import message_pb2

NONE, AUTO, REQUIRED = (
    pb.TOOL_CHOICE_MODE_NONE,
    pb.TOOL_CHOICE_MODE_AUTO,
    pb.TOOL_CHOICE_MODE_REQUIRED,
)
F = Function("f", field="tools[0].function")
G = Function("g", field="tools[1].function")


def tool(name: str, **fields: object) -> message_pb2.Tool:
    return message_pb2.Tool(function=message_pb2.FunctionTool(name=name, **fields))


def chat(*names: str, **fields: object) -> pb.CreateChatCompletionRequest:
    return pb.CreateChatCompletionRequest(tools=[tool(name) for name in names], **fields)


def older(*names: str, **fields: object) -> pb.CreateChatCompletionRequest:
    functions = [message_pb2.FunctionTool(name=name) for name in names]
    return pb.CreateChatCompletionRequest(functions=functions, **fields)


def named(name: str) -> pb.ToolChoice:
    return pb.ToolChoice(function=pb.NamedFunction(name=name))


def allowed(mode: int, *names: str) -> pb.ToolChoice:
    tools = [pb.AllowedTool(function=pb.NamedFunction(name=name)) for name in names]
    return pb.ToolChoice(allowed_tools=pb.AllowedTools(mode=mode, tools=tools))


def refused(request: pb.CreateChatCompletionRequest) -> ServiceError:
    with pytest.raises(ServiceError) as raised:
        tools_of(request)
    return raised.value


@pytest.mark.parametrize(
    ("choice", "tools"),
    [
        (None, Tools((F, G), (F, G), FunctionChoice("auto"))),
        (pb.ToolChoice(), Tools((F, G), (F, G), FunctionChoice("auto"))),
        (pb.ToolChoice(mode=AUTO), Tools((F, G), (F, G), FunctionChoice("auto"))),
        (pb.ToolChoice(mode=NONE), Tools()),
        (pb.ToolChoice(mode=REQUIRED), Tools((F, G), (F, G), FunctionChoice("required"))),
        # The prompt holds all functions whatever the choice, so that its beginning stays cached.
        (named("g"), Tools((F, G), (G,), FunctionChoice("required", "g"))),
        (allowed(AUTO, "g"), Tools((F, G), (G,), FunctionChoice("auto"))),
        (allowed(REQUIRED, "g", "f", "g"), Tools((F, G), (F, G), FunctionChoice("required"))),
        (allowed(NONE, "g"), Tools()),
    ],
)
def test_a_choice_among_tools(choice, tools):
    assert tools_of(chat("f", "g", tool_choice=choice)) == tools


@pytest.mark.parametrize("choice", [None, pb.ToolChoice(mode=NONE), pb.ToolChoice(mode=AUTO)])
def test_without_tools_there_is_no_choice(choice):
    assert tools_of(chat(tool_choice=choice)) == Tools((), (), FunctionChoice("none"))


def test_a_function_has_what_its_tool_says():
    given = tool("f", description="does f", parameters='{"b": 1, "a": {"c": []}}', strict=True)
    [function] = tools_of(pb.CreateChatCompletionRequest(tools=[given])).shown
    parameters = {"b": 1, "a": {"c": []}}
    assert function == Function("f", parameters, "does f", True, field="tools[0].function")
    assert function.size == given.function.ByteSize()
    assert list(function.parameters) == ["b", "a"]


@pytest.mark.parametrize(
    ("choice", "mode", "only", "count"),
    [
        (None, "auto", None, 2),
        (pb.FunctionCallChoice(mode=AUTO), "auto", None, 2),
        (pb.FunctionCallChoice(mode=NONE), "none", None, 0),
        (pb.FunctionCallChoice(name="g"), "required", "g", 1),
    ],
)
def test_the_older_form_means_the_same(choice, mode, only, count):
    tools = tools_of(older("f", "g", function_call=choice))
    assert (tools.legacy, tools.choice, len(tools.callable)) == (True, FunctionChoice(mode, only), count)
    assert [function.field for function in tools.shown] == (["functions[0]", "functions[1]"] if count else [])


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (chat("f", "g", "f"), "tools[2].function.name"),
        (pb.CreateChatCompletionRequest(tools=[message_pb2.Tool()]), "tools[0]"),
        (chat(tool_choice=pb.ToolChoice(mode=REQUIRED)), "tool_choice"),
        (chat(tool_choice=pb.ToolChoice(mode=9)), "tool_choice"),
        (chat(tool_choice=named("f")), "tool_choice.function.name"),
        (chat("f", tool_choice=allowed(AUTO, "f", "h")), "tool_choice.allowed_tools.tools[1].function.name"),
        (
            chat("f", tool_choice=pb.ToolChoice(allowed_tools=pb.AllowedTools(tools=[pb.AllowedTool()]))),
            "tool_choice.allowed_tools.tools[0]",
        ),
        (older("f", function_call=pb.FunctionCallChoice(name="h")), "function_call.name"),
        (older("f", function_call=pb.FunctionCallChoice(mode=REQUIRED)), "function_call.mode"),
        (older("f", tools=[tool("g")]), "functions"),
        (older("f", tool_choice=pb.ToolChoice(mode=AUTO)), "functions"),
        (chat("f", function_call=pb.FunctionCallChoice(mode=AUTO)), "function_call"),
    ],
)
def test_what_cannot_be_is_named(request_, field):
    assert refused(request_).field == field


@pytest.mark.parametrize(
    "parameters", ["{nope", "", "[]", '"object"', "null", "NaN", "[" * 2000 + "]" * 2000]
)
def test_parameters_that_are_no_json_object_are_named(parameters):
    request = pb.CreateChatCompletionRequest(tools=[tool("f", parameters=parameters)])
    assert refused(request).field == "tools[0].function.parameters"


def test_a_choice_of_what_is_not_there_lists_what_is():
    assert "those are f, g" in refused(chat("f", "g", tool_choice=named("h"))).message
