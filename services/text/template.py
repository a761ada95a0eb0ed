"""A model's chat template: messages to the text that the model was trained to read."""

from collections.abc import Iterable
from typing import Any

import jinja2
import orjson
from inferd.v1 import message_pb2 as pb
from jinja2 import nodes

from services.errors import invalid

_ROLE_NAMES = {
    pb.ROLE_SYSTEM: "system",
    pb.ROLE_USER: "user",
    pb.ROLE_ASSISTANT: "assistant",
    pb.ROLE_TOOL: "tool",
    pb.ROLE_DEVELOPER: "developer",
}


class ChatTemplate:
    """Renders conversations with a Hugging Face tokenizer's template."""

    def __init__(self, hf: Any) -> None:
        self._hf = hf
        template = hf.chat_template
        self._source = "\n".join(template.values()) if isinstance(template, dict) else template or ""
        self._takes_parts = _loops_over_content(self._source)

    def render(self, messages: Iterable[pb.Message], tools: Iterable[pb.Tool]) -> str:
        """The prompt's text, up to where the model's answer begins.

        Raises ServiceError INVALID_ARGUMENT where the model has no template, or its template refuses the
        messages (such as roles that do not alternate).
        """
        if not self._source:
            raise invalid(
                "messages",
                "this model has no chat template: use text completion with a prompt",
                "NO_CHAT_TEMPLATE",
            )
        conversation = [self._message(message, f"messages[{i}]") for i, message in enumerate(messages)]
        functions = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools)]
        try:
            rendered: str = self._hf.apply_chat_template(
                conversation,
                tools=functions or None,
                tokenize=False,
                add_generation_prompt=True,
            )
        except (jinja2.TemplateError, TypeError, KeyError, ValueError) as error:
            raise invalid(
                "messages", f"the model's chat template refuses these messages: {error}", "TEMPLATE_REFUSED"
            ) from error
        return rendered

    def _message(self, message: pb.Message, path: str) -> dict[str, Any]:
        role = _ROLE_NAMES.get(message.role)
        if role is None:
            raise invalid(f"{path}.role", f"{path}.role is no role that is known")
        if role == "developer" and "developer" not in self._source:
            role = "system"
        if not message.content and not message.tool_calls:
            raise invalid(f"{path}.content", f"{path}.content is required", "REQUIRED_FIELD_MISSING")
        for index, part in enumerate(message.content):
            if part.WhichOneof("part") is None:
                field = f"{path}.content[{index}]"
                raise invalid(field, f"{field} must be a text part", "REQUIRED_FIELD_MISSING")
        rendered: dict[str, Any] = {"role": role, "content": self._content(message)}
        if message.HasField("name"):
            rendered["name"] = message.name
        if message.HasField("tool_call_id"):
            rendered["tool_call_id"] = message.tool_call_id
        if message.tool_calls:
            rendered["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
        return rendered

    def _content(self, message: pb.Message) -> Any:
        if self._takes_parts and len(message.content) > 1:
            return [{"type": "text", "text": part.text} for part in message.content]
        # Several parts in a template of strings: joined as SGLang's own server joins them.
        return " ".join(part.text for part in message.content)


def _loops_over_content(source: str) -> bool:
    """Whether a template loops over a message's content, and so takes it in parts."""
    try:
        tree = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(source)
    except jinja2.TemplateSyntaxError:
        # Tags of Hugging Face's own, such as generation: rendering knows them, this look does not.
        return "in message.content" in source or "in message['content']" in source
    return any(_is_content(loop.iter) for loop in tree.find_all(nodes.For))


def _is_content(expression: nodes.Node) -> bool:
    if isinstance(expression, nodes.Getattr):
        return expression.attr == "content"
    return (
        isinstance(expression, nodes.Getitem)
        and isinstance(expression.arg, nodes.Const)
        and expression.arg.value == "content"
    )


def _tool(tool: pb.Tool, path: str) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.function.name}
    if tool.function.HasField("description"):
        function["description"] = tool.function.description
    if tool.function.HasField("parameters"):
        field = f"{path}.function.parameters"
        try:
            function["parameters"] = orjson.loads(tool.function.parameters)
        except orjson.JSONDecodeError as error:
            raise invalid(field, f"{field} is no JSON document: {error}") from error
        if not isinstance(function["parameters"], dict):
            raise invalid(field, f"{field} must be a JSON object: a JSON Schema")
    return {"type": "function", "function": function}


def _tool_call(call: pb.ToolCall) -> dict[str, Any]:
    try:
        # Templates write the arguments with their own JSON filter: they take a mapping.
        arguments = orjson.loads(call.function.arguments or "{}")
    except orjson.JSONDecodeError:
        arguments = call.function.arguments
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.function.name, "arguments": arguments},
    }
