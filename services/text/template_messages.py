"""Converts messages of a request to the form that a chat template takes: Hugging Face's dictionaries.

Renders nothing. `template_form` finds out the form.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any, Literal

import orjson

from inferd.services.errors import invalid
from inferd.services.text.template_form import MessageForm
from inferd.v1 import message_pb2 as pb

_ROLE_NAMES = {
    pb.ROLE_SYSTEM: "system",
    pb.ROLE_USER: "user",
    pb.ROLE_ASSISTANT: "assistant",
    pb.ROLE_TOOL: "tool",
    pb.ROLE_DEVELOPER: "developer",
    pb.ROLE_FUNCTION: "tool",
}
_NINE_CHARACTERS = re.compile(r"[a-zA-Z0-9]{9}")


def template_messages(messages: Sequence[pb.Message], form: MessageForm) -> list[dict[str, Any]]:
    """Convert messages to the template's form.

    Raises ServiceError INVALID_ARGUMENT that names the field of a message that is malformed, or that has
    media for which the template has no place.
    """
    writer = _MessageWriter(form)
    return [writer.message(message, f"messages[{index}]") for index, message in enumerate(messages[:])]


class _MessageWriter:
    def __init__(self, form: MessageForm) -> None:
        self._form = form
        self._function_calls = 0

    def message(self, message: pb.Message, path: str) -> dict[str, Any]:
        role = _ROLE_NAMES.get(message.role)
        if role is None:
            raise invalid(f"{path}.role", f"{path}.role is no role that is known")
        if role == "developer" and not self._form.developer_role:
            role = "system"
        if len(message.ListFields()) == 2 and message.content and message.role != pb.ROLE_FUNCTION:
            # A shortcut for messages with only a role and content, as most messages are.
            return {"role": role, "content": self._content(message, role, path)}
        if role != "assistant":
            _check_not_assistant(message, path)
        written: dict[str, Any] = {"role": role, "content": self._content(message, role, path)}
        if message.HasField("name"):
            written["name"] = message.name
        if message.role == pb.ROLE_FUNCTION:
            written["tool_call_id"] = self._id(self._function_id())
        elif message.HasField("tool_call_id"):
            written["tool_call_id"] = self._id(message.tool_call_id)
        if message.HasField("reasoning_content") and self._form.reasoning_name:
            written[self._form.reasoning_name] = message.reasoning_content
        calls = self._calls(message, path)
        if calls:
            written["tool_calls"] = calls
        return written

    def _content(self, message: pb.Message, role: str, path: str) -> Any:
        # The role developer is handled like system, which it is to most templates.
        form = self._form.parts["system" if role == "developer" else role]
        content = message.content
        if len(content) == 1 and form != "always" and content[0].WhichOneof("part") == "text":
            return content[0].text
        parts = [self._part(part, role, f"{path}.content[{i}]") for i, part in enumerate(content)]
        if not parts:
            parts = [{"type": "text", "text": _text_of_none(message, path)}]
        if any(part["type"] != "text" for part in parts):
            return parts
        if form == "always" or (form == "several" and len(parts) > 1):
            return parts
        # Joined with spaces, as in SGLang's own server.
        return " ".join(part["text"] for part in parts)

    def _part(self, part: pb.ContentPart, role: str, path: str) -> dict[str, Any]:
        kind = part.WhichOneof("part")
        match kind:
            case "text":
                return {"type": "text", "text": part.text}
            case "refusal":
                return {"type": "text", "text": part.refusal}
            case "image_url":
                return self._medium("image", role, f"{path}.{kind}")
            case "input_audio":
                return self._medium("audio", role, f"{path}.{kind}")
        raise invalid(
            path, f"{path} must be a text, image_url, input_audio or refusal part", "REQUIRED_FIELD_MISSING"
        )

    def _medium(self, kind: Literal["image", "audio"], role: str, field: str) -> dict[str, Any]:
        if kind not in self._form.placeholders.get(role, ()):
            message = f"{field}: the model's chat template has no place for it in a {role} message"
            raise invalid(field, message, "UNSUPPORTED_CONTENT")
        return {"type": kind}

    def _calls(self, message: pb.Message, path: str) -> list[dict[str, Any]]:
        calls = []
        for index, call in enumerate(message.tool_calls):
            if call.WhichOneof("call") is None:
                field = f"{path}.tool_calls[{index}]"
                raise invalid(field, f"{field} must be the call of a function", "REQUIRED_FIELD_MISSING")
            calls.append(self._call(call.id, call.function))
        if message.HasField("function_call"):
            self._function_calls += 1
            calls.append(self._call(self._function_id(), message.function_call))
        return calls

    def _call(self, call_id: str, call: pb.FunctionCall) -> dict[str, Any]:
        arguments: Any = call.arguments or "{}"
        if self._form.parses_arguments:
            try:
                document = orjson.loads(arguments)
            except orjson.JSONDecodeError:
                document = None
            if isinstance(document, dict):
                arguments = document
        function = {"name": call.name, "arguments": arguments}
        return {"id": self._id(call_id), "type": "function", "function": function}

    def _function_id(self) -> str:
        """An id for the last function_call, which has none. The next message of role function answers it."""
        return f"call_{self._function_calls}"

    def _id(self, given: str) -> str:
        if not self._form.nine_character_ids or _NINE_CHARACTERS.fullmatch(given):
            return given
        # A hash, so that a call and its result still have the same id.
        return hashlib.sha256(given.encode()).hexdigest()[:9]


def _check_not_assistant(message: pb.Message, path: str) -> None:
    for name in ("tool_calls", "function_call", "refusal", "reasoning_content"):
        given = message.tool_calls if name == "tool_calls" else message.HasField(name)
        if given:
            raise invalid(f"{path}.{name}", f"{path}.{name}: only a message of role assistant has one")


def _text_of_none(message: pb.Message, path: str) -> str:
    if message.HasField("refusal"):
        return message.refusal
    if message.role == pb.ROLE_ASSISTANT:
        # The message may have only called a tool, or have ended within its reasoning. Not None: templates
        # that check for None take "" as well, and others would print "None".
        return ""
    raise invalid(f"{path}.content", f"{path}.content is required", "REQUIRED_FIELD_MISSING")
