"""The markers with which a format's calls and sections begin and end, and which reader reads what they begin.

What happens when a reader finds no call is the parser's.
"""

from inferd.services.text.output.description import (
    HarmonyCalls,
    JsonCalls,
    NamedCalls,
    PythonCalls,
    ToolFormat,
)
from inferd.services.text.output.json_calls import read_json_calls
from inferd.services.text.output.named_calls import read_name_and_json, read_named_call
from inferd.services.text.output.python_calls import read_python_calls
from inferd.services.text.output.reader import Reader
from inferd.services.text.output.source import Malformed, Steps

NOTHING: frozenset[str] = frozenset()
_JSON = JsonCalls()


class Openers:
    """The markers with which calls and sections of a format begin and end."""

    __slots__ = ("_format", "all", "calls", "end_words", "ends", "marked", "section_ends", "sections")

    def __init__(self, format: ToolFormat) -> None:
        self._format = format
        bare: frozenset[str] = NOTHING
        self.sections: frozenset[str] = NOTHING
        self.section_ends: frozenset[str] = NOTHING
        self.end_words: list[tuple[str, ...]] = []
        match format.syntax:
            case NamedCalls():
                self.marked = _stripped(format.call_begin)
                self.sections = _stripped(format.section_begin)
                self.section_ends = _stripped(format.section_end)
                self.end_words = [(word,) for word in format.call_end.split()]
            case JsonCalls(begins=begins, ends=ends):
                self.marked = frozenset(begins)
                self.end_words = [ends] if ends else []
                bare = frozenset("{[") if format.syntax.bare else NOTHING
            case PythonCalls(begins=begins, ends=ends):
                self.marked = frozenset(begins)
                self.end_words = [ends] if ends else []
                bare = frozenset("[") if format.syntax.bare else NOTHING
            case HarmonyCalls():
                self.marked = NOTHING
        self.ends = frozenset(word for words in self.end_words for word in words)
        self.calls = self.marked
        self.marked |= self.sections
        self.all = self.marked | bare

    def read(self, reader: Reader, mark: str) -> Steps[None]:
        """Reads the calls that begin with this marker, which stands here: a section may have none."""
        source, format = reader.source, self._format
        if mark in self.marked:
            source.position += len(mark)
        if mark in self.sections:
            yield from source.spaces()
            or_json = isinstance(format.syntax, NamedCalls) and format.syntax.or_json
            if or_json and (yield from source.peek()) == "{":
                yield from read_json_calls(reader, _JSON, marked=True)
                return
            begin = yield from source.literal(*self.calls, *self.section_ends)
            if not begin:
                raise Malformed
            if begin in self.section_ends:
                source.hold()
                return
        match format.syntax:
            case NamedCalls() as layout:
                yield from read_named_call(reader, layout, format)
            case PythonCalls() as layout:
                yield from read_python_calls(reader, layout, marked=mark in self.marked)
            case JsonCalls() as layout:
                yield from source.spaces()
                if layout.name_ends and (yield from source.peek()) not in ("{", "["):
                    yield from read_name_and_json(reader, layout.name_ends, layout.id_mark)
                else:
                    yield from read_json_calls(reader, layout, marked=mark in self.marked)


def _stripped(text: str) -> frozenset[str]:
    return frozenset({text.strip()}) if text.strip() else NOTHING
