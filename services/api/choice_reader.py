"""Reads the text of one choice of a chat as content, reasoning and tool calls.

Knows nothing of chunks, usage or log probabilities.
"""

import uuid
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from inferd.services.api.answers import FINISH_REASONS
from inferd.services.generation.delta_sink import TextDelta
from inferd.services.prompt.custom_tools import InputReader
from inferd.services.text.output.events import CallArguments, CallBegin, CallEnd, Content, Event, Reasoning
from inferd.services.text.output.parser import OutputParser
from inferd.v1 import chat_pb2 as pb
from inferd.v1 import message_pb2, sampling_pb2


@dataclass(slots=True)
class ChoiceOptions:
    """The form in which a client wants a choice.

    If `one_call` is set, calls after the first are left out. If `legacy` is set, the call is a
    `function_call`. `custom` are the names of custom tools. Without `separate_reasoning`, reasoning is
    content. Without `stream_reasoning`, reasoning is sent when it is complete. `end_token_ids` are the tokens
    with which the model itself ends an answer.
    """

    one_call: bool = False
    legacy: bool = False
    custom: frozenset[str] = frozenset()
    separate_reasoning: bool = True
    stream_reasoning: bool = True
    end_token_ids: frozenset[int] = frozenset()


class ChoiceReader:
    """Reads the text deltas of one choice. `parser` None: all of the text is content."""

    def __init__(self, parser: OutputParser | None, options: ChoiceOptions) -> None:
        self._parser = parser
        self._options = options
        self._held_reasoning: list[Reasoning] = []
        self._call_ids: dict[int, str] = {}
        #: Readers of the inputs of custom tools' calls, by the index of the call.
        self._inputs: dict[int, InputReader] = {}
        self._calls_complete = True
        #: The end of each token's text (`TextDelta.ends`), until the number of reasoning tokens is known.
        self._ends: list[int] = []
        self._reasoning_tokens: int | None = None if parser else 0

    def read(self, delta: TextDelta) -> list[Event]:
        """The events of a delta, in the order of the text. To be called with each delta, up to the last."""
        parser = self._parser
        if parser is None:
            return [Content(delta.text)] if delta.text else []
        events = parser.feed(delta.text) if delta.text else []
        if delta.finish:
            events = [*events, *parser.finish(cut=self._is_cut(delta))]
        self._count(parser, delta)
        return self._selected(events, last=delta.finish is not None)

    @property
    def reasoning_tokens(self) -> int:
        """The number of tokens so far that were reasoning."""
        return len(self._ends) if self._reasoning_tokens is None else self._reasoning_tokens

    def finish_reason(self, delta: TextDelta) -> sampling_pb2.FinishReason:
        """Why the choice ended with this delta, which was read before."""
        if delta.finish == "stop" and self._call_ids and self._calls_complete:
            if self._options.legacy:
                return sampling_pb2.FINISH_REASON_FUNCTION_CALL
            return sampling_pb2.FINISH_REASON_TOOL_CALLS
        return FINISH_REASONS[delta.finish]

    def write_delta(self, delta: pb.ChatDelta, events: Iterable[Event]) -> None:
        """Fill in the events of a chunk."""
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
                    call = delta.tool_calls.add(index=index, id=self._call_ids[index])
                    if index in self._inputs:
                        call.custom.name = name
                        call.custom.input = ""
                    else:
                        call.function.name = name
                        call.function.arguments = ""
                case CallArguments(_, text) if self._options.legacy:
                    delta.function_call.arguments += text
                case CallArguments(index, text) if index in self._inputs:
                    self._call_delta(delta, index).custom.input += text
                case CallArguments(index, text):
                    self._call_delta(delta, index).function.arguments += text

    def write_message(self, message: pb.AssistantMessage, events: Sequence[Event]) -> None:
        """Fill in the whole message from all events of the choice."""
        message.role = message_pb2.ROLE_ASSISTANT
        content = "".join([event.text for event in events if isinstance(event, Content)])
        if self._parser is None:
            message.content = content
            return
        reasoning = "".join(event.text for event in events if isinstance(event, Reasoning))
        names = {event.index: event.name for event in events if isinstance(event, CallBegin)}
        arguments: dict[int, list[str]] = {index: [] for index in names}
        for event in events:
            if isinstance(event, CallArguments):
                arguments[event.index].append(event.text)
        calls = [self._call(index, name, "".join(arguments[index])) for index, name in names.items()]
        if content or not (calls or reasoning):
            message.content = content
        if reasoning:
            message.reasoning_content = reasoning
        if self._options.legacy and calls:
            message.function_call.CopyFrom(calls[0].function)
        else:
            message.tool_calls.extend(calls)

    def _selected(self, events: Sequence[Event], *, last: bool) -> list[Event]:
        """The events that the options ask for. Calls are given ids."""
        options = self._options
        selected: list[Event] = []
        for event in events:
            match event:
                case Reasoning(text) if not options.separate_reasoning:
                    selected.append(Content(text))
                    continue
                case Reasoning() if not options.stream_reasoning:
                    self._held_reasoning.append(event)
                    continue
                case CallBegin(index) | CallArguments(index) | CallEnd(index) if options.one_call and index:
                    continue
                case CallBegin(index, _, call_id):
                    # A model may number its calls, and some models give each call the same number.
                    given = call_id if call_id not in self._call_ids.values() else None
                    self._call_ids[index] = given or f"call_{uuid.uuid4().hex[:24]}"
                    if event.name in options.custom:
                        self._inputs[index] = InputReader()
                case CallArguments(index, text) if index in self._inputs:
                    event = CallArguments(index, self._inputs[index].read(text))
                    if not event.text:
                        continue
                case CallEnd(index, complete):
                    self._calls_complete = self._calls_complete and complete
                    if index in self._inputs and (rest := self._inputs[index].finish()):
                        selected.append(CallArguments(index, rest))
            selected += self._held_reasoning
            self._held_reasoning = []
            selected.append(event)
        if last:
            selected += self._held_reasoning
            self._held_reasoning = []
        return selected

    def _is_cut(self, last: TextDelta) -> bool:
        """Whether something else than the model ended the choice: a limit, a stop string, or a failure."""
        by_model = last.matched is None or last.matched in self._options.end_token_ids
        return last.finish != "stop" or not by_model

    def _call(self, index: int, name: str, arguments: str) -> message_pb2.ToolCall:
        """A whole call. `arguments` are the input, if the call is that of a custom tool."""
        call_id = self._call_ids[index]
        if index in self._inputs:
            custom = message_pb2.CustomToolCall(name=name, input=arguments)
            return message_pb2.ToolCall(id=call_id, custom=custom)
        function = message_pb2.FunctionCall(name=name, arguments=arguments)
        return message_pb2.ToolCall(id=call_id, function=function)

    def _call_delta(self, delta: pb.ChatDelta, index: int) -> pb.ToolCallDelta:
        for call in delta.tool_calls:
            if call.index == index:
                return call
        return delta.tool_calls.add(index=index)

    def _count(self, parser: OutputParser, delta: TextDelta) -> None:
        if self._reasoning_tokens is not None:
            return
        self._ends += delta.ends
        end = parser.reasoning_end
        if end is not None:
            # A token is reasoning if its text begins before the end of the reasoning.
            self._reasoning_tokens = bisect_left([0, *self._ends[:-1]], end) if end and self._ends else 0
            self._ends = []
