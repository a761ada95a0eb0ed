"""The answer to one chat request, ready to be generated: as chunks, or whole."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from inferd.services.api.answers import ChunkSink, TextChunk, matched_stop, new_id
from inferd.services.api.chat_logprobs import chat_logprobs
from inferd.services.api.choice_reader import ChoiceOptions, ChoiceReader
from inferd.services.generation.delta_sink import TextDelta
from inferd.services.generation.generation import Generation
from inferd.services.net.message_writer import MessageWriter
from inferd.services.text.function import Function
from inferd.services.text.output.events import Event
from inferd.services.text.output.formats import OutputFormat
from inferd.services.text.output.parser import OutputParser
from inferd.v1 import chat_pb2 as pb
from inferd.v1 import message_pb2, sampling_pb2


@dataclass(frozen=True, slots=True)
class OutputReading:
    """How the text of an answer is read.

    `format` is the model's form of reasoning and calls, `functions` are those that may be called, and
    `prompt_end` is the end of the prompt, which may have begun the reasoning. `keep_markers`: the markers
    around the reasoning stay in the text.
    """

    format: OutputFormat
    functions: tuple[Function, ...]
    prompt_end: str
    keep_markers: bool

    def parser(self) -> OutputParser:
        """A parser for one choice."""
        return OutputParser(self.format, self.functions, self.prompt_end, keep_markers=self.keep_markers)


@dataclass
class ChatAnswer:
    """The answer to a request, of which `generation` generates the text.

    `reading` None: all text is content. `keep`: `completion` is wanted after `stream`, too.
    """

    request: pb.CreateChatCompletionRequest
    generation: Generation
    reading: OutputReading | None
    options: ChoiceOptions
    id: str = field(default_factory=lambda: new_id("chatcmpl"))
    keep: bool = False

    def __post_init__(self) -> None:
        reading = self.reading
        self._readers = [
            ChoiceReader(reading.parser() if reading else None, self.options)
            for _ in range(self.generation.n)
        ]
        #: By choice: what `completion` is made of.
        self._kept: list[list[tuple[TextDelta, Sequence[Event]]]] = [[] for _ in self._readers]
        #: Choices that have a chunk.
        self._begun: set[int] = set()
        # Read once, and not with every token.
        self._with_token_ids = self.request.return_token_ids
        self._with_usage = self.request.stream_options.continuous_usage_stats
        self._prompt: Sequence[int] = self.generation.prompts[0] if self._with_token_ids else ()

    async def whole(self) -> pb.ChatCompletion:
        """Generate all of it. Raises ServiceError as `Generation.run` does."""
        for index, deltas in enumerate(await self.generation.collect()):
            reader = self._readers[index]
            self._kept[index] = [(delta, reader.read(delta)) for delta in deltas]
        return self.completion()

    async def stream(self, writer: MessageWriter) -> None:
        """Generate it, and push its chunks to `writer`. Raises ServiceError as `Generation.run` does."""
        await self.generation.run(
            [self._sink(index, writer) for index in range(self.generation.n)], writer.flow
        )
        if self.request.stream_options.include_usage:
            last = self._new_chunk()
            self._write_usage(last.usage)
            writer.push(last)

    def completion(self) -> pb.ChatCompletion:
        """The whole answer, once it was generated; after `stream` only if `keep` is set."""
        completion = pb.ChatCompletion(id=self.id, created=self.generation.created, model=self.request.model)
        # Filled in in place, because a message that is assigned to a field is copied.
        for index in range(self.generation.n):
            self._write_choice(completion.choices.add(), index)
        self._write_usage(completion.usage)
        if self._with_token_ids:
            completion.prompt_token_ids.extend(self.generation.prompts[0])
        return completion

    def _sink(self, index: int, writer: MessageWriter) -> ChunkSink:
        differs_in_more = (
            self.reading or self.keep or self._with_usage or self._with_token_ids or self.generation.logprobs
        )
        return ChunkSink(
            writer,
            lambda delta: self._chunk(index, delta),
            None if differs_in_more else lambda: self._text_chunk(index),
        )

    def _text_chunk(self, index: int) -> TextChunk:
        chunk = self._new_chunk()
        delta = chunk.choices.add(index=index).delta
        return chunk, delta, "content"

    def _chunk(self, index: int, delta: TextDelta) -> pb.ChatCompletionChunk | None:
        """The chunk of a choice's delta; None if there is nothing to tell yet."""
        events = self._readers[index].read(delta)
        if self.keep:
            self._kept[index].append((delta, events))
        is_first = index not in self._begun
        logprobs = None
        if delta.logprobs:
            logprobs = chat_logprobs([delta.logprobs], self.generation.model.text.tokenizer)
        if not (events or is_first or logprobs or delta.finish or self._with_token_ids):
            return None
        self._begun.add(index)
        chunk = self._new_chunk()
        choice = chunk.choices.add(index=index, logprobs=logprobs)
        self._write_delta(choice.delta, index, delta, events, is_first=is_first)
        self._write_end(choice, index, delta)
        if self._with_token_ids:
            choice.token_ids.extend(delta.token_ids)
            # Once, with the first chunk of all.
            chunk.prompt_token_ids.extend(self._prompt)
            self._prompt = ()
        if self._with_usage:
            self._write_usage(chunk.usage)
        return chunk

    def _new_chunk(self) -> pb.ChatCompletionChunk:
        return pb.ChatCompletionChunk(id=self.id, created=self.generation.created, model=self.request.model)

    def _write_usage(self, usage: sampling_pb2.Usage) -> None:
        self.generation.write_usage(usage, sum([reader.reasoning_tokens for reader in self._readers]))

    def _write_delta(
        self, message: pb.ChatDelta, index: int, delta: TextDelta, events: list[Event], *, is_first: bool
    ) -> None:
        # Present, even if it is empty.
        message.SetInParent()
        if self.reading is not None:
            self._readers[index].write_delta(message, events)
        elif delta.text:
            message.content = delta.text
        if is_first:
            message.role = message_pb2.ROLE_ASSISTANT
            if not events:
                message.content = ""

    def _write_end(self, choice: pb.ChatChunkChoice | pb.ChatChoice, index: int, last: TextDelta) -> None:
        """Fill in why the choice ended, if it ended with this delta."""
        if not last.finish:
            return
        choice.finish_reason = self._readers[index].finish_reason(last)
        matched = matched_stop(last)
        if matched is not None:
            choice.matched_stop.CopyFrom(matched)
        if last.error is not None:
            choice.error.CopyFrom(last.error.to_status())

    def _write_choice(self, choice: pb.ChatChoice, index: int) -> None:
        kept = self._kept[index]
        choice.index = index
        self._readers[index].write_message(choice.message, [event for _, events in kept for event in events])
        logprobs = chat_logprobs([delta.logprobs for delta, _ in kept], self.generation.model.text.tokenizer)
        if logprobs is not None:
            choice.logprobs.CopyFrom(logprobs)
        self._write_end(choice, index, kept[-1][0])
        if self._with_token_ids:
            for delta, _ in kept:
                choice.token_ids.extend(delta.token_ids)
