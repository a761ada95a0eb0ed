"""Messages of a request in the form that chat templates read: Hugging Face's dictionaries.

What a template's own form is, it is told; it renders nothing.
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
    """The messages in a template's form. Raises ServiceError INVALID_ARGUMENT naming what is no message."""
    writer = _Writer(form)
    return [writer.message(message, f"messages[{index}]") for index, message in enumerate(messages[:])]


class _Writer:
    def __init__(self, form: MessageForm) -> None:
        self._form = form
        self._made_up = 0

    def message(self, message: pb.Message, path: str) -> dict[str, Any]:
        role = _ROLE_NAMES.get(message.role)
        if role is None:
            raise invalid(f"{path}.role", f"{path}.role is no role that is known")
        if role == "developer" and not self._form.developer:
            role = "system"
        if len(message.ListFields()) == 2 and message.content and message.role != pb.ROLE_FUNCTION:
            # Nothing but role and content, as most messages are.
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
        if message.HasField("reasoning_content") and self._form.reasoning:
            written[self._form.reasoning] = message.reasoning_content
        calls = self._calls(message, path)
        if calls:
            written["tool_calls"] = calls
        return written

    def _content(self, message: pb.Message, role: str, path: str) -> Any:
        # Of developers as of systems, whose messages they are to most templates.
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
        # As SGLang's own server joins them.
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
        if kind not in self._form.places.get(role, ()):
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
            self._made_up += 1
            calls.append(self._call(self._function_id(), message.function_call))
        return calls

    def _call(self, call_id: str, call: pb.FunctionCall) -> dict[str, Any]:
        arguments: Any = call.arguments or "{}"
        if self._form.mapping:
            try:
                document = orjson.loads(arguments)
            except orjson.JSONDecodeError:
                document = None
            if isinstance(document, dict):
                arguments = document
        function = {"name": call.name, "arguments": arguments}
        return {"id": self._id(call_id), "type": "function", "function": function}

    def _function_id(self) -> str:
        """The made-up id of the last function_call, which had none, and which the next function answers."""
        return f"call_{self._made_up}"

    def _id(self, given: str) -> str:
        if not self._form.nine or _NINE_CHARACTERS.fullmatch(given):
            return given
        # The same for a call and its answer.
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
        # It may have called a tool, or have been cut while it thought. Not None: templates that look for None
        # take "" too, and others would print it.
        return ""
    raise invalid(f"{path}.content", f"{path}.content is required", "REQUIRED_FIELD_MISSING")
