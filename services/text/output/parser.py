"""Splits the text of an answer into content, reasoning and calls, while the text arrives.

The result does not depend on how the text is cut into pieces: readers decide by the text alone. Names no
model family: `tool_families` and `reasoning_families` describe the families as data.
"""

import re
from collections.abc import Callable, Sequence

from inferd.services.text.function import Function
from inferd.services.text.output.call_markers import NOTHING, CallMarkers
from inferd.services.text.output.event_collector import EventCollector
from inferd.services.text.output.events import Content, Event
from inferd.services.text.output.format_types import HarmonyCalls, ReasoningFormat
from inferd.services.text.output.formats import OutputFormat
from inferd.services.text.output.harmony import HarmonyReader
from inferd.services.text.output.json_scanner import JsonScanner
from inferd.services.text.output.markers import marker_finder
from inferd.services.text.output.parser_state import ParserState
from inferd.services.text.output.text_buffer import Malformed, Steps, TextBuffer

_SURPLUS = re.compile(r"[\s}\]]*")


class OutputParser:
    """Parses one answer.

    `functions` are the functions that may be called; without any, no text is a call. `prompt_end` is the end
    of the prompt that belongs to the answer: it may open or close the reasoning. `keep_markers`: the markers
    around the reasoning are part of the reasoning.
    """

    def __init__(
        self,
        format: OutputFormat,
        functions: Sequence[Function],
        prompt_end: str,
        *,
        keep_markers: bool = False,
    ) -> None:
        tools = format.tools if functions else None
        self._buffer = TextBuffer(OutputFormat(tools, format.reasoning).markers)
        self._writer = EventCollector(calls=tools is not None)
        self._call_markers = CallMarkers(tools) if tools else None
        self._state = state = ParserState(
            self._buffer, self._writer, {function.name: function for function in functions}
        )
        self._answer: HarmonyReader | _MarkedTextReader
        if any(
            (
                format.reasoning and format.reasoning.harmony,
                format.tools and isinstance(format.tools.syntax, HarmonyCalls),
            )
        ):
            self._answer = HarmonyReader(state, prompt_end, reasoning=format.reasoning is not None)
        else:
            self._answer = _MarkedTextReader(
                state, self._call_markers, format.reasoning, prompt_end, keep_markers=keep_markers
            )
        self._steps = self._answer.read()
        next(self._steps)

    @property
    def reasoning_end(self) -> int | None:
        """Characters of the answer up to the end of its reasoning, markers included; None before that end."""
        return self._answer.reasoning_end

    def feed(self, text: str) -> list[Event]:
        """Add a piece of text, and return the events that are certain now."""
        self._buffer.add(text)
        next(self._steps)
        return self._writer.take()

    def finish(self, *, cut: bool = False) -> list[Event]:
        """End the text, and return the events of the text that was held back.

        `cut`: the model did not end the text itself. Then the beginning of a call is no content, if all the
        content since the start or since the last call is that beginning. The same holds for the marker of
        reasoning at the start.
        """
        blank = self._writer.blank
        self._buffer.ended, self._buffer.cut = True, cut
        for _ in self._steps:
            pass
        self._writer.finish()
        events = self._writer.take()
        if cut and blank and self._call_markers:
            rest = "".join([event.text for event in events if isinstance(event, Content)])
            if self._call_markers.may_begin_call(rest, self._state.functions):
                return [event for event in events if not isinstance(event, Content)]
        return events


