"""Converts custom tools, whose input is free text, to functions with one string parameter, and calls back.

Models and chat templates know only functions. Does not read how a model writes calls: the parser does.
"""

import re
from collections.abc import Sequence

import orjson

from inferd.services.errors import invalid
from inferd.services.text.output.json_strings import StringDecoder
from inferd.v1 import message_pb2

_PARAMETERS = '{"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}'
#: The arguments of such a function, up to the text of the input.
_HEAD = re.compile(r'\s*\{\s*"input"\s*:\s*"')
#: The inside of a JSON string, up to its end or to an incomplete escape.
_INSIDE = re.compile(r'(?:[^"\\]|\\.)*', re.DOTALL)


def function_of(tool: message_pb2.CustomTool, field: str) -> message_pb2.FunctionTool:
    """The function that stands for a custom tool. `field` is the path of the tool.

    Raises ServiceError INVALID_ARGUMENT (UNSUPPORTED_PARAMETER) if the input must follow a grammar.
    """
    if tool.format.WhichOneof("format") == "grammar":
        path = f"{field}.format.grammar"
        raise invalid(path, f"{path}: the input of custom tools is free text", "UNSUPPORTED_PARAMETER")
    function = message_pb2.FunctionTool(name=tool.name, parameters=_PARAMETERS)
    if tool.HasField("description"):
        function.description = tool.description
    return function


def with_function_calls(messages: Sequence[message_pb2.Message]) -> Sequence[message_pb2.Message]:
    """The messages, with calls of custom tools as calls of the functions that stand for the tools.

    The given messages are not changed.
    """
    for message in messages[:]:
        # The cheapest test comes first, because most messages have no calls.
        if message.role == message_pb2.ROLE_ASSISTANT and message.tool_calls and _has_custom_call(message):
            break
    else:
        return messages
    converted = []
    for message in messages:
        copy = message_pb2.Message()
        copy.CopyFrom(message)
        for call in copy.tool_calls:
            if call.WhichOneof("call") == "custom":
                arguments = orjson.dumps({"input": call.custom.input}).decode()
                call.function.CopyFrom(message_pb2.FunctionCall(name=call.custom.name, arguments=arguments))
        converted.append(copy)
    return converted


def _has_custom_call(message: message_pb2.Message) -> bool:
    return any(call.HasField("custom") for call in message.tool_calls)


class InputReader:
    """Reads the input of one call from the arguments of the function that stands for the tool.

    The arguments arrive in pieces. Arguments without an input are the input themselves, because a model may
    write what it likes if the engine does not enforce the parameters.
    """

    def __init__(self) -> None:
        self._rest = ""
        self._decoder: StringDecoder | None = None
        self._ended = False

    def read(self, arguments: str) -> str:
        """The next part of the input, after the next part of the arguments."""
        if self._ended:
            return ""
        self._rest += arguments
        if self._decoder is None:
            head = _HEAD.match(self._rest)
            if head is None:
                return ""
            self._rest = self._rest[head.end() :]
            self._decoder = StringDecoder()
        inside = _INSIDE.match(self._rest)
        assert inside is not None  # It matches the empty text.
        self._rest = self._rest[inside.end() :]
        self._ended = self._rest.startswith('"')
        return self._decoder.decode(inside.group(), ended=self._ended)

    def finish(self) -> str:
        """The rest of the input, after the end of the arguments. A half escape at the end is left out."""
        if self._decoder is not None or '{"input":"'.startswith("".join(self._rest.split())):
            return ""
        try:
            document = orjson.loads(self._rest)
        except orjson.JSONDecodeError:
            return self._rest
        given = document.get("input") if isinstance(document, dict) else None
        return given if isinstance(given, str) else self._rest
