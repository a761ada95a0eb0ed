"""In what form a chat template takes messages, found by trying: templates agree on little, and say nothing.

Knows nothing of requests: it renders small conversations of its own, once a model.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jinja2
from jinja2 import nodes

#: Renders messages as transformers has them. Raises anything, as templates do.
Render = Callable[[Sequence[Mapping[str, Any]]], str]
#: Whether a content of text is given in parts: where there are several, or also where there is one.
Parts = Literal["never", "several", "always"]

_PROBES = ("qj1probe", "qj2probe")
_USER = {"role": "user", "content": "hello"}
#: By what names templates read an assistant's reasoning, the usual one first.
_REASONING_NAMES = ("reasoning_content", "reasoning", "thinking")
#: Mistral's templates refuse call ids of other lengths, or cut them.
_NINE = re.compile(r"length\s*(?:[!=]=|<)\s*9\b")
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")


@dataclass(frozen=True)
class MessageForm:
    """What a template expects of messages.

    `parts` is by role; so are `places`: for each kind of media that it has a place for, the tokens that stand
    for one, and how often. `reasoning` is by what name it reads the reasoning of a message, None where it
    reads none. `mapping`: calls' arguments are given as such, else as text. `developer`: it knows that role.
    `nine`: ids of calls have nine characters.
    """

    parts: Mapping[str, Parts]
    places: Mapping[str, Mapping[str, Mapping[str, int]]]
    reasoning: str | None
    mapping: bool
    developer: bool
    nine: bool

    @classmethod
    def of(cls, source: str, tokens: Iterable[str], render: Render) -> "MessageForm":
        """Of the template with that text, which `render` renders; with a tokenizer's special tokens."""

        def attempt(*messages: Mapping[str, Any]) -> str:
            try:
                return render(list(messages))
            # A template is foreign code, that fails of what it does not expect in many ways.
            except Exception:
                return ""

        parts = {role: _parts(attempt, role) for role in ("system", "user", "assistant")}
        # Tools' results are text to most templates, also to those that take parts of others.
        parts["tool"] = "always" if parts["user"] == "always" else "never"
        return cls(
            parts=parts,
            places={role: _places(attempt, role, tokens) for role in ("user", "tool")},
            reasoning=_reasoning_name(source),
            mapping=_takes_mapping(attempt) or not _takes_text(attempt),
            developer="developer" in source,
            nine=bool(_NINE.search(source)),
        )


_Attempt = Callable[..., str]


def template_tree(source: str) -> nodes.Template:
    """A template's syntax tree. Raises jinja2.TemplateSyntaxError."""
    # Rendering knows the tag generation, which is Hugging Face's own; it changes nothing here.
    plain = _GENERATION.sub("", source)
    return jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(plain)


def _parts(attempt: _Attempt, role: str) -> Parts:
    def rendered(content: Any) -> str:
        message = {"role": role, "content": content}
        return attempt(*{"system": [message, _USER], "user": [message]}.get(role, [_USER, message]))

    whole = rendered(_PROBES[0])
    in_parts = rendered([_text(probe) for probe in _PROBES])
    # A template that takes text only may print the list that it is given, as Python or as JSON.
    printed = in_parts.count("type") > whole.count("type")
    if printed or not all(probe in in_parts for probe in _PROBES):
        return "never"
    return "several" if _PROBES[0] in whole else "always"


def _places(attempt: _Attempt, role: str, tokens: Iterable[str]) -> dict[str, dict[str, int]]:
    def rendered(*parts: Mapping[str, str]) -> str:
        if role == "tool":
            return attempt(*_called({}, result=[*parts]))
        return attempt({"role": role, "content": [*parts]})

    text = _text(_PROBES[0])
    without = rendered(text)

    places = {}
    for kind in ("image", "audio"):
        with_it = rendered({"type": kind}, text)
        printed = with_it.count("type") > without.count("type")
        if with_it != without and _PROBES[0] in with_it and not printed:
            added = {token: with_it.count(token) - without.count(token) for token in tokens}
            places[kind] = {token: count for token, count in added.items() if count > 0}
    return places


def _takes_mapping(attempt: _Attempt) -> bool:
    name, value = _PROBES
    rendered = attempt(*_called({name: value}))
    # Printed as Python where the template writes it as it is.
    return name in rendered and value in rendered and f"'{name}'" not in rendered


def _takes_text(attempt: _Attempt) -> bool:
    text = f'{{"{_PROBES[0]}": "{_PROBES[1]}"}}'
    return text in attempt(*_called(text))


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
