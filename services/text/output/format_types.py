"""The classes that describe how a model family writes calls and reasoning: markers, names, arguments.

Reads no text. `tool_families` and `reasoning_families` have the descriptions of the families.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

ArgumentsStyle = Literal["json", "qwen_xml", "glm_xml", "deepseek_xml", "deepseek_v4_1_xml", "minimax_xml"]

# Texts that may be one special token: "<tool_call>", "</s>", "[TOOL_CALLS]", "◁think▷".
_MARKER = re.compile(r"</?[^<>\s\"=]+>|\[/?[A-Z_]+\]|◁[^◁▷]+▷")


def markers_in(*texts: str) -> Iterator[str]:
    """The parts of the texts that may be special tokens."""
    for text in texts:
        yield from _MARKER.findall(text)


@dataclass(frozen=True, slots=True)
class JsonCalls:
    """Calls are JSON objects with a name and arguments: a single one, an array, or one after the other.

    `begins` and `ends` are the markers before and after them.
    """

    begins: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    name_keys: tuple[str, ...] = ("name",)
    arguments_keys: tuple[str, ...] = ("arguments", "parameters")
    keyed_by_name: bool = False
    """A call is {NAME: ARGUMENTS} instead."""
    bare: bool = False
    """Calls may also have no marker: a JSON object is a call if its name is that of a function."""
    enforced: bool = False
    """The engine enforces calls, so a bracket without a marker begins a call, too, whatever its name is."""
    name_ends: tuple[str, ...] = ()
    """After a begin marker, a call may also be NAME, one of these texts, ARGUMENTS. "{?": the arguments
    follow the name at once, and begin with "{"."""
    id_mark: str = ""
    """Between the name and a text of `name_ends`, a call may have this text and its id."""


@dataclass(frozen=True, slots=True)
class TaggedArguments:
    """Arguments are tagged one by one: `begin` KEY `key_end` [KIND `kind_end`] VALUE `end`.

    Whitespace in these texts matches any whitespace or none, as in all texts of a ToolFormat. `style` is the
    name of the style in xgrammar's structural tags; None: xgrammar has no such style.
    """

    style: ArgumentsStyle | None
    begin: str
    key_end: str
    end: str
    kind_end: str = ""
    """The text after KIND, which says whether the value is a string or JSON; "": the tag has no KIND."""
    own_lines: bool = False
    """A value is written on lines of its own: one newline before and one after it are not part of it."""
    also_ends: tuple[str, ...] = ()
    """Other texts that end a value, for models that forget `end`. They are read again after the value."""
    string_kind: str = "true"
    """The KIND of a string."""
    verbatim: tuple[str, str] | None = None
    """A value between these two texts is taken as it is, even if it contains `end`: <![CDATA[ and ]]>."""


@dataclass(frozen=True, slots=True)
class NestedTags:
    """Arguments are nested tags with the keys as names, and `mark` before each tag. Items of an array are
    tags named item."""

    mark: str


@dataclass(frozen=True, slots=True)
class NamedCalls:
    """A call is the format's `call_begin`, the name, `call_name_end`, the arguments, and `call_end`."""

    arguments: Literal["json", "braces"] | TaggedArguments | NestedTags = "json"
    """How arguments are written. TaggedArguments may be replaced by a JSON object. "braces" is Gemma's
    notation: keys without quotes, strings between `quote`s."""
    skip_to: str = ""
    """Text after `call_name_end` is skipped, up to and including this text."""
    quote: str = ""
    id_mark: str = ""
    """After the name, a call may have this text and its id."""
    name_in_id: str = ""
    """A regular expression with a group `name`: the call has an id in place of the name, and the id contains
    the name."""
    or_json: bool = False
    """A section may hold JSON objects with a name and arguments instead."""


@dataclass(frozen=True, slots=True)
class PythonCalls:
    """Calls are a Python list of calls whose arguments are literals by keyword: `[f(a=1), g()]`.

    `begins` and `ends` are the markers before and after them. After a marker, the calls may also have no
    brackets and one line each, or be JSON objects.
    """

    begins: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    bare: bool = False
    """Calls may also have no marker: a list holds calls if its first name is that of a function."""


