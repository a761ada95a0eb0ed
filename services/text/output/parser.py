"""Tells content, reasoning and calls apart in the text of an answer, while it comes.

What comes out does not depend on how the text was cut: the readers decide by what they have seen, never by
where a piece ended. The formats are data (`formats`); no family is named here.
"""

import re
from collections.abc import Callable, Sequence

from inferd.services.text.function import Function
from inferd.services.text.output.description import HarmonyCalls
from inferd.services.text.output.events import Event
from inferd.services.text.output.formats import OutputFormat
from inferd.services.text.output.harmony import Harmony
from inferd.services.text.output.json_scanner import JsonScanner
from inferd.services.text.output.markers import finder
from inferd.services.text.output.openers import NOTHING, Openers
from inferd.services.text.output.reader import Reader
from inferd.services.text.output.source import Malformed, Source, Steps
from inferd.services.text.output.writer import Writer

_SURPLUS = re.compile(r"[\s}\]]*")


class OutputParser:
    """Parses one answer.

    `functions` are those that may be called: without any, nothing is a call. `prompt_end` is what the prompt
    has of the answer already: it may have opened or closed the reasoning.
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
        self._source = Source(OutputFormat(tools, format.reasoning).markers)
        self._writer = Writer(calls=tools is not None)
        reader = Reader(self._source, self._writer, {function.name: function for function in functions})
        self._answer: Harmony | _Answer
        if any(
            (
                format.reasoning and format.reasoning.harmony,
                format.tools and isinstance(format.tools.syntax, HarmonyCalls),
            )
        ):
            self._answer = Harmony(reader, prompt_end, reasoning=format.reasoning is not None)
        else:
            self._answer = _Answer(
                reader, OutputFormat(tools, format.reasoning), prompt_end, keep_markers=keep_markers
            )
        self._steps = self._answer.read()
        next(self._steps)

    @property
    def reasoning_end(self) -> int | None:
        """How many characters were reasoning with its markers; None while it goes on."""
        return self._answer.reasoning_end

    def feed(self, text: str) -> list[Event]:
        """What the next piece of text makes certain."""
        self._source.add(text)
        next(self._steps)
        return self._writer.take()

    def finish(self) -> list[Event]:
        """What was held back; the text has ended."""
        self._source.ended = True
        for _ in self._steps:
            pass
        self._writer.finish()
        return self._writer.take()


class _Answer:
    """Reads an answer in which calls, and reasoning, stand between markers or by themselves."""

    def __init__(self, reader: Reader, format: OutputFormat, prompt_end: str, *, keep_markers: bool) -> None:
        self._reader, self._source, self._writer = reader, reader.source, reader.writer
        self._reasoning = format.reasoning
        self._keep_markers = keep_markers
        self.reasoning_end: int | None = None
        self._openers = Openers(format.tools) if format.tools else None
        self._closers: set[str] = set()  # markers that end what was begun, still to come
        self._inside, self._closed = False, self._reasoning is None
        if self._reasoning:
            opened = self._reasoning.opened_by(prompt_end)
            self._closed = opened is False
            self._inside = self._reasoning.forced if opened is None else opened

    def read(self) -> Steps[None]:
        """Reads all of it."""
        yield
        yield from self._start()
        while not self._at_end:
            if self._inside:
                yield from self._read_reasoning()
                self._inside, self._closed = False, True
            else:
                yield from self._read_content()

    @property
    def _at_end(self) -> bool:
        return self._source.ended and self._source.position >= len(self._source.text)

    def _start(self) -> Steps[None]:
        """Reads a marker of the reasoning that the answer begins with, and the space before it."""
        if not self._reasoning:
            self.reasoning_end = 0
            return
        self._source.hold()
        yield from self._source.spaces()
        marks = [self._reasoning.begin]
        if self._reasoning.leading_end and not self._inside:
            marks.append(self._reasoning.end)
        mark = yield from self._source.literal(*marks)
        if mark == self._reasoning.begin:
            self._inside = True
        if mark:
            self._marked(self._source.since_hold)
        else:
            self._source.return_to_held()
        if not self._inside:
            self.reasoning_end = self._source.offset
        self._source.release()

    def _read_reasoning(self) -> Steps[None]:
        assert self._reasoning
        write = self._writer.reasoning
        openers: frozenset[str] = NOTHING
        if self._reasoning.interrupted_by_calls and self._openers:
            openers = self._openers.marked
        marks = finder(openers | {self._reasoning.end})
        while True:
            mark = yield from self._source.until(marks, write)
            if mark in openers:
                end = self._source.offset - len(mark)
                if (yield from self._calls(mark, write)):
                    self._reasoning_over(end)
                    return
            else:
                if mark:
                    self._marked(mark)
                    self._reasoning_over(self._source.offset)
                return

    def _marked(self, mark: str) -> None:
        """A marker of the reasoning was read."""
        if self._keep_markers:
            self._writer.reasoning(mark)

    def _reasoning_over(self, end: int) -> None:
        if self.reasoning_end is None:
            self.reasoning_end = end

    def _read_content(self) -> Steps[None]:
        """Reads content and calls, up to reasoning or the end."""
        write = self._writer.content
        begin = (
            {self._reasoning.begin}
            if self._reasoning and (self._reasoning.repeats or not self._closed)
            else set()
        )
        openers = self._openers.all if self._openers else NOTHING
        frames = frozenset(self._reasoning.frames if self._reasoning else ())
        while True:
            mark = yield from self._source.until(finder(openers | self._closers | begin | frames), write)
            if mark in begin:
                self._marked(mark)
                self._inside = True
                return
            if mark in openers:
                yield from self._calls(mark, write)
            elif mark and mark not in frames:
                self._closers.discard(mark)
                self._writer.inside()
            if self._at_end:
                return

    def _calls(self, mark: str, write: Callable[[str], None]) -> Steps[bool]:
        """Reads calls that begin with a marker just read; where there is none, it is text to `write`.

        Returns whether there was one.
        """
        source, openers = self._source, self._openers
        assert openers
        calls_before = self._writer.count
        marked = mark in openers.marked
        source.position -= len(mark)
        source.hold()
        source.cut = False
        try:
            yield from openers.read(self._reader, mark)
        except Malformed:
            if self._writer.open:
                yield from self._broken(drain=marked)
            elif self._writer.count == calls_before:
                if source.cut and marked:  # it has a call's beginning and no name: there is nothing to tell
                    source.position = len(source.text)
                else:
                    source.return_to_held()
                    yield from self._no_call(mark, write)
                source.release()
                return False
            elif source.cut:
                source.position = len(source.text)
            else:
                source.return_to_held()
        else:
            yield from self._read_end()
        source.release()
        self._closers |= openers.section_ends
        return self._writer.count > calls_before

    def _no_call(self, mark: str, write: Callable[[str], None]) -> Steps[None]:
        source = self._source
        if mark not in ("{", "["):
            write(source.take(source.position + len(mark)))
            return
        scanner = JsonScanner()  # what is inside of it is no call either
        while True:
            write(source.take(scanner.scan(source.text, source.position)))
            if scanner.done or scanner.broken or source.ended:
                return
            yield

    def _broken(self, *, drain: bool) -> Steps[None]:
        """Ends a call whose arguments broke off: up to its end, or the next call, all is its own."""
        source, openers = self._source, self._openers
        assert openers
        if source.cut:
            source.position = len(source.text)
        elif drain and openers.ends:
            marks = openers.ends | openers.section_ends | openers.marked
            mark = yield from source.value_until(finder(marks), self._writer.arguments)
            if mark in openers.marked:
                source.position -= len(mark)
        self._writer.end(complete=False)

    def _read_end(self) -> Steps[None]:
        """Reads what ends a call, with surplus brackets before it; where it is missing, it may come later."""
        source, openers = self._source, self._openers
        assert openers
        if not openers.end_words:
            return
        source.hold()
        yield from source.run(_SURPLUS)
        if (yield from source.literal(*openers.end_words[0])):
            for words in openers.end_words[1:]:
                source.hold()
                yield from source.spaces()
                if not (yield from source.literal(*words)):
                    if source.cut:
                        source.position = len(source.text)
                    else:
                        source.return_to_held()
                    break
        elif source.cut:
            source.position = len(source.text)
        else:
            source.return_to_held()
            self._closers |= openers.ends
