"""CompletionService: prompts in, their continuations out."""

from collections.abc import AsyncIterator
from typing import Any

from inferd.v1 import completion_pb2 as pb
from inferd.v1 import completion_pb2_grpc

from services.catalog import Catalog
from services.completion_logprobs import LogprobsWriter
from services.errors import invalid
from services.generation import Piece
from services.prompts import completion_tokens, missing
from services.sampling import sampling_params
from services.work import FINISH_REASONS, Work, new_id

_DEFAULT_MAX_TOKENS = 16
#: Continuations of one request: prompts times n.
_MAX_CONTINUATIONS = 1024


class CompletionServicer(completion_pb2_grpc.CompletionServiceServicer):
    """See protos/inferd/v1/completion.proto."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def CreateCompletion(self, request: pb.CreateCompletionRequest, context: Any) -> pb.Completion:
        work = await self._prepare(request, stream=False)
        await work.announce(context)
        writers = _writers(request, work)
        collected = await work.collect()
        return pb.Completion(
            id=new_id("cmpl"),
            created=work.created,
            model=request.model,
            choices=[
                writer.choice(index, pieces)
                for index, (writer, pieces) in enumerate(zip(writers, collected, strict=True))
            ],
            usage=work.usage(),
        )

    async def StreamCompletion(
        self, request: pb.CreateCompletionRequest, context: Any
    ) -> AsyncIterator[pb.CompletionChunk]:
        work = await self._prepare(request, stream=True)
        await work.announce(context)
        completion_id = new_id("cmpl")
        writers = _writers(request, work)
        pieces = work.run()
        try:
            async for index, piece in pieces:
                yield pb.CompletionChunk(
                    id=completion_id,
                    created=work.created,
                    model=request.model,
                    choices=[writers[index].choice(index, [piece])],
                )
        finally:
            await pieces.aclose()
        if request.stream_options.include_usage:
            yield pb.CompletionChunk(
                id=completion_id, created=work.created, model=request.model, usage=work.usage()
            )

    async def _prepare(self, request: pb.CreateCompletionRequest, *, stream: bool) -> Work:
        model = self._catalog.find(request.model)
        if not request.prompt and not request.messages:
            raise missing("prompt", "messages")
        n = request.n or 1
        if max(1, len(request.prompt)) * n > _MAX_CONTINUATIONS:
            raise invalid(
                "n",
                f"prompts times n must be at most {_MAX_CONTINUATIONS}, not {len(request.prompt)} times {n}",
                "OUT_OF_RANGE",
            )
        prompts = await completion_tokens(model.text, request.prompt, request.messages)
        max_tokens = request.max_tokens if request.HasField("max_tokens") else _DEFAULT_MAX_TOKENS
        logprobs = request.HasField("logprobs")
        return Work(
            model=model,
            prompts=prompts,
            sampling=sampling_params(request, model, prompts, max_tokens),
            n=n,
            stream=stream,
            logprobs=logprobs,
            top_logprobs=request.logprobs,
            prompt_logprobs=logprobs and request.echo,
        )


class _ChoiceWriter:
    """The choices of one continuation: the echoed prompt goes before its first piece."""

    def __init__(self, echoed: str, logprobs: LogprobsWriter | None) -> None:
        self._echoed = echoed
        self._logprobs = logprobs

    def choice(self, index: int, pieces: list[Piece]) -> pb.CompletionChoice:
        text = self._echoed + "".join(piece.text for piece in pieces)
        self._echoed = ""
        return pb.CompletionChoice(
            index=index,
            text=text,
            logprobs=self._logprobs.write(pieces) if self._logprobs else None,
            finish_reason=FINISH_REASONS[pieces[-1].finish],
        )


def _writers(request: pb.CreateCompletionRequest, work: Work) -> list[_ChoiceWriter]:
    """One writer a continuation, in the order of their indices."""
    tokenizer = work.model.text.tokenizer
    writers = []
    for index, ids in enumerate(work.prompts):
        echoed = ""
        if request.echo:
            texts = request.prompt[index : index + 1]
            given = bool(texts) and texts[0].WhichOneof("prompt") == "text"
            echoed = texts[0].text if given else tokenizer.decode(ids, skip_special_tokens=False)
        for _ in range(work.n):
            logprobs = None
            if work.logprobs:
                logprobs = LogprobsWriter(tokenizer, skip_special_tokens=work.sampling.skip_special_tokens)
            writers.append(_ChoiceWriter(echoed, logprobs))
    return writers
