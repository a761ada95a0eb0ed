"""Reads gpt-oss's harmony: messages with a channel, and a recipient for a call.

Its markers never are content; what the model writes outside any message is.
"""

import re
from dataclasses import dataclass

from inferd.services.text.output.description import HARMONY_MARKERS
from inferd.services.text.output.json_calls import read_arguments
from inferd.services.text.output.markers import finder
from inferd.services.text.output.reader import Reader
from inferd.services.text.output.source import Malformed, Steps

_MESSAGE = "<|message|>"
_BEGINS = frozenset({"<|start|>", "<|channel|>"})
_ENDS = frozenset({"<|end|>", "<|call|>", "<|return|>"})
_ALL = finder(frozenset(HARMONY_MARKERS))
_BODY_END = finder(_BEGINS | _ENDS)
_HEADER_END = finder(_ENDS | {_MESSAGE})
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")
_OPEN_MESSAGE = re.compile(
    r"(?:<\|start\|>|\A)(?P<header>(?:(?!<\|(?:start|end|call|return)\|>).)*)\Z", re.DOTALL
)
# Recipients that are no tools.
_PEOPLE = frozenset({"user", "assistant", "all"})


@dataclass(frozen=True, slots=True)
class _Message:
    """What a header says of its message."""

    reasoning: bool
    recipient: str | None

    @classmethod
    def of(cls, header: str) -> "_Message":
        channel, recipient = _CHANNEL.search(header), _RECIPIENT.search(header)
        called = recipient[1] if recipient and recipient[1] not in _PEOPLE else None
        return cls(channel is not None and channel[1] == "analysis", called)


class Harmony:
    """Reads an answer. Not `reasoning`: what was thought is content as well."""

    def __init__(self, reader: Reader, prompt_end: str, *, reasoning: bool) -> None:
        self._reader, self._source, self._writer = reader, reader.source, reader.writer
        self._reasoning = reasoning
        self.reasoning_end: int | None = None
        opened = _OPEN_MESSAGE.search(prompt_end)
        self._header = opened["header"] if opened else ""

    def read(self) -> Steps[None]:
        """Reads all of it."""
        yield
        header, in_body, _ = self._header.partition(_MESSAGE)
        if in_body:
            yield from self._body(_Message.of(header), 0)
        elif "<|channel|>" in header:
            yield from self._rest_of_message(header, 0)
        source = self._source
        while not (source.ended and source.position >= len(source.text)):
            mark = yield from source.until(_ALL, self._outside)
            if mark in _BEGINS:
                yield from self._rest_of_message(mark, source.offset - len(mark))

    def _outside(self, text: str) -> None:
        """Text that stands in no message."""
        self._reasoning_over(self._source.offset - len(text))
        self._writer.content(text)

    def _reasoning_over(self, end: int) -> None:
        if self.reasoning_end is None:
            self.reasoning_end = end

    def _rest_of_message(self, header: str, begin: int) -> Steps[None]:
        """Reads a message whose header has begun so, there."""
        pieces = [header]
        if (yield from self._source.until(_HEADER_END, pieces.append)) == _MESSAGE:
            yield from self._body(_Message.of("".join(pieces)), begin)

    def _body(self, message: _Message, begin: int) -> Steps[None]:
        called = message.recipient if self._reader.functions else None
        if called or not message.reasoning:
            self._reasoning_over(begin)
        if called:
            yield from self._call(called)
            return
        thought = message.reasoning and self._reasoning
        write = self._writer.reasoning if thought else self._writer.content
        mark = yield from self._source.until(_BODY_END, write)
        if mark in _BEGINS:
            self._source.position -= len(mark)

    def _call(self, recipient: str) -> Steps[None]:
        source, writer = self._source, self._writer
        self._reader.begin(recipient.removeprefix("functions."))
        complete = False
        try:
            yield from source.spaces()
            if (yield from source.literal(*_ENDS)):
                writer.arguments("{}")
                self._reader.end()
                return
            complete = yield from read_arguments(source, writer.arguments)
        except Malformed:
            pass
        rest: list[str] = []
        mark = yield from source.value_until(_BODY_END, rest.append if complete else writer.arguments)
        if mark in _BEGINS:
            source.position -= len(mark)
        writer.end(complete=complete and not "".join(rest).strip())
