"""Renders messages with a model's chat template to the text of a prompt.

Does not tokenize. Does not read images and recordings: the text has the model's placeholder for each.
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
from inferd.services.text.template_form import MessageForm, template_tree, variables_read
from inferd.services.text.template_messages import template_messages
from inferd.services.text.template_renderer import TemplateRenderer
from inferd.services.text.tokenizer import TokenizerError
from inferd.v1 import message_pb2 as pb

#: Openings of answers that are cached, and the most characters of the variables in a cache key.
_MAX_OPENINGS = 256
_MAX_KEY_CHARACTERS = 512


# Not frozen, and neither is RenderedPrompt: frozen classes cost a microsecond for each request.
@dataclass(slots=True)
class Conversation:
    """The input of a template: messages, the functions that are shown, and further variables.

    `generation_prompt`: the prompt ends with the opening of the assistant's next message. `continue_final`:
    the prompt ends with the text of the last message, and the model continues that text.
    """

    messages: Sequence[pb.Message]
    functions: Sequence[Function] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)
    generation_prompt: bool = True
    continue_final: bool = False


@dataclass(slots=True)
class RenderedPrompt:
    """The text of a prompt.

    `end` is the part at the end of the text that belongs to the answer: the opening of the assistant's
    message, or the start of the message that is continued. It contains no text of other messages, because
    those may contain the markers of reasoning, too. `shows_functions` is false if the conversation has
    functions, and the text would be the same without them.
    """

    text: str
    end: str
    shows_functions: bool = True


class ChatTemplate:
    """Renders conversations with the template of a Hugging Face tokenizer.

    `override` is a template that replaces the tokenizer's own. Raises TokenizerError if it is no template.
    """

    def __init__(self, hf: Any, override: str | None = None) -> None:
        if override is not None:
            try:
                template_tree(override)
            except jinja2.TemplateSyntaxError as error:
                raise TokenizerError(f"the chat template's line {error.lineno}: {error.message}") from error
            hf.chat_template = override
        self._renderer = TemplateRenderer(hf)
        self._opening_cache: dict[tuple[str, bool, str], str] = {}
        template = hf.chat_template
        #: The source of the template; of several named templates (such as tool_use), all joined; "" if none.
        self.source = "\n".join(template.values()) if isinstance(template, dict) else template or ""
        self._variables = variables_read(template.values() if isinstance(template, dict) else [self.source])
        self._form = MessageForm.of(
            self.source,
            hf.get_added_vocab(),
            self._renderer.render,
        )

    def reads(self, *names: str) -> bool:
        """Whether the template may read any of these variables."""
        return self._variables is None or not self._variables.isdisjoint(names)

    def render(self, conversation: Conversation) -> RenderedPrompt:
        """Render a conversation.

        Raises ServiceError INVALID_ARGUMENT if the model has no template, or if the template refuses the
        messages (for example, because roles do not alternate).
        """
        if not self.source:
            raise invalid(
                "messages",
                "this model has no chat template: use text completion with a prompt",
                "NO_CHAT_TEMPLATE",
            )
        messages = template_messages(conversation.messages, self._form)
        rendered = self._rendered(conversation, messages)
        rendered.shows_functions = self._shows_functions(conversation, messages)
        return rendered

    def _rendered(self, conversation: Conversation, messages: list[dict[str, Any]]) -> RenderedPrompt:
        if conversation.continue_final:
            mark = _mark_end(conversation.messages[-1], messages[-1], len(messages) - 1)
            text = self._render(conversation, messages)
            end = text.rfind(mark)
            if end < 0:
                raise _refusal("continue_final_message", "it leaves out the text of the last message")
            text = text[:end]
            self._check_placeholders(text, messages)
            return RenderedPrompt(text, self._answer_start(text, conversation, messages[:-1]))
        text = self._render(conversation, messages)
        self._check_placeholders(text, messages)
        if not conversation.generation_prompt or "add_generation_prompt" not in self.source:
            return RenderedPrompt(text, "")
        return RenderedPrompt(text, self._opening(text, conversation, messages))

    def _shows_functions(self, conversation: Conversation, messages: list[dict[str, Any]]) -> bool:
        if not conversation.functions or self._form.shows_tools:
            return True
        if not self.reads("tools"):
            return False
        try:
            without = self._render(replace(conversation, functions=()), messages)
        except ServiceError:
            return True
        return without != self._render(conversation, messages)

    def _check_placeholders(self, text: str, messages: list[dict[str, Any]]) -> None:
        """Raise ServiceError if the numbers of placeholders and of media differ.

        They differ if the text of a message contains a placeholder. SGLang 0.5.23 never answers such a
        prompt.
        """
        expected: Counter[str] = Counter()
        for message in messages:
            if not isinstance(message["content"], str):
                places = self._form.placeholders.get(message["role"], {})
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
        """The opening of the answer. A template has few openings, so most are known from earlier prompts."""
        key = (messages[-1]["role"], bool(conversation.functions), repr(conversation.variables))
        known = self._opening_cache.get(key)
        if known and text.endswith(known):
            return known
        found = self._answer_start(text, conversation, messages)
        if len(self._opening_cache) < _MAX_OPENINGS and len(key[-1]) < _MAX_KEY_CHARACTERS:
            self._opening_cache[key] = found
        return found

    def _answer_start(self, text: str, conversation: Conversation, messages: list[dict[str, Any]]) -> str:
        """The part of `text` that comes after these messages."""
        try:
            before = self._render(replace(conversation, generation_prompt=False), messages)
        except ServiceError:
            # There are no messages, or the template requires another one after them.
            return text
        if text.startswith(before):
            return text[len(before) :]
        pairs = zip(text, before, strict=False)
        return text[sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) :]

    def _render(self, conversation: Conversation, messages: list[dict[str, Any]]) -> str:
        tools = [_tool(function) for function in conversation.functions]
        try:
            return self._render_with(conversation, messages, tools)
        # A template is the model's code: on unexpected input it may raise anything.
        except Exception as error:
            if tools:
                try:
                    # Some templates take tools without OpenAI's wrapper. Tried second, as SGLang does.
                    return self._render_with(conversation, messages, [tool["function"] for tool in tools])
                except Exception:
                    pass
            raise _refusal("messages", str(error)[:1000] or type(error).__name__) from error

    def _render_with(
        self, conversation: Conversation, messages: list[dict[str, Any]], tools: list[dict[str, Any]]
    ) -> str:
        return self._renderer.render(
            messages,
            tools,
            conversation.variables,
            add_generation_prompt=conversation.generation_prompt,
        )


def _refusal(field: str, reason: str) -> ServiceError:
    return invalid(field, f"the model's chat template refuses these messages: {reason}", "TEMPLATE_REFUSED")


def _mark_end(given: pb.Message, message: dict[str, Any], index: int) -> str:
    """Append a random mark to the text of the last message, in place, and return the mark.

    The mark protects whitespace at the end of the text from templates that trim texts.
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
    # Templates read `properties` without checking that there are parameters.
    written["parameters"] = function.parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": written}
