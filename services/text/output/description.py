"""The language in which a model family's output is described: what stands around a call, and in it.

Only descriptions: nothing here reads text. The families are in `tool_families` and `reasoning_families`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

ArgumentsStyle = Literal["json", "qwen_xml", "glm_xml", "deepseek_xml", "deepseek_v4_1_xml", "minimax_xml"]

# What a tokenizer may hold as one special token: "<tool_call>", "</s>", "[TOOL_CALLS]", "◁think▷".
_MARKER = re.compile(r"</?[^<>\s\"=]+>|\[/?[A-Z_]+\]|◁[^◁▷]+▷")


def markers_in(*texts: str) -> Iterator[str]:
    """The parts of the texts that may be special tokens of their own."""
    for text in texts:
        yield from _MARKER.findall(text)


@dataclass(frozen=True, slots=True)
class JsonCalls:
    """Calls are JSON objects with a name and arguments: alone, in an array, or one after the other."""

    begins: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    name_keys: tuple[str, ...] = ("name",)
    arguments_keys: tuple[str, ...] = ("arguments", "parameters")
    keyed_by_name: bool = False
    """The object is {NAME: ARGUMENTS} instead."""
    bare: bool = False
    """Also without a marker: any JSON object may be a call, and is one where its name is a function's."""
    name_ends: tuple[str, ...] = ()
    """A begin may also be followed by NAME, one of these, ARGUMENTS. See `NamedCalls`."""
    id_mark: str = ""
    """See `NamedCalls`."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """Arguments are tagged one by one: `begin` KEY `key_end` [KIND `kind_end`] VALUE `end`.

    In `key_end`, as in every text of a description, whitespace stands for any whitespace or none.
    """

    style: ArgumentsStyle | None
    begin: str
    key_end: str
    end: str
    kind_end: str = ""
    """Where the tag itself says whether its value is a string ("true") or JSON: the text after that."""
    own_lines: bool = False
    """The format writes a value on lines of its own: one newline before and one after are not the value's."""
    also_ends: tuple[str, ...] = ()
    """What ends a value as well, where its own end is missing: it is not part of the value's end."""
    string_kind: str = "true"
    """The kind that says string."""
    literal: tuple[str, str] | None = None
    """A value that begins with the first is what stands before the second, whatever it holds."""


@dataclass(frozen=True, slots=True)
class NestedTags:
    """Arguments are tags within tags, named for their keys, `mark` before each tag; an array's are items."""

    mark: str


@dataclass(frozen=True, slots=True)
class NamedCalls:
    """A call is the format's `call_begin`, the name, `call_name_end`, the arguments, `call_end`."""

    arguments: Literal["json", "braces"] | Parameters | NestedTags = "json"
    """JSON; or tagged one by one (also then a JSON object will do); or in braces, with bare keys, and strings
    between `quote`s (Gemma)."""
    skip_to: str = ""
    """What stands between `call_name_end` and this is not read."""
    quote: str = ""
    id_mark: str = ""
    """After the name there may be this and the call's id."""
    name_in_id: str = ""
    """A pattern with a group `name`: what stands for the name is the call's id, and holds the name so."""
    or_json: bool = False
    """A section may hold JSON objects with a name and arguments instead."""


@dataclass(frozen=True, slots=True)
class PythonCalls:
    """Calls are a Python list of calls with literals by keyword: `[f(a=1), g()]`.

    After one of `begins` also without the brackets, one a line, or in JSON.
    """

    begins: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    bare: bool = False
    """Also without a marker: such a list is one of calls where its first name is a function's."""


@dataclass(frozen=True, slots=True)
class HarmonyCalls:
    """gpt-oss: everything is a message with a channel and, for a call, a recipient."""


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How a model family writes calls.

    The texts are what its chat template writes, so that a constraint can be made of them; a parser is lax
    about the whitespace around them. Calls stand between `section_begin` and `section_end`, joined by
    `separator`, each of them `call_begin` NAME `call_name_end` ARGUMENTS `call_end`.
    """

    name: str
    syntax: JsonCalls | NamedCalls | PythonCalls | HarmonyCalls
    call_begin: str = ""
    call_name_end: str = ""
    call_end: str = ""
    section_begin: str = ""
    section_end: str = ""
    separator: str = ""
    written_name: str = "{}"
    """How the name stands there, in place of `{}`."""
    section_per_call: bool = False
    """Every call has a section of its own."""
    extra_markers: tuple[str, ...] = ()
    """Special tokens within these texts, where they do not look like ones."""

    @property
    def arguments_style(self) -> ArgumentsStyle | None:
        """xgrammar's name for how arguments are written; None: it has none, calls cannot be constrained."""
        match self.syntax:
            case NamedCalls(arguments=Parameters() as parameters):
                return parameters.style
            case NamedCalls(arguments="braces" | NestedTags()) | PythonCalls():
                return None
            case _:
                return "json"

    def call_frame(self, name: str) -> tuple[str, str] | None:
        """The texts before and after a call's arguments; None where a call cannot be constrained."""
        if self.arguments_style is None:
            return None
        written = self.written_name.replace("{}", name)
        before, after = self.call_begin + written + self.call_name_end, self.call_end
        if self.section_per_call:
            return self.section_begin + before, after + self.section_end
        return before, after

    @property
    def markers(self) -> frozenset[str]:
        """Every text of this format that a tokenizer may hold as a special token."""
        texts = [self.call_begin, self.call_name_end, self.call_end, self.section_begin, self.section_end]
        match self.syntax:
            case JsonCalls() as calls:
                texts += [*calls.begins, *calls.ends, *calls.name_ends, calls.id_mark]
            case NamedCalls() as named:
                texts += [named.id_mark, named.quote]
                if isinstance(named.arguments, NestedTags):
                    texts.append(named.arguments.mark)
                elif isinstance(named.arguments, Parameters):
                    texts += [named.arguments.begin, named.arguments.key_end, named.arguments.end]
            case PythonCalls(begins=begins, ends=ends):
                texts += [*begins, *ends]
            case HarmonyCalls():
                texts += HARMONY_MARKERS
        return frozenset((*markers_in(*texts), *self.extra_markers))


@dataclass(frozen=True, slots=True)
class ReasoningFormat:
    """How a model family marks its reasoning."""

    name: str
    begin: str
    end: str
    forced: bool = False
    """The text begins inside the reasoning, whether the marker was written or not."""
    interrupted_by_calls: bool = False
    """A call may begin inside the reasoning, and ends it."""
    repeats: bool = False
    """Reasoning may come again after content or calls."""
    leading_end: bool = False
    """An answer without reasoning may still begin with the closing marker."""
    frames: tuple[str, ...] = ()
    """Texts around content that are none of it."""
    harmony: bool = False

    def opened_by(self, prompt_end: str) -> bool | None:
        """Whether an answer that the prompt has begun so is inside the reasoning; None: the prompt has none
        of its markers, and the family's own rule holds."""
        opened, closed = prompt_end.rfind(self.begin.rstrip()), prompt_end.rfind(self.end)
        return None if opened == closed else opened > closed

    @property
    def markers(self) -> frozenset[str]:
        """Every text of this format that a tokenizer may hold as a special token."""
        texts = HARMONY_MARKERS if self.harmony else (self.begin, self.end, *self.frames)
        return frozenset(markers_in(*texts))


HARMONY_MARKERS = (
    "<|start|>",
    "<|channel|>",
    "<|constrain|>",
    "<|message|>",
    "<|end|>",
    "<|call|>",
    "<|return|>",
)
