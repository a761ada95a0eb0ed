"""One chat completion, ready to run: its chunks as they are generated, and the whole of it."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from inferd.services.api.answer_reader import AnswerOptions, AnswerReader
from inferd.services.api.chat_logprobs import chat_logprobs
from inferd.services.generation.piece_reader import Piece
from inferd.services.generation.stage import Stage
from inferd.services.generation.work import Work, matched_stop, new_id
from inferd.services.net.message_sink import MessageSink
from inferd.services.net.text_sender import TextSender
from inferd.services.text.function import Function
from inferd.services.text.output.events import Event
from inferd.services.text.output.formats import OutputFormat
from inferd.services.text.output.parser import OutputParser
from inferd.v1 import chat_pb2 as pb
from inferd.v1 import message_pb2, sampling_pb2


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """How the text of an answer is read: in which form, with which functions to call, after which prompt, and
    whether the markers around its reasoning are left in it."""

    format: OutputFormat
    functions: tuple[Function, ...]
    prompt_end: str
    keep_markers: bool

    def parser(self) -> OutputParser:
        return OutputParser(self.format, self.functions, self.prompt_end, keep_markers=self.keep_markers)


@dataclass
class ChatAnswer:
    """The answer to a request. `form` None: all text is content. `keep` the pieces of a streamed one, to have
    it whole at its end."""

    request: pb.CreateChatCompletionRequest
    work: Work
    form: AnswerForm | None
    options: AnswerOptions
    id: str = field(default_factory=lambda: new_id("chatcmpl"))
    keep: bool = False

    def __post_init__(self) -> None:
        self._readers = [
            AnswerReader(self.form.parser() if self.form else None, self.options) for _ in range(self.work.n)
        ]
        #: Of each answer, what has to be known of it to have it whole.
        self._pieces: list[list[Piece]] = [[] for _ in self._readers]
        self._events: list[list[Event]] = [[] for _ in self._readers]
        #: The answers that a chunk was made of.
        self._begun: set[int] = set()
        # Read once, not with every token.
        self._token_ids = self.request.return_token_ids
        self._continuous = self.request.stream_options.continuous_usage_stats

    async def whole(self) -> pb.ChatCompletion:
        """Generate all of it."""
        for index, pieces in enumerate(await self.work.collect()):
            for piece in pieces:
                self._keep(index, piece, self._readers[index].read(piece))
        return self.completion()

    async def chunks(self, sink: MessageSink | None = None) -> AsyncGenerator[pb.ChatCompletionChunk, None]:
        """Generate it piece by piece. Closing the generator aborts the work.

        The chunks that `sink` takes are not yielded: it is their short way. The first and the last are.
        """
        work, request = self.work, self.request
        prompt = work.prompts[0] if self._token_ids else ()
        chunks = Stage(self._chunk)
        pieces = work.run()
        try:
            async for numbered in pieces:
                chunk = chunks.pull(numbered)
                if chunk is None:
                    continue
                if prompt:
                    chunk.prompt_token_ids.extend(prompt)
                    prompt = ()
                yield chunk
                if sink is not None:
                    # All but the first chunk may go by it.
                    chunks.send = sink.send
                    if self._is_plain:
                        work.shorten_texts(self._text_sender(sink))
                    else:
                        work.shorten(lambda piece: chunks.push((0, piece)))
                    sink = None
        finally:
            await pieces.aclose()
        if request.stream_options.include_usage:
            last = self._new_chunk()
            self._write_usage(last.usage)
            yield last

    def completion(self) -> pb.ChatCompletion:
        """The whole answer, once it was generated (of one that was streamed, where its pieces were kept)."""
        completion = pb.ChatCompletion(id=self.id, created=self.work.created, model=self.request.model)
        # Filled in where they are: a message that is given to another one is copied.
        for index in range(self.work.n):
            self._write_choice(completion.choices.add(), index)
        self._write_usage(completion.usage)
        if self._token_ids:
            completion.prompt_token_ids.extend(self.work.prompts[0])
        return completion

    def _write_usage(self, usage: sampling_pb2.Usage) -> None:
        self.work.write_usage(usage, sum([reader.reasoning_tokens for reader in self._readers]))

    def _keep(self, index: int, piece: Piece, events: list[Event]) -> None:
        self._pieces[index].append(piece)
        self._events[index] += events

    def _chunk(self, numbered: tuple[int, Piece]) -> pb.ChatCompletionChunk | None:
        """The chunk of a piece, which has its answer's index; None where there is nothing to tell yet."""
        index, piece = numbered
        events = self._readers[index].read(piece)
        if self.keep:
            self._keep(index, piece, events)
        first = index not in self._begun
        logprobs = chat_logprobs([piece.logprobs], self.work.model.text.tokenizer) if piece.logprobs else None
        if not (events or first or logprobs or piece.finish or self._token_ids):
            return None
        self._begun.add(index)
        chunk = self._new_chunk()
        choice = chunk.choices.add(index=index, logprobs=logprobs)
        self._write_delta(choice.delta, index, piece, events, first=first)
        self._write_end(choice, index, piece)
        if self._token_ids:
            choice.token_ids.extend(piece.token_ids)
        if self._continuous:
            self._write_usage(chunk.usage)
        return chunk

    def _new_chunk(self) -> pb.ChatCompletionChunk:
        return pb.ChatCompletionChunk(id=self.id, created=self.work.created, model=self.request.model)

    @property
    def _is_plain(self) -> bool:
        """Whether the chunks differ in their text only."""
        return not (self.form or self.keep or self._continuous or self._token_ids or self.work.logprobs)

    def _text_sender(self, sink: MessageSink) -> TextSender:
        """What sends chunks of plain content."""
        chunk = self._new_chunk()
        return sink.text(chunk, chunk.choices.add().delta, "content")

    def _write_delta(
        self, delta: pb.ChatDelta, index: int, piece: Piece, events: list[Event], *, first: bool
    ) -> None:
        """What a piece adds to a stream."""
        # It is there, though it be empty.
        delta.SetInParent()
        if self.form is not None:
            self._readers[index].write_delta(delta, events)
        elif piece.text:
            delta.content = piece.text
        if first:
            delta.role = message_pb2.ROLE_ASSISTANT
            if not events:
                delta.content = ""

    def _write_end(self, choice: pb.ChatChunkChoice | pb.ChatChoice, index: int, last: Piece) -> None:
        """Why the answer ended, where it did with this piece."""
        if not last.finish:
            return
        choice.finish_reason = self._readers[index].finish_reason(last)
        matched = matched_stop(last)
        if matched is not None:
            choice.matched_stop.CopyFrom(matched)
        if last.error is not None:
            choice.error.CopyFrom(last.error.to_status())

    def _write_choice(self, choice: pb.ChatChoice, index: int) -> None:
        pieces = self._pieces[index]
        choice.index = index
        self._readers[index].write_message(choice.message, self._events[index])
        logprobs = chat_logprobs([piece.logprobs for piece in pieces], self.work.model.text.tokenizer)
        if logprobs is not None:
            choice.logprobs.CopyFrom(logprobs)
        self._write_end(choice, index, pieces[-1])
        if self._token_ids:
            for piece in pieces:
                choice.token_ids.extend(piece.token_ids)
