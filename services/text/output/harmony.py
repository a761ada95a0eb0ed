"""Reads harmony, the format of gpt-oss: messages with a channel and, for a call, a recipient.

Markers of harmony are never content. Text outside of messages is. Other formats are read in `parser`.
"""

import re
from dataclasses import dataclass

from inferd.services.text.output.format_types import HARMONY_MARKERS
from inferd.services.text.output.json_calls import read_arguments
from inferd.services.text.output.markers import marker_finder
from inferd.services.text.output.parser_state import ParserState
from inferd.services.text.output.text_buffer import Malformed, Steps

_MESSAGE = "<|message|>"
_BEGINS = frozenset({"<|start|>", "<|channel|>"})
_ENDS = frozenset({"<|end|>", "<|call|>", "<|return|>"})
_ALL = marker_finder(frozenset(HARMONY_MARKERS))
_BODY_END = marker_finder(_BEGINS | _ENDS)
_HEADER_END = marker_finder(_ENDS | {_MESSAGE})
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")
_OPEN_MESSAGE = re.compile(
    r"(?:<\|start\|>|\A)(?P<header>(?:(?!<\|(?:start|end|call|return)\|>).)*)\Z", re.DOTALL
)
# Recipients that are no functions.
_ROLES = frozenset({"user", "assistant", "all"})


@dataclass(frozen=True, slots=True)
class _MessageHeader:
    """The header of a message: whether the message is reasoning, and the function that it calls, if any."""

    reasoning: bool
    recipient: str | None

    @classmethod
    def of(cls, header: str) -> "_MessageHeader":
        channel, recipient = _CHANNEL.search(header), _RECIPIENT.search(header)
        called = recipient[1] if recipient and recipient[1] not in _ROLES else None
        return cls(channel is not None and channel[1] == "analysis", called)


class HarmonyReader:
    """Reads an answer. If `reasoning` is false, reasoning is content."""

    def __init__(self, state: ParserState, prompt_end: str, *, reasoning: bool) -> None:
        self._state, self._buffer, self._writer = state, state.buffer, state.writer
        self._reasoning = reasoning
        self.reasoning_end: int | None = None
        opened = _OPEN_MESSAGE.search(prompt_end)
        self._header = opened["header"] if opened else ""

    def read(self) -> Steps[None]:
        """Read the whole answer."""
        yield
        header, in_body, _ = self._header.partition(_MESSAGE)
        if in_body:
            yield from self._read_body(_MessageHeader.of(header), 0)
        elif "<|channel|>" in header or (yield from self._begins_with_recipient()):
            yield from self._read_message(header, 0)
        buffer = self._buffer
        while not (buffer.ended and buffer.position >= len(buffer.text)):
            mark = yield from buffer.copy_until(_ALL, self._write_outside)
            if mark in _BEGINS:
                yield from self._read_message(mark, buffer.offset - len(mark))

    def _begins_with_recipient(self) -> Steps[bool]:
        """Whether the answer begins with the recipient of its first message, whose role ends the prompt."""
        buffer = self._buffer
        buffer.hold()
        yield from buffer.skip_spaces()
        begins = bool((yield from buffer.accept("to=")))
        buffer.rewind()
        return begins

    def _write_outside(self, text: str) -> None:
        """Write text that stands outside of messages."""
        self._end_reasoning(self._buffer.offset - len(text))
        self._writer.content(text)

    def _end_reasoning(self, end: int) -> None:
        if self.reasoning_end is None:
            self.reasoning_end = end

    def _read_message(self, header: str, begin: int) -> Steps[None]:
        """Read a message whose header starts with `header`, at the offset `begin` of the answer."""
        pieces = [header]
        if (yield from self._buffer.copy_until(_HEADER_END, pieces.append)) == _MESSAGE:
            yield from self._read_body(_MessageHeader.of("".join(pieces)), begin)

    def _read_body(self, message: _MessageHeader, begin: int) -> Steps[None]:
        called = message.recipient if self._state.functions else None
        if called or not message.reasoning:
            self._end_reasoning(begin)
        if called:
            yield from self._read_call(called)
            return
        thought = message.reasoning and self._reasoning
        write = self._writer.reasoning if thought else self._writer.content
        mark = yield from self._buffer.copy_until(_BODY_END, write)
        if mark in _BEGINS:
            self._buffer.position -= len(mark)

    def _read_call(self, recipient: str) -> Steps[None]:
        buffer, writer = self._buffer, self._writer
        self._state.begin_call(recipient.removeprefix("functions."))
        complete = False
        try:
            yield from buffer.skip_spaces()
            if (yield from buffer.accept(*_ENDS)):
                writer.arguments("{}")
                self._state.end_call()
                return
            complete = yield from read_arguments(buffer, writer.arguments)
        except Malformed:
            pass
        rest: list[str] = []
        mark = yield from buffer.copy_value_until(_BODY_END, rest.append if complete else writer.arguments)
        if mark in _BEGINS:
            buffer.position -= len(mark)
        writer.end_call(complete=complete and not "".join(rest).strip())
