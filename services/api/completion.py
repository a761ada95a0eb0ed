"""CompletionService: prompts in, their continuations out."""

from collections.abc import AsyncIterator
from typing import Any

from inferd.services.api.best_of import best
from inferd.services.api.completion_choice import ChoiceWriter
from inferd.services.api.completion_logprobs import LogprobsWriter
from inferd.services.constraints.output_constraint import text_constraint
from inferd.services.errors import invalid
from inferd.services.fleet.catalog import Catalog
from inferd.services.generation.piece_reader import Piece
from inferd.services.generation.sampling import sampling_params
from inferd.services.generation.stage import Stage
from inferd.services.generation.work import Work, new_id
from inferd.services.net.message_sink import message_sink
from inferd.services.prompt.prompt_tokens import completion_tokens, missing
from inferd.v1 import completion_pb2 as pb
from inferd.v1 import completion_pb2_grpc

_DEFAULT_MAX_TOKENS = 16
#: Continuations of one request: prompts times n, or best_of.
_MAX_CONTINUATIONS = 1024


class CompletionServicer(completion_pb2_grpc.CompletionServiceServicer):
    """See protos/inferd/v1/completion.proto."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def CreateCompletion(self, request: pb.CreateCompletionRequest, context: Any) -> pb.Completion:
        work = await self._prepare(request, stream=False)
        await work.announce(context)
        n = request.n or 1
        collected = await work.collect()
        if work.n > n:
            collected = best(collected, work.n, n)
        completion = pb.Completion(id=new_id("cmpl"), created=work.created, model=request.model)
        # Filled in where they are: a message that is given to another one is copied.
        for index, (writer, pieces) in enumerate(zip(_writers(request, work), collected, strict=True)):
            writer.write(completion.choices.add(), index, pieces)
        work.write_usage(completion.usage)
        return completion

    async def StreamCompletion(
        self, request: pb.CreateCompletionRequest, context: Any
    ) -> AsyncIterator[pb.CompletionChunk]:
        work = await self._prepare(request, stream=True)
        await work.announce(context)
        completion_id = new_id("cmpl")
        writers = _writers(request, work)
        continuous = request.stream_options.continuous_usage_stats

        def chunk(numbered: tuple[int, Piece]) -> pb.CompletionChunk:
            index, piece = numbered
            chunk = pb.CompletionChunk(id=completion_id, created=work.created, model=request.model)
            writers[index].write(chunk.choices.add(), index, [piece])
            if continuous:
                work.write_usage(chunk.usage)
            return chunk

        chunks: Stage[tuple[int, Piece], pb.CompletionChunk] = Stage(chunk)
        sink = message_sink(context)
        pieces = work.run()
        try:
            async for numbered in pieces:
                if (made := chunks.pull(numbered)) is not None:
                    yield made
                if sink is not None:
                    # All but the first chunk may go by it.
                    if continuous or request.return_token_ids or request.HasField("logprobs"):
                        chunks.send = sink.send
                        work.shorten(lambda piece: chunks.push((0, piece)))
                    else:
                        example = chunk((0, Piece("", ())))
                        work.shorten_texts(sink.text(example, example.choices[0], "text"))
                    sink = None
        finally:
            await pieces.aclose()
        if request.stream_options.include_usage:
            last = pb.CompletionChunk(id=completion_id, created=work.created, model=request.model)
            work.write_usage(last.usage)
            yield last

    async def _prepare(self, request: pb.CreateCompletionRequest, *, stream: bool) -> Work:
        model = self._catalog.find(request.model, request.lora_path or None)
        if not request.prompt and not request.messages:
            raise missing("prompt", "messages")
        count, field = _continuations(request, stream=stream)
        if max(1, len(request.prompt)) * count > _MAX_CONTINUATIONS:
            raise invalid(
                field,
                f"prompts times {field} must be at most {_MAX_CONTINUATIONS},"
                f" not {len(request.prompt)} times {count}",
                "OUT_OF_RANGE",
            )
        prompts = await completion_tokens(model.text, request.prompt, request.messages)
        max_tokens = request.max_tokens if request.HasField("max_tokens") else _DEFAULT_MAX_TOKENS
        logprobs = request.HasField("logprobs")
        return Work(
            model=model,
            prompts=prompts,
            sampling=sampling_params(
                request, model, prompts, max_tokens, constraint=text_constraint(request)
            ),
            n=count,
            stream=stream,
            # The best are found by them.
            logprobs=logprobs or count > (request.n or 1),
            top_logprobs=request.logprobs,
            prompt_logprobs=logprobs and request.echo,
        )


def _continuations(request: pb.CreateCompletionRequest, *, stream: bool) -> tuple[int, str]:
    """How many to generate of each prompt, and the field that says so."""
    n = request.n or 1
    if not request.HasField("best_of"):
        return n, "n"
    if request.best_of < n:
        raise invalid(
            "best_of", f"best_of must be at least n, which is {n}, not {request.best_of}", "OUT_OF_RANGE"
        )
    if stream and request.best_of > n:
        raise invalid(
            "best_of",
            f"best_of must be n, which is {n}, where the answer is streamed: which are the best is known at"
            " their end",
        )
    return request.best_of, "best_of"


def _writers(request: pb.CreateCompletionRequest, work: Work) -> list[ChoiceWriter]:
    """One writer a choice, in the order of their indices."""
    tokenizer = work.model.text.tokenizer
    skip = work.sampling.skip_special_tokens
    writers = []
    for index, ids in enumerate(work.prompts):
        echoed = ""
        if request.echo:
            texts = request.prompt[index : index + 1]
            given = bool(texts) and texts[0].WhichOneof("prompt") == "text"
            echoed = texts[0].text if given else tokenizer.decode(ids, skip_special_tokens=False)
        for _ in range(request.n or 1):
            logprobs = None
            if request.HasField("logprobs"):
                logprobs = LogprobsWriter(tokenizer, echoed, skip_special_tokens=skip)
            writers.append(ChoiceWriter(echoed, logprobs, ids if request.return_token_ids else None))
    return writers
