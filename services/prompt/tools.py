"""The tools of a request: which functions are shown to the model, and which it may or must call.

Reads both of OpenAI's forms: tools with tool_choice, and the older functions with function_call. Renders no
prompt and builds no constraint.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from inferd.services.errors import invalid
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
    request uses OpenAI's older fields functions and function_call, and so does the answer.
    """

    shown: tuple[Function, ...] = ()
    callable: tuple[Function, ...] = ()
    choice: FunctionChoice = _NO_CALLS
    legacy: bool = False


NO_TOOLS = Tools()


def tools_of(request: chat_pb2.CreateChatCompletionRequest) -> Tools:
    """The tools of a request, and its choice among them.

    Raises ServiceError INVALID_ARGUMENT if a function has a bad name or schema, if the choice names no
    function of the request, or if the request uses both forms.
    """
    if not (request.functions or request.HasField("function_call")):
        given = [
            (_function_of(tool, f"tools[{i}]"), f"tools[{i}].function")
            for i, tool in enumerate(request.tools[:])
        ]
        return _chosen(_functions(given), request.tool_choice)
    if request.tools or request.HasField("tool_choice"):
        older = "functions" if request.functions else "function_call"
        raise invalid(
            older, f"{older} is OpenAI's older form of tools and tool_choice: only one form may be used"
        )
    functions = _functions((tool, f"functions[{i}]") for i, tool in enumerate(request.functions))
    return _chosen_by_name(functions, request.function_call)


def _chosen(functions: Sequence[Function], choice: chat_pb2.ToolChoice) -> Tools:
    kind = choice.WhichOneof("choice")
    if kind == "function":
        return _only(functions, choice.function.name, "tool_choice.function.name")
    if kind == "allowed_tools":
        return _allowed(functions, choice.allowed_tools)
    return _by_mode(functions, functions, _MODES.get(choice.mode), "tool_choice")


def _chosen_by_name(functions: Sequence[Function], choice: chat_pb2.FunctionCallChoice) -> Tools:
    field = "function_call"
    if choice.mode == chat_pb2.TOOL_CHOICE_MODE_REQUIRED:
        raise invalid(f"{field}.mode", "function_call must be none, auto, or name a function")
    if choice.name:
        tools = _only(functions, choice.name, f"{field}.name")
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


def _only(functions: Sequence[Function], name: str, field: str) -> Tools:
    function = _find(functions, name, field)
    return Tools(tuple(functions), (function,), FunctionChoice("required", name))


def _allowed(functions: Sequence[Function], choice: chat_pb2.AllowedTools) -> Tools:
    field = "tool_choice.allowed_tools"
    names = set()
    for index, tool in enumerate(choice.tools):
        path = f"{field}.tools[{index}]"
        if tool.WhichOneof("tool") is None:
            raise invalid(path, f"{path} must name a function", "REQUIRED_FIELD_MISSING")
        names.add(_find(functions, tool.function.name, f"{path}.function.name").name)
    allowed = [function for function in functions if function.name in names]
    return _by_mode(functions, allowed, _MODES.get(choice.mode), f"{field}.mode")


def _find(functions: Sequence[Function], name: str, field: str) -> Function:
    for function in functions:
        if function.name == name:
            return function
    there = ", ".join(function.name for function in functions)
    raise invalid(
        field,
        f"{field} names {name[:256]!r}, which is no function of the request; "
        + (f"those are {there[:1024]}" if there else "it has none"),
    )


def _function_of(tool: message_pb2.Tool, path: str) -> message_pb2.FunctionTool:
    if tool.WhichOneof("tool") is None:
        raise invalid(path, f"{path} must be a function", "REQUIRED_FIELD_MISSING")
    return tool.function


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
