"""The markers that begin and end calls and sections of calls, and the choice of the reader behind a marker.

Does not decide what happens if no call follows a marker: the parser does.
"""

from collections.abc import Iterable

from inferd.services.text.output.format_types import (
    HARMONY_CALLS,
    HarmonyCalls,
    JsonCalls,
    NamedCalls,
    PythonCalls,
    ToolFormat,
)
from inferd.services.text.output.json_calls import read_json_calls
from inferd.services.text.output.named_calls import read_name_and_json, read_named_call
from inferd.services.text.output.parser_state import ParserState
from inferd.services.text.output.python_calls import read_python_calls
from inferd.services.text.output.text_buffer import Malformed, Steps

NOTHING: frozenset[str] = frozenset()
_JSON = JsonCalls()


class CallMarkers:
    """The markers of one format.

    `call_begins` and `section_begins` begin a call or a section of calls; `begins` are both together.
    `all_begins` also has the brackets that may begin a call without a marker. `end_sequence` are the texts
    that end a call, in order, each with its variants; `call_ends` are all of these texts. `certain` are the
    texts of `all_begins` behind which any name is that of a call.
    """

    __slots__ = (
        "_format",
        "all_begins",
        "begins",
        "call_begins",
        "call_ends",
        "certain",
        "end_sequence",
        "section_begins",
        "section_ends",
    )

    def __init__(self, format: ToolFormat) -> None:
        self._format = format
        bare: frozenset[str] = NOTHING
        self.section_begins: frozenset[str] = NOTHING
        self.section_ends: frozenset[str] = NOTHING
        self.end_sequence: list[tuple[str, ...]] = []
        match format.syntax:
            case NamedCalls():
                self.begins = _stripped(format.call_begin)
                self.section_begins = _stripped(format.section_begin)
                self.section_ends = _stripped(format.section_end)
                self.end_sequence = [(word,) for word in format.call_end.split()]
            case JsonCalls(begins=begins, ends=ends):
                self.begins = frozenset(begins)
                self.end_sequence = [ends] if ends else []
                bare = frozenset("{[") if format.syntax.bare else NOTHING
            case PythonCalls(begins=begins, ends=ends):
                self.begins = frozenset(begins)
                self.end_sequence = [ends] if ends else []
                bare = frozenset("[") if format.syntax.bare else NOTHING
            case HarmonyCalls():
                self.begins = NOTHING
        self.call_ends = frozenset(word for words in self.end_sequence for word in words)
        self.call_begins = self.begins
        self.begins |= self.section_begins
        self.all_begins = self.begins | bare
        enforced = isinstance(format.syntax, JsonCalls) and format.syntax.enforced
        self.certain = self.all_begins if enforced else self.begins

    def read_calls(self, state: ParserState, mark: str) -> Steps[None]:
        """Read the calls behind the marker `mark`, which is the next text. A section may have no calls.

        Raises Malformed if no call follows.
        """
        buffer, format = state.buffer, self._format
        if mark in self.begins:
            buffer.position += len(mark)
        if mark in self.section_begins:
            yield from buffer.skip_spaces()
            or_json = isinstance(format.syntax, NamedCalls) and format.syntax.or_json
            if or_json and (yield from buffer.peek()) == "{":
                yield from read_json_calls(state, _JSON, marked=True)
                return
            begin = yield from buffer.accept(*self.call_begins, *self.section_ends)
            if not begin:
                raise Malformed
            if begin in self.section_ends:
                buffer.hold()
                return
        match format.syntax:
            case NamedCalls() as layout:
                yield from read_named_call(state, layout, format)
            case PythonCalls() as layout:
                yield from read_python_calls(state, layout, marked=mark in self.certain)
            case JsonCalls() as layout:
                yield from buffer.skip_spaces()
                if layout.name_ends and (yield from buffer.peek()) not in ("{", "["):
                    yield from read_name_and_json(state, layout.name_ends, layout.id_mark)
                else:
                    yield from read_json_calls(state, layout, marked=mark in self.certain)

    def may_begin_call(self, text: str, names: Iterable[str]) -> bool:
        """Whether `text` may be the beginning of a call of one of these functions, or of a marker.

        Whitespace does not matter, and text that has nothing else may be such a beginning.
        """
        begins = [*self.begins, *self.section_ends]
        for name in names:
            match self._format.syntax:
                case HarmonyCalls():
                    begins += ["<|start|>assistant", *(call.format(name) for call in HARMONY_CALLS)]
                case JsonCalls(bare=True):
                    call = self._format.call_begin + name + self._format.call_name_end
                    begins += [call, "[" + call]
                case PythonCalls(bare=True):
                    begins.append(f"[{name}(")
        start = _without_spaces(text)
        return any(_without_spaces(begin).startswith(start) for begin in begins)


def _without_spaces(text: str) -> str:
    return "".join(text.split())


def _stripped(text: str) -> frozenset[str]:
    return frozenset({text.strip()}) if text.strip() else NOTHING
