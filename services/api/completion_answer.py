"""The answer to one text completion request, ready to be generated: as chunks, or whole."""

from dataclasses import dataclass, field

from inferd.services.api.answers import ChunkSink, TextChunk, new_id
from inferd.services.api.best_of import best
from inferd.services.api.completion_choice import ChoiceWriter
from inferd.services.api.completion_logprobs import LogprobsWriter
from inferd.services.generation.delta_sink import TextDelta
from inferd.services.generation.generation import Generation
from inferd.services.net.message_writer import MessageWriter
from inferd.v1 import completion_pb2 as pb


@dataclass
class CompletionAnswer:
    """The answer to a request, of which `generation` generates the text."""

    request: pb.CreateCompletionRequest
    generation: Generation
    id: str = field(default_factory=lambda: new_id("cmpl"))

    async def whole(self) -> pb.Completion:
        """Generate all of it. Raises ServiceError as `Generation.run` does."""
        request, generation = self.request, self.generation
        collected = await generation.collect()
        n = request.n or 1
        if generation.n > n:
            collected = best(collected, generation.n, n)
        completion = pb.Completion(id=self.id, created=generation.created, model=request.model)
        # Filled in in place, because a message that is assigned to a field is copied.
        for index, (writer, deltas) in enumerate(zip(self._writers(), collected, strict=True)):
            writer.write(completion.choices.add(), index, deltas)
        generation.write_usage(completion.usage)
        return completion

    async def stream(self, writer: MessageWriter) -> None:
        """Generate it, and push its chunks to `writer`. Raises ServiceError as `Generation.run` does."""
        sinks = [self._sink(index, choice, writer) for index, choice in enumerate(self._writers())]
        await self.generation.run(sinks, writer.flow)
        if self.request.stream_options.include_usage:
            last = self._new_chunk()
            self.generation.write_usage(last.usage)
            writer.push(last)

    def _sink(self, index: int, choice: ChoiceWriter, writer: MessageWriter) -> ChunkSink:
        request = self.request
        with_usage = request.stream_options.continuous_usage_stats

        def make_chunk(delta: TextDelta) -> pb.CompletionChunk:
            chunk = self._new_chunk()
            choice.write(chunk.choices.add(), index, [delta])
            if with_usage:
                self.generation.write_usage(chunk.usage)
            return chunk

        def text_chunk() -> TextChunk:
            chunk = make_chunk(TextDelta("", ()))
            return chunk, chunk.choices[0], "text"

        differs_in_more = with_usage or request.return_token_ids or request.HasField("logprobs")
        return ChunkSink(writer, make_chunk, None if differs_in_more else text_chunk)

    def _new_chunk(self) -> pb.CompletionChunk:
        return pb.CompletionChunk(id=self.id, created=self.generation.created, model=self.request.model)

    def _writers(self) -> list[ChoiceWriter]:
        """One writer a choice, in the order of their indices."""
        request, generation = self.request, self.generation
        tokenizer = generation.model.text.tokenizer
        skip = generation.sampling.skip_special_tokens
        writers = []
        for index, ids in enumerate(generation.prompts):
            echoed = ""
            if request.echo:
                texts = request.prompt[index : index + 1]
                is_text = bool(texts) and texts[0].WhichOneof("prompt") == "text"
                echoed = texts[0].text if is_text else tokenizer.decode(ids, skip_special_tokens=False)
            for _ in range(request.n or 1):
                logprobs = None
                if request.HasField("logprobs"):
                    logprobs = LogprobsWriter(tokenizer, echoed, skip_special_tokens=skip)
                writers.append(ChoiceWriter(echoed, logprobs, ids if request.return_token_ids else None))
        return writers
