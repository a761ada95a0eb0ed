"""A model's chat template: messages to the text that the model was trained to read.

Knows nothing of tokens, nor of what is in an image: it puts the model's placeholder for one.
"""

import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

import jinja2
from inferd.services.errors import ServiceError, invalid
from inferd.services.text.function import Function
from inferd.services.text.template_form import MessageForm, template_tree
from inferd.services.text.template_messages import template_messages
from inferd.services.text.template_program import TemplateProgram
from inferd.services.text.tokenizer import TokenizerError
from inferd.v1 import message_pb2 as pb

#: Openings that are kept, and how long the variables that they depend on may be, in characters.
_MOST_OPENINGS = 256
_LONGEST_KEY = 512


# Neither this nor what is rendered is frozen: that costs a microsecond a request.
@dataclass(slots=True)
class Conversation:
    """What a template renders: messages, the functions that are shown, and further variables.

    `generation_prompt`: the text ends where the assistant's next message begins. `continue_final`: it ends
    where the last message's text does, for the model to go on with.
    """

    messages: Sequence[pb.Message]
    functions: Sequence[Function] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)
    generation_prompt: bool = True
    continue_final: bool = False


@dataclass(slots=True)
class Rendered:
    """A prompt's text. `begun` is what it has of the answer already, at its end: what opens the assistant's
    message, or what there is of the one that is gone on with. It has no text of other messages, which may
    have markers of its own."""

    text: str
    begun: str


class ChatTemplate:
    """Renders conversations with a Hugging Face tokenizer's template.

    `override` is a template in place of the tokenizer's own. Raises TokenizerError where it is none.
    """

    def __init__(self, hf: Any, override: str | None = None) -> None:
        if override is not None:
            try:
                template_tree(override)
            except jinja2.TemplateSyntaxError as error:
                raise TokenizerError(f"the chat template's line {error.lineno}: {error.message}") from error
            hf.chat_template = override
        self._program = TemplateProgram(hf)
        self._openings: dict[tuple[str, bool, str], str] = {}
        template = hf.chat_template
        #: The template's text; of several named ones (such as tool_use), all of them; "" where there is none.
        self.source = "\n".join(template.values()) if isinstance(template, dict) else template or ""
        self._form = MessageForm.of(
            self.source,
            hf.get_added_vocab(),
            self._program.render,
        )

    def render(self, conversation: Conversation) -> Rendered:
        """The prompt.

        Raises ServiceError INVALID_ARGUMENT where the model has no template, or its template refuses the
        messages (such as roles that do not alternate).
        """
        if not self.source:
            raise invalid(
                "messages",
                "this model has no chat template: use text completion with a prompt",
                "NO_CHAT_TEMPLATE",
            )
        messages = template_messages(conversation.messages, self._form)
        if conversation.continue_final:
            mark = _mark_end(conversation.messages[-1], messages[-1], len(messages) - 1)
            text = self._apply(conversation, messages)
            end = text.rfind(mark)
            if end < 0:
                raise _refusal("continue_final_message", "it leaves out the text of the last message")
            text = text[:end]
            self._check_placeholders(text, messages)
            return Rendered(text, self._begun(text, conversation, messages[:-1]))
        text = self._apply(conversation, messages)
        self._check_placeholders(text, messages)
        if not conversation.generation_prompt or "add_generation_prompt" not in self.source:
            return Rendered(text, "")
        return Rendered(text, self._opening(text, conversation, messages))

    def _check_placeholders(self, text: str, messages: list[dict[str, Any]]) -> None:
        """Raise where there is another number of placeholders than of media, such as where a message's text
        has one: SGLang 0.5.23 never answers then."""
        expected: Counter[str] = Counter()
        for message in messages:
            if not isinstance(message["content"], str):
                places = self._form.places.get(message["role"], {})
                for part in message["content"]:
                    expected.update(places.get(part["type"], {}))
        for token, count in expected.items():
            if text.count(token) != count:
                raise invalid(
                    "messages",
                    f"{token} stands for an image or a recording of the messages: with any of these, no"
                    " text may have it",
                    "PLACEHOLDER_IN_TEXT",
                )

    def _opening(self, text: str, conversation: Conversation, messages: list[dict[str, Any]]) -> str:
        """What opens the answer. A template has few openings, so that most are known from earlier prompts."""
        key = (messages[-1]["role"], bool(conversation.functions), repr(conversation.variables))
        known = self._openings.get(key)
        if known and text.endswith(known):
            return known
        found = self._begun(text, conversation, messages)
        if len(self._openings) < _MOST_OPENINGS and len(key[-1]) < _LONGEST_KEY:
            self._openings[key] = found
        return found

    def _begun(self, text: str, conversation: Conversation, messages: list[dict[str, Any]]) -> str:
        """What the text has beyond these messages."""
        try:
            before = self._apply(replace(conversation, generation_prompt=False), messages)
        except ServiceError:
            # There are none, or the template wants another one.
            return text
        if text.startswith(before):
            return text[len(before) :]
        pairs = zip(text, before, strict=False)
        return text[sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) :]

    def _apply(self, conversation: Conversation, messages: list[dict[str, Any]]) -> str:
        tools = [_tool(function) for function in conversation.functions]
        try:
            return self._rendered(conversation, messages, tools)
        # A template is foreign code, that fails of what it does not expect in many ways.
        except Exception as error:
            if tools:
                try:
                    # Some templates know tools without OpenAI's wrapper: tried second, as SGLang does.
                    return self._rendered(conversation, messages, [tool["function"] for tool in tools])
                except Exception:
                    pass
            raise _refusal("messages", str(error)[:1000] or type(error).__name__) from error

    def _rendered(
        self, conversation: Conversation, messages: list[dict[str, Any]], tools: list[dict[str, Any]]
    ) -> str:
        return self._program.render(
            messages,
            tools,
            conversation.variables,
            add_generation_prompt=conversation.generation_prompt,
        )


def _refusal(field: str, reason: str) -> ServiceError:
    return invalid(field, f"the model's chat template refuses these messages: {reason}", "TEMPLATE_REFUSED")


def _mark_end(given: pb.Message, message: dict[str, Any], index: int) -> str:
    """Mark the end of the last message's text, in place, with what appears nowhere else.

    Beyond the text, so that a template that trims it trims its beginning only.
    """
    field, content = f"messages[{index}]", message["content"]
    last, name = (message, "content") if isinstance(content, str) else (content[-1], "text")
    fault = None
    if given.role != pb.ROLE_ASSISTANT:
        fault = "is no assistant's"
    elif "tool_calls" in message:
        fault = "calls tools"
    elif not last.get(name):
        fault = "does not end in text"
    if fault:
        raise invalid("continue_final_message", f"{field} cannot be gone on with: it {fault}")
    mark = secrets.token_hex(16)
    last[name] += mark
    return mark


def _tool(function: Function) -> dict[str, Any]:
    written: dict[str, Any] = {"name": function.name}
    if function.description is not None:
        written["description"] = function.description
    # Templates read its properties without looking whether there are any.
    written["parameters"] = function.parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": written}
