"""The tools of a request: which functions are shown to the model, and which it may or must call.

Reads both of OpenAI's forms: tools with tool_choice, and the older functions with function_call. Renders no
prompt and builds no constraint.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from inferd.services.errors import invalid
from inferd.services.prompt.custom_tools import function_of
from inferd.services.text.function import ChoiceMode, Function, FunctionChoice
from inferd.v1 import chat_pb2, message_pb2

_MODES: dict[int, ChoiceMode] = {
    chat_pb2.TOOL_CHOICE_MODE_UNSPECIFIED: "auto",
    chat_pb2.TOOL_CHOICE_MODE_NONE: "none",
    chat_pb2.TOOL_CHOICE_MODE_AUTO: "auto",
    chat_pb2.TOOL_CHOICE_MODE_REQUIRED: "required",
}


_NO_CALLS = FunctionChoice("none")


@dataclass(frozen=True, slots=True)
class Tools:
    """The functions of a request.

    `shown` are the functions that the chat template shows to the model. `callable` are the functions that the
    model may call: fewer, if the choice allows only some. Both are empty if the choice is none. `legacy`: the
    request uses OpenAI's older fields functions and function_call, and so does the answer. `custom` are the
    names of the functions that stand for custom tools.
    """

    shown: tuple[Function, ...] = ()
    callable: tuple[Function, ...] = ()
    choice: FunctionChoice = _NO_CALLS
    legacy: bool = False
    custom: frozenset[str] = frozenset()


NO_TOOLS = Tools()


def tools_of(request: chat_pb2.CreateChatCompletionRequest) -> Tools:
    """The tools of a request, and its choice among them.

    Raises ServiceError INVALID_ARGUMENT if a function has a bad name or schema, if the choice names no
    function of the request, or if the request uses both forms.
    """
    if not (request.functions or request.HasField("function_call")):
        given = [_function_of(tool, f"tools[{i}]") for i, tool in enumerate(request.tools[:])]
        functions = _functions(given)
        custom = frozenset([tool.custom.name for tool in request.tools if tool.HasField("custom")])
        tools = _chosen(functions, custom, request.tool_choice)
        return replace(tools, custom=custom) if custom else tools
    if request.tools or request.HasField("tool_choice"):
        older = "functions" if request.functions else "function_call"
        raise invalid(
            older, f"{older} is OpenAI's older form of tools and tool_choice: only one form may be used"
        )
    functions = _functions((tool, f"functions[{i}]") for i, tool in enumerate(request.functions))
    return _chosen_by_name(functions, request.function_call)


def _chosen(functions: Sequence[Function], custom: frozenset[str], choice: chat_pb2.ToolChoice) -> Tools:
    match choice.WhichOneof("choice"):
        case "function":
            found = _find(functions, custom, choice.function, "tool_choice.function.name")
            return _only(functions, found)
        case "custom":
            found = _find(functions, custom, choice.custom, "tool_choice.custom.name")
            return _only(functions, found)
        case "allowed_tools":
            return _allowed(functions, custom, choice.allowed_tools)
    return _by_mode(functions, functions, _MODES.get(choice.mode), "tool_choice")


def _chosen_by_name(functions: Sequence[Function], choice: chat_pb2.FunctionCallChoice) -> Tools:
    field = "function_call"
    if choice.mode == chat_pb2.TOOL_CHOICE_MODE_REQUIRED:
        raise invalid(f"{field}.mode", "function_call must be none, auto, or name a function")
    if choice.name:
        named = chat_pb2.NamedFunction(name=choice.name)
        tools = _only(functions, _find(functions, frozenset(), named, f"{field}.name"))
    else:
        tools = _by_mode(functions, functions, _MODES.get(choice.mode), field)
    return replace(tools, legacy=True)


def _by_mode(
    shown: Sequence[Function], allowed: Sequence[Function], mode: ChoiceMode | None, field: str
) -> Tools:
    if mode is None:
        raise invalid(field, f"{field} must be none, auto or required")
    if mode == "required" and not shown:
        raise invalid(field, f"{field} is required, and the request has no tools")
    if mode == "none" or not shown:
        return NO_TOOLS
    return Tools(tuple(shown), tuple(allowed), FunctionChoice(mode))


def _only(functions: Sequence[Function], function: Function) -> Tools:
    return Tools(tuple(functions), (function,), FunctionChoice("required", function.name))


def _allowed(functions: Sequence[Function], custom: frozenset[str], choice: chat_pb2.AllowedTools) -> Tools:
    field = "tool_choice.allowed_tools"
    names = set()
    for index, tool in enumerate(choice.tools):
        path = f"{field}.tools[{index}]"
        kind = tool.WhichOneof("tool")
        if kind is None:
            raise invalid(path, f"{path} must name a function or a custom tool", "REQUIRED_FIELD_MISSING")
        names.add(_find(functions, custom, getattr(tool, kind), f"{path}.{kind}.name").name)
    allowed = [function for function in functions if function.name in names]
    return _by_mode(functions, allowed, _MODES.get(choice.mode), f"{field}.mode")


def _find(
    functions: Sequence[Function],
    custom: frozenset[str],
    named: chat_pb2.NamedFunction | chat_pb2.NamedCustomTool,
    field: str,
) -> Function:
    is_custom = isinstance(named, chat_pb2.NamedCustomTool)
    found = [function for function in functions if (function.name in custom) is is_custom]
    for function in found:
        if function.name == named.name:
            return function
    there = ", ".join(function.name for function in found)
    raise invalid(
        field,
        f"{field} names {named.name[:256]!r}, which is no {'custom tool' if is_custom else 'function'}"
        " of the request; " + (f"those are {there[:1024]}" if there else "it has none"),
    )


def _function_of(tool: message_pb2.Tool, path: str) -> tuple[message_pb2.FunctionTool, str]:
    """The function that a tool is, or that stands for the tool; and the path of the tool's definition."""
    match tool.WhichOneof("tool"):
        case "function":
            return tool.function, f"{path}.function"
        case "custom":
            return function_of(tool.custom, f"{path}.custom"), f"{path}.custom"
    raise invalid(path, f"{path} must be a function or a custom tool", "REQUIRED_FIELD_MISSING")


def _functions(given: Iterable[tuple[message_pb2.FunctionTool, str]]) -> list[Function]:
    functions: dict[str, Function] = {}
    for tool, field in given:
        function = _function(tool, field)
        first = functions.setdefault(function.name, function)
        if first is not function:
            raise invalid(
                f"{field}.name", f"{field}.name is {function.name!r}, which is the name of {first.field} too"
            )
    return list(functions.values())


def _function(tool: message_pb2.FunctionTool, field: str) -> Function:
    return Function(
        name=tool.name,
        parameters=_parameters(tool.parameters, f"{field}.parameters")
        if tool.HasField("parameters")
        else None,
        description=tool.description if tool.HasField("description") else None,
        strict=tool.strict,
        field=field,
        size=tool.ByteSize(),
    )


def _parameters(text: str, field: str) -> Mapping[str, Any]:
    try:
        schema = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise invalid(field, f"{field} is no JSON document: {error}") from error
    if not isinstance(schema, dict):
        raise invalid(field, f"{field} must be a JSON object: a JSON Schema")
    return schema