@dataclass(frozen=True, slots=True)
class HarmonyCalls:
    """Harmony, the format of gpt-oss: an answer is messages with a channel and, for a call, a recipient."""


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How a model family writes calls.

    Calls stand between `section_begin` and `section_end`, with `separator` between them. Each call is
    `call_begin` NAME `call_name_end` ARGUMENTS `call_end`. The texts are exactly those of the chat template,
    because a constraint is built from them. The parser accepts other whitespace.
    """

    name: str
    syntax: JsonCalls | NamedCalls | PythonCalls | HarmonyCalls
    call_begin: str = ""
    call_name_end: str = ""
    call_end: str = ""
    section_begin: str = ""
    section_end: str = ""
    separator: str = ""
    name_template: str = "{}"
    """How the name is written; `{}` stands for the name."""
    section_per_call: bool = False
    """Each call has a section of its own."""
    extra_markers: tuple[str, ...] = ()
    """Special tokens within these texts that `markers_in` does not recognise."""

    @property
    def arguments_style(self) -> ArgumentsStyle | None:
        """The style of the arguments in xgrammar's structural tags; None: calls cannot be constrained."""
        match self.syntax:
            case NamedCalls(arguments=TaggedArguments() as parameters):
                return parameters.style
            case NamedCalls(arguments="braces" | NestedTags()) | PythonCalls():
                return None
            case _:
                return "json"

    def call_frame(self, name: str) -> tuple[str, str] | None:
        """The texts before and after the arguments of a call of the function `name`; None: calls cannot be
        constrained."""
        if self.arguments_style is None:
            return None
        written = self.name_template.replace("{}", name)
        before, after = self.call_begin + written + self.call_name_end, self.call_end
        if self.section_per_call:
            return self.section_begin + before, after + self.section_end
        return before, after

    @property
    def enforced(self) -> "ToolFormat":
        """This format, in an answer that must be calls."""
        if not (isinstance(self.syntax, JsonCalls) and self.syntax.bare) or self.syntax.enforced:
            return self
        return replace(self, syntax=replace(self.syntax, enforced=True))

    @property
    def markers(self) -> frozenset[str]:
        """All texts of this format that may be special tokens of the tokenizer."""
        texts = [self.call_begin, self.call_name_end, self.call_end, self.section_begin, self.section_end]
        match self.syntax:
            case JsonCalls() as calls:
                texts += [*calls.begins, *calls.ends, *calls.name_ends, calls.id_mark]
            case NamedCalls() as named:
                texts += [named.id_mark, named.quote]
                if isinstance(named.arguments, NestedTags):
                    texts.append(named.arguments.mark)
                elif isinstance(named.arguments, TaggedArguments):
                    texts += [named.arguments.begin, named.arguments.key_end, named.arguments.end]
            case PythonCalls(begins=begins, ends=ends):
                texts += [*begins, *ends]
            case HarmonyCalls():
                texts += HARMONY_MARKERS
        return frozenset((*markers_in(*texts), *self.extra_markers))


@dataclass(frozen=True, slots=True)
class ReasoningFormat:
    """How a model family marks its reasoning: between `begin` and `end`."""

    name: str
    begin: str
    end: str
    forced: bool = False
    """An answer begins inside the reasoning even if neither prompt nor answer has the `begin` marker."""
    interrupted_by_calls: bool = False
    """A call may begin inside the reasoning, and ends the reasoning."""
    repeats: bool = False
    """More reasoning may follow content or calls."""
    leading_end: bool = False
    """An answer without reasoning may begin with the `end` marker."""
    frames: tuple[str, ...] = ()
    """Texts around the content that are not part of it."""
    harmony: bool = False

    def opened_by(self, prompt_end: str) -> bool | None:
        """Whether the answer begins inside the reasoning, judged by the markers at the end of the prompt.

        None: the prompt ends without markers, and `forced` decides.
        """
        opened, closed = prompt_end.rfind(self.begin.rstrip()), prompt_end.rfind(self.end)
        return None if opened == closed else opened > closed

    @property
    def markers(self) -> frozenset[str]:
        """All texts of this format that may be special tokens of the tokenizer."""
        texts = HARMONY_MARKERS if self.harmony else (self.begin, self.end, *self.frames)
        return frozenset(markers_in(*texts))


#: How calls begin in harmony, up to the arguments. gpt-oss names the recipient after the role or after the
#: channel, because its chat template and its weights differ.
HARMONY_CALLS = (
    "<|channel|>commentary to=functions.{} <|constrain|>json<|message|>",
    "<|channel|>commentary to=functions.{}<|constrain|>json<|message|>",
    " to=functions.{}<|channel|>commentary <|constrain|>json<|message|>",
    " to=functions.{}<|channel|>commentary json<|message|>",
)
HARMONY_MARKERS = (
    "<|start|>",
    "<|channel|>",
    "<|constrain|>",
    "<|message|>",
    "<|end|>",
    "<|call|>",
    "<|return|>",
)
