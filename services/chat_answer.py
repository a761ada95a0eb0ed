"""One chat completion, ready to run: its chunks as they are generated, and the whole of it."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from inferd.v1 import chat_pb2 as pb
from inferd.v1 import message_pb2, sampling_pb2

from services.answer_reader import AnswerOptions, AnswerReader
from services.chat_logprobs import chat_logprobs
from services.message_sink import MessageSink
from services.piece_reader import Piece
from services.stage import Stage
from services.text.function import Function
from services.text.output.events import Event
from services.text.output.formats import OutputFormat
from services.text.output.parser import OutputParser
from services.text_sender import TextSender
from services.work import Work, matched_stop, new_id


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
            yield pb.ChatCompletionChunk(
                id=self.id, created=work.created, model=request.model, usage=self._usage()
            )

    def completion(self) -> pb.ChatCompletion:
        """The whole answer, once it was generated (of one that was streamed, where its pieces were kept)."""
        return pb.ChatCompletion(
            id=self.id,
            created=self.work.created,
            model=self.request.model,
            choices=[self._choice(index) for index in range(self.work.n)],
            usage=self._usage(),
            prompt_token_ids=self.work.prompts[0] if self._token_ids else (),
        )

    def _usage(self) -> sampling_pb2.Usage:
        return self.work.usage(sum(reader.reasoning_tokens for reader in self._readers))

    def _keep(self, index: int, piece: Piece, events: list[Event]) -> None:
        self._pieces[index].append(piece)
        self._events[index] += events

    def _chunk(self, numbered: tuple[int, Piece]) -> pb.ChatCompletionChunk | None:
        """The chunk of a piece, which has its answer's index; None where there is nothing to tell yet."""
        index, piece = numbered
        events = self._readers[index].read(piece)
        if self.keep:
            self._keep(index, piece, events)
        choice = self._chunk_choice(index, piece, events, first=index not in self._begun)
        if choice is None:
            return None
        self._begun.add(index)
        chunk = pb.ChatCompletionChunk(
            id=self.id, created=self.work.created, model=self.request.model, choices=[choice]
        )
        if self._continuous:
            chunk.usage.CopyFrom(self._usage())
        return chunk

    @property
    def _is_plain(self) -> bool:
        """Whether the chunks differ in their text only."""
        return not (self.form or self.keep or self._continuous or self._token_ids or self.work.logprobs)

    def _text_sender(self, sink: MessageSink) -> TextSender:
        """What sends chunks of plain content."""
        choice = pb.ChatChunkChoice(delta=pb.ChatDelta(content=""))
        chunk = pb.ChatCompletionChunk(
            id=self.id, created=self.work.created, model=self.request.model, choices=[choice]
        )
        return sink.text(chunk, chunk.choices[0].delta, "content")

    def _chunk_choice(
        self, index: int, piece: Piece, events: list[Event], *, first: bool
    ) -> pb.ChatChunkChoice | None:
        """What a piece adds to a stream; None where that is nothing yet."""
        reader = self._readers[index]
        logprobs = chat_logprobs([piece.logprobs], self.work.model.text.tokenizer) if piece.logprobs else None
        if not (events or first or logprobs or piece.finish or self._token_ids):
            return None
        plain = self.form is None
        delta = pb.ChatDelta(content=piece.text or None) if plain else reader.delta(events)
        if first:
            delta.role = message_pb2.ROLE_ASSISTANT
            if not events:
                delta.content = ""
        choice = pb.ChatChunkChoice(index=index, delta=delta, logprobs=logprobs)
        if self._token_ids:
            choice.token_ids.extend(piece.token_ids)
        if piece.finish:
            choice.finish_reason = reader.finish_reason(piece)
            matched = matched_stop(piece)
            if matched is not None:
                choice.matched_stop.CopyFrom(matched)
            if piece.error is not None:
                choice.error.CopyFrom(piece.error.to_status())
        return choice

    def _choice(self, index: int) -> pb.ChatChoice:
        pieces, reader = self._pieces[index], self._readers[index]
        last = pieces[-1]
        choice = pb.ChatChoice(
            index=index,
            message=reader.message(self._events[index]),
            logprobs=chat_logprobs([piece.logprobs for piece in pieces], self.work.model.text.tokenizer),
            finish_reason=reader.finish_reason(last),
            matched_stop=matched_stop(last),
            error=last.error.to_status() if last.error else None,
        )
        if self._token_ids:
            for piece in pieces:
                choice.token_ids.extend(piece.token_ids)
        return choice
