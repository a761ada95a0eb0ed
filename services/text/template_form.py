"""Finds out in which form a chat template takes messages, by rendering small conversations of its own.

Templates differ, and declare nothing. Runs once for each model, and knows no requests.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jinja2
from jinja2 import meta, nodes

#: Renders messages and tools in transformers' form. May raise anything, as templates do.
Render = Callable[[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]], str]
#: When the text content of a message is given as a list of parts: never, if there are several, or always.
Parts = Literal["never", "several", "always"]

_PROBES = ("qj1probe", "qj2probe")
_USER = {"role": "user", "content": "hello"}
_TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "f",
        "description": _PROBES[0],
        "parameters": {"type": "object", "properties": {}},
    },
}
#: The names by which templates read the reasoning of an assistant's message, the usual name first.
_REASONING_NAMES = ("reasoning_content", "reasoning", "thinking")
#: Finds that a template requires call ids of nine characters. Mistral's refuse or cut others.
_NINE_CHARACTER_IDS = re.compile(r"length\s*(?:[!=]=|<)\s*9\b")
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")


@dataclass(frozen=True)
class MessageForm:
    """The form in which a template takes messages.

    `parts` is by role. `placeholders` is by role and then by kind of media: how often each special token
    appears for one image or recording. A kind that is missing has no place in the template. `reasoning_name`
    is the name of a message's reasoning; None: the template reads none. `parses_arguments`: the arguments of
    calls are given as an object, else as JSON text. `developer_role`: the template knows the role developer.
    `nine_character_ids`: ids of calls must have nine characters. `shows_tools`: every conversation that the
    template renders shows the tools.
    """

    parts: Mapping[str, Parts]
    placeholders: Mapping[str, Mapping[str, Mapping[str, int]]]
    reasoning_name: str | None
    parses_arguments: bool
    developer_role: bool
    nine_character_ids: bool
    shows_tools: bool

    @classmethod
    def of(cls, source: str, tokens: Iterable[str], render: Render) -> "MessageForm":
        """The form of the template with this source, which `render` renders.

        `tokens` are the special tokens of the tokenizer.
        """

        def attempt(*messages: Mapping[str, Any], tools: Sequence[Mapping[str, Any]] = ()) -> str:
            try:
                return render(list(messages), tools)
            # A template is the model's code: on unexpected input it may raise anything.
            except Exception:
                return ""

        parts = {role: _parts(attempt, role) for role in ("system", "user", "assistant")}
        # Most templates take the result of a tool as text, even if they take parts for other roles.
        parts["tool"] = "always" if parts["user"] == "always" else "never"
        return cls(
            parts=parts,
            placeholders={role: _placeholders(attempt, role, tokens) for role in ("user", "tool")},
            reasoning_name=_reasoning_name(source),
            parses_arguments=_takes_mapping(attempt) or not _takes_text(attempt),
            developer_role="developer" in source,
            nine_character_ids=bool(_NINE_CHARACTER_IDS.search(source)),
            shows_tools=_shows_tools(attempt),
        )


_Attempt = Callable[..., str]


def template_tree(source: str) -> nodes.Template:
    """The syntax tree of a template. Raises jinja2.TemplateSyntaxError."""
    # Without the tag `generation`, which is Hugging Face's own. It does not change how messages are read.
    plain = _GENERATION.sub("", source)
    return jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(plain)


def variables_read(sources: Iterable[str]) -> frozenset[str] | None:
    """The names of the variables that templates read; None if that cannot be told."""
    names: set[str] = set()
    for source in sources:
        try:
            names |= meta.find_undeclared_variables(template_tree(source))
        except jinja2.TemplateError:
            return None
    return frozenset(names)


def _parts(attempt: _Attempt, role: str) -> Parts:
    def rendered(content: Any) -> str:
        message = {"role": role, "content": content}
        return attempt(*{"system": [message, _USER], "user": [message]}.get(role, [_USER, message]))

    whole = rendered(_PROBES[0])
    in_parts = rendered([_text(probe) for probe in _PROBES])
    # A template that takes only text may print the list of parts, as Python or JSON.
    printed = in_parts.count("type") > whole.count("type")
    if printed or not all(probe in in_parts for probe in _PROBES):
        return "never"
    return "several" if _PROBES[0] in whole else "always"


def _placeholders(attempt: _Attempt, role: str, tokens: Iterable[str]) -> dict[str, dict[str, int]]:
    def rendered(*parts: Mapping[str, str]) -> str:
        if role == "tool":
            return attempt(*_called({}, result=[*parts]))
        return attempt({"role": role, "content": [*parts]})

    text = _text(_PROBES[0])
    without = rendered(text)

    found = {}
    for kind in ("image", "audio"):
        with_it = rendered({"type": kind}, text)
        printed = with_it.count("type") > without.count("type")
        if with_it != without and _PROBES[0] in with_it and not printed:
            added = {token: with_it.count(token) - without.count(token) for token in tokens}
            found[kind] = {token: count for token, count in added.items() if count > 0}
    return found


def _takes_mapping(attempt: _Attempt) -> bool:
    name, value = _PROBES
    rendered = attempt(*_called({name: value}))
    # A template that does not convert the object to JSON prints it as Python, with single quotes.
    return name in rendered and value in rendered and f"'{name}'" not in rendered


def _takes_text(attempt: _Attempt) -> bool:
    text = f'{{"{_PROBES[0]}": "{_PROBES[1]}"}}'
    return text in attempt(*_called(text))


def _shows_tools(attempt: _Attempt) -> bool:
    conversations = (
        [_USER],
        [{"role": "system", "content": "hello"}, _USER],
        [_USER, {"role": "assistant", "content": "hello"}, _USER],
    )
    shown = []
    for messages in conversations:
        without = attempt(*messages)
        # Some templates take tools without OpenAI's wrapper.
        with_tool = attempt(*messages, tools=[_TOOL]) or attempt(*messages, tools=[_TOOL["function"]])
        if without and with_tool:
            shown.append(with_tool != without)
    return bool(shown) and all(shown)


def _called(arguments: Any, result: Any = "1") -> list[Mapping[str, Any]]:
    call = {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return [
        _USER,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": result, "tool_call_id": "abcdefghi", "name": "f"},
    ]


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _reasoning_name(source: str) -> str | None:
    try:
        tree = template_tree(source)
    except jinja2.TemplateSyntaxError:
        return None
    read = {access.attr for access in tree.find_all(nodes.Getattr)}
    read.update(item.arg.value for item in tree.find_all(nodes.Getitem) if isinstance(item.arg, nodes.Const))
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Getattr) and call.node.attr == "get":
            read.update(name.value for name in call.args[:1] if isinstance(name, nodes.Const))
    return next((name for name in _REASONING_NAMES if name in read), None)
