"""One answer of a chat, as it is generated: the text of its pieces to content, reasoning and tool calls.

Knows nothing of chunks' frames, of usage or of log probabilities.
"""

import uuid
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from inferd.services.generation.piece_reader import Piece
from inferd.services.generation.work import FINISH_REASONS
from inferd.services.text.output.events import CallArguments, CallBegin, CallEnd, Content, Event, Reasoning
from inferd.services.text.output.parser import OutputParser
from inferd.v1 import chat_pb2 as pb
from inferd.v1 import message_pb2, sampling_pb2


@dataclass(slots=True)
class AnswerOptions:
    """How answers are told.

    `one_call`: calls after the first are left out. `legacy`: the call is a function_call.
    `separate_reasoning` False: reasoning is content. `stream_reasoning` False: it is told when it is over.
    """

    one_call: bool = False
    legacy: bool = False
    separate_reasoning: bool = True
    stream_reasoning: bool = True


class AnswerReader:
    """Reads the pieces of one answer. `parser` None: all of the text is content."""

    def __init__(self, parser: OutputParser | None, options: AnswerOptions) -> None:
        self._parser = parser
        self._options = options
        self._held: list[Reasoning] = []
        self._ids: dict[int, str] = {}
        self._complete = True
        #: Where each token's text ends: kept until it is known how many of the tokens are reasoning.
        self._ends: list[int] = []
        self._reasoning_tokens: int | None = None if parser else 0

    def read(self, piece: Piece) -> list[Event]:
        """What this piece adds, in the order of the text. To be called to the last piece."""
        parser = self._parser
        if parser is None:
            return [Content(piece.text)] if piece.text else []
        events = parser.feed(piece.text) if piece.text else []
        if piece.finish:
            events = [*events, *parser.finish()]
        self._count(parser, piece)
        return self._told(events, last=piece.finish is not None)

    @property
    def reasoning_tokens(self) -> int:
        """How many of the tokens so far were reasoning."""
        return len(self._ends) if self._reasoning_tokens is None else self._reasoning_tokens

    def finish_reason(self, piece: Piece) -> sampling_pb2.FinishReason:
        """Why the answer ended with this piece, which was read."""
        if piece.finish == "stop" and self._ids and self._complete:
            if self._options.legacy:
                return sampling_pb2.FINISH_REASON_FUNCTION_CALL
            return sampling_pb2.FINISH_REASON_TOOL_CALLS
        return FINISH_REASONS[piece.finish]

    def write_delta(self, delta: pb.ChatDelta, events: Iterable[Event]) -> None:
        """What is new, as a stream tells it."""
        for event in events:
            match event:
                case Content(text):
                    delta.content += text
                case Reasoning(text):
                    delta.reasoning_content += text
                case CallBegin(index, name):
                    if self._options.legacy:
                        delta.function_call.name = name
                        continue
                    call = delta.tool_calls.add(index=index, id=self._ids[index], type="function")
                    call.function.name = name
                    call.function.arguments = ""
                case CallArguments(index, text):
                    self._call_delta(delta, index).arguments += text

    def write_message(self, message: pb.AssistantMessage, events: Sequence[Event]) -> None:
        """The whole answer, of all its events."""
        message.role = message_pb2.ROLE_ASSISTANT
        content = "".join([event.text for event in events if isinstance(event, Content)])
        if self._parser is None:
            message.content = content
            return
        reasoning = "".join(event.text for event in events if isinstance(event, Reasoning))
        calls = {
            event.index: message_pb2.ToolCall(
                id=self._ids[event.index], function=message_pb2.FunctionCall(name=event.name)
            )
            for event in events
            if isinstance(event, CallBegin)
        }
        arguments: dict[int, list[str]] = {index: [] for index in calls}
        for event in events:
            if isinstance(event, CallArguments):
                arguments[event.index].append(event.text)
        for index, call in calls.items():
            call.function.arguments = "".join(arguments[index])
        if content or not (calls or reasoning):
            message.content = content
        if reasoning:
            message.reasoning_content = reasoning
        if self._options.legacy and calls:
            message.function_call.CopyFrom(calls[0].function)
        else:
            message.tool_calls.extend(calls.values())

    def _told(self, events: Sequence[Event], *, last: bool) -> list[Event]:
        """The events as they are told: calls with an id, reasoning where and when it is wanted."""
        options = self._options
        told: list[Event] = []
        for event in events:
            match event:
                case Reasoning(text) if not options.separate_reasoning:
                    told.append(Content(text))
                    continue
                case Reasoning() if not options.stream_reasoning:
                    self._held.append(event)
                    continue
                case CallBegin(index) | CallArguments(index) | CallEnd(index) if options.one_call and index:
                    continue
                case CallBegin(index, _, call_id):
                    # Models count their calls, and some begin again with each.
                    given = call_id if call_id not in self._ids.values() else None
                    self._ids[index] = given or f"call_{uuid.uuid4().hex[:24]}"
                case CallEnd(complete=False):
                    self._complete = False
            told += self._held
            self._held = []
            told.append(event)
        if last:
            told += self._held
            self._held = []
        return told

    def _call_delta(self, delta: pb.ChatDelta, index: int) -> pb.FunctionCallDelta:
        if self._options.legacy:
            return delta.function_call
        for call in delta.tool_calls:
            if call.index == index:
                return call.function
        return delta.tool_calls.add(index=index).function

    def _count(self, parser: OutputParser, piece: Piece) -> None:
        if self._reasoning_tokens is not None:
            return
        self._ends += piece.ends
        end = parser.reasoning_end
        if end is not None:
            # A token is reasoning where its text begins before the end of it.
            self._reasoning_tokens = bisect_left([0, *self._ends[:-1]], end) if end and self._ends else 0
            self._ends = []