class _MarkedTextReader:
    """Reads an answer whose reasoning and calls stand between markers, or are recognised as bare JSON or
    Python.

    That is every format but harmony.
    """

    def __init__(
        self,
        state: ParserState,
        call_markers: CallMarkers | None,
        reasoning: ReasoningFormat | None,
        prompt_end: str,
        *,
        keep_markers: bool,
    ) -> None:
        self._state, self._buffer, self._writer = state, state.buffer, state.writer
        self._reasoning = reasoning
        self._keep_markers = keep_markers
        self.reasoning_end: int | None = None
        self._call_markers = call_markers
        self._late_ends: set[str] = set()  # end markers of calls and sections that have not come yet
        self._inside, self._closed = False, self._reasoning is None
        if self._reasoning:
            opened = self._reasoning.opened_by(prompt_end)
            self._closed = opened is False
            self._inside = self._reasoning.forced if opened is None else opened

    def read(self) -> Steps[None]:
        """Read the whole answer."""
        yield
        yield from self._read_start()
        while not self._at_end:
            if self._inside:
                yield from self._read_reasoning()
                self._inside, self._closed = False, True
            else:
                yield from self._read_content()

    @property
    def _at_end(self) -> bool:
        return self._buffer.ended and self._buffer.position >= len(self._buffer.text)

    def _read_start(self) -> Steps[None]:
        """Read a marker of the reasoning at the very start, with any whitespace before it."""
        if not self._reasoning:
            self.reasoning_end = 0
            return
        self._buffer.hold()
        yield from self._buffer.skip_spaces()
        marks = [self._reasoning.begin]
        if self._reasoning.leading_end and not self._inside:
            marks.append(self._reasoning.end)
        mark = yield from self._buffer.accept(*marks)
        if mark == self._reasoning.begin:
            self._inside = True
        if mark:
            self._write_reasoning_marker(self._buffer.held_text)
        elif self._buffer.cut and self._buffer.hit_end:
            self._buffer.discard_rest()
        else:
            self._buffer.rewind()
        if not self._inside:
            self.reasoning_end = self._buffer.offset
        self._buffer.release()

    def _read_reasoning(self) -> Steps[None]:
        assert self._reasoning
        write = self._writer.reasoning
        openers: frozenset[str] = NOTHING
        if self._reasoning.interrupted_by_calls and self._call_markers:
            openers = self._call_markers.begins
        marks = marker_finder(openers | {self._reasoning.end})
        while True:
            mark = yield from self._buffer.copy_until(marks, write)
            if mark in openers:
                end = self._buffer.offset - len(mark)
                if (yield from self._read_calls(mark, write)):
                    self._end_reasoning(end)
                    return
            else:
                if mark:
                    self._write_reasoning_marker(mark)
                    self._end_reasoning(self._buffer.offset)
                return

    def _write_reasoning_marker(self, mark: str) -> None:
        """Write a marker of the reasoning, if markers are kept."""
        if self._keep_markers:
            self._writer.reasoning(mark)

    def _end_reasoning(self, end: int) -> None:
        if self.reasoning_end is None:
            self.reasoning_end = end

    def _read_content(self) -> Steps[None]:
        """Read content and calls, up to reasoning or to the end."""
        write = self._writer.content
        begin = (
            {self._reasoning.begin}
            if self._reasoning and (self._reasoning.repeats or not self._closed)
            else set()
        )
        openers = self._call_markers.all_begins if self._call_markers else NOTHING
        frames = frozenset(self._reasoning.frames if self._reasoning else ())
        while True:
            mark = yield from self._buffer.copy_until(
                marker_finder(openers | self._late_ends | begin | frames), write
            )
            if mark in begin:
                self._write_reasoning_marker(mark)
                self._inside = True
                return
            if mark in openers:
                yield from self._read_calls(mark, write)
            elif mark and mark not in frames:
                self._late_ends.discard(mark)
                self._writer.drop_blank()
            if self._at_end:
                return

    def _read_calls(self, mark: str, write: Callable[[str], None]) -> Steps[bool]:
        """Read the calls behind `mark`, which was just read, and tell whether there are any.

        If no call follows, pass the marker to `write` as text.
        """
        buffer, markers = self._buffer, self._call_markers
        assert markers
        calls_before = self._writer.call_count
        marked = mark in markers.certain
        buffer.position -= len(mark)
        buffer.hold()
        buffer.hit_end = False
        try:
            yield from markers.read_calls(self._state, mark)
        except Malformed:
            if self._writer.in_call:
                yield from self._end_broken_call(drain=marked)
            elif self._writer.call_count == calls_before:
                if buffer.hit_end and marked:
                    # The text ends after the start of a call and before its name: there is no event for that.
                    buffer.discard_rest()
                else:
                    buffer.rewind()
                    yield from self._read_as_text(mark, write)
                buffer.release()
                return False
            elif buffer.hit_end:
                buffer.discard_rest()
            else:
                buffer.rewind()
        else:
            yield from self._read_end()
        buffer.release()
        self._late_ends |= markers.section_ends
        return self._writer.call_count > calls_before

    def _read_as_text(self, mark: str, write: Callable[[str], None]) -> Steps[None]:
        buffer = self._buffer
        if mark not in ("{", "["):
            write(buffer.take(buffer.position + len(mark)))
            return
        scanner = JsonScanner()  # values within this value are no calls either
        while True:
            write(buffer.take(scanner.scan(buffer.text, buffer.position)))
            if scanner.done or scanner.broken or buffer.ended:
                return
            yield

    def _end_broken_call(self, *, drain: bool) -> Steps[None]:
        """End a call whose arguments are malformed.

        `drain`: the text up to the end of the call, or up to the next call, is part of the arguments.
        """
        buffer, markers = self._buffer, self._call_markers
        assert markers
        if buffer.hit_end:
            buffer.discard_rest()
        elif drain and markers.call_ends:
            marks = markers.call_ends | markers.section_ends | markers.begins
            mark = yield from buffer.copy_value_until(marker_finder(marks), self._writer.arguments)
            if mark in markers.begins:
                buffer.position -= len(mark)
        self._writer.end_call(complete=False)

    def _read_end(self) -> Steps[None]:
        """Read the end markers of a call, and surplus brackets before them. The markers may also come
        later."""
        buffer, markers = self._buffer, self._call_markers
        assert markers
        if not markers.end_sequence:
            return
        buffer.hold()
        yield from buffer.read_while(_SURPLUS)
        if (yield from buffer.accept(*markers.end_sequence[0])):
            for words in markers.end_sequence[1:]:
                buffer.hold()
                yield from buffer.skip_spaces()
                if not (yield from buffer.accept(*words)):
                    if buffer.hit_end:
                        buffer.discard_rest()
                    else:
                        buffer.rewind()
                    break
        elif buffer.hit_end:
            buffer.discard_rest()
        else:
            buffer.rewind()
            self._late_ends |= markers.call_ends
