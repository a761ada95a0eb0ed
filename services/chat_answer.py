"""One chat completion, checked and ready to run: its chunks as they are generated, and the whole of it."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

from inferd.v1 import chat_pb2 as pb
from inferd.v1 import message_pb2

from services.catalog import Catalog, ServedModel
from services.errors import invalid
from services.generation import Piece
from services.prompts import chat_tokens, missing
from services.runtimes.base import Logprobs
from services.sampling import sampling_params
from services.text.tokenizer import Tokenizer
from services.work import FINISH_REASONS, Work, new_id


@dataclass
class ChatAnswer:
    """The answer to a request. `keep` the pieces of a streamed one, to have it whole at its end."""

    request: pb.CreateChatCompletionRequest
    work: Work
    id: str = field(default_factory=lambda: new_id("chatcmpl"))
    keep: bool = False
    _kept: list[list[Piece]] = field(default_factory=list)

    async def whole(self) -> pb.ChatCompletion:
        """Generate all of it."""
        self._kept = await self.work.collect()
        return self.completion()

    async def chunks(self) -> AsyncGenerator[pb.ChatCompletionChunk, None]:
        """Generate it piece by piece. Closing the generator aborts the work."""
        work = self.work
        tokenizer = work.model.text.tokenizer
        begun = [False] * work.n
        self._kept = [[] for _ in begun]
        pieces = work.run()
        try:
            async for index, piece in pieces:
                if self.keep:
                    self._kept[index].append(piece)
                if not begun[index]:
                    begun[index] = True
                    delta = pb.ChatDelta(role=message_pb2.ROLE_ASSISTANT, content=piece.text)
                else:
                    delta = pb.ChatDelta(content=piece.text or None)
                choice = pb.ChatChunkChoice(
                    index=index,
                    delta=delta,
                    logprobs=_logprobs([piece.logprobs], tokenizer) if piece.logprobs else None,
                    finish_reason=FINISH_REASONS[piece.finish],
                )
                yield pb.ChatCompletionChunk(
                    id=self.id, created=work.created, model=self.request.model, choices=[choice]
                )
        finally:
            await pieces.aclose()
        if self.request.stream_options.include_usage:
            yield pb.ChatCompletionChunk(
                id=self.id, created=work.created, model=self.request.model, usage=work.usage()
            )

    def completion(self) -> pb.ChatCompletion:
        """The whole answer, once it was generated (of one that was streamed, where its pieces were kept)."""
        return pb.ChatCompletion(
            id=self.id,
            created=self.work.created,
            model=self.request.model,
            choices=[_choice(index, pieces, self.work.model) for index, pieces in enumerate(self._kept)],
            usage=self.work.usage(),
        )


def replayed(
    completion: pb.ChatCompletion, request: pb.CreateChatCompletionRequest
) -> list[pb.ChatCompletionChunk]:
    """The chunks of an answer that is complete: one for each choice."""
    chunks = [
        pb.ChatCompletionChunk(
            id=completion.id,
            created=completion.created,
            model=completion.model,
            choices=[
                pb.ChatChunkChoice(
                    index=choice.index,
                    delta=pb.ChatDelta(role=choice.message.role, content=choice.message.content),
                    logprobs=choice.logprobs if choice.HasField("logprobs") else None,
                    finish_reason=choice.finish_reason,
                )
            ],
        )
        for choice in completion.choices
    ]
    if request.stream_options.include_usage:
        last = pb.ChatCompletionChunk(
            id=completion.id, created=completion.created, model=completion.model, usage=completion.usage
        )
        chunks.append(last)
    return chunks


async def prepare_chat(
    catalog: Catalog, request: pb.CreateChatCompletionRequest, *, stream: bool, background: bool = False
) -> Work:
    """What is to be done for a request. Raises ServiceError where it cannot be done as it is asked.

    `background` work is not what somebody waits for: see `Replicas.interactive`.
    """
    model = catalog.find(request.model)
    _check_tool_choice(request.tool_choice)
    if request.top_logprobs and not request.logprobs:
        raise invalid("top_logprobs", "top_logprobs needs logprobs to be true")
    prompt = await chat_tokens(model.text, _messages(request), request.tools, request.tool_choice)
    return Work(
        model=model,
        prompts=[prompt],
        sampling=sampling_params(request, model, [prompt], *_max_tokens(request)),
        n=request.n or 1,
        stream=stream,
        background=background,
        logprobs=request.logprobs,
        top_logprobs=request.top_logprobs,
    )


def _messages(request: pb.CreateChatCompletionRequest) -> Sequence[message_pb2.Message]:
    if request.messages:
        return request.messages
    if not request.HasField("prompt"):
        raise missing("messages", "prompt")
    content = [message_pb2.ContentPart(text=request.prompt)]
    return [message_pb2.Message(role=message_pb2.ROLE_USER, content=content)]


def _max_tokens(request: pb.CreateChatCompletionRequest) -> tuple[int | None, str]:
    """The greatest number of tokens to generate, and the field that says so."""
    if request.HasField("max_completion_tokens"):
        return request.max_completion_tokens, "max_completion_tokens"
    return request.max_tokens if request.HasField("max_tokens") else None, "max_tokens"


def _check_tool_choice(choice: pb.ToolChoice) -> None:
    if choice.mode == pb.TOOL_CHOICE_MODE_REQUIRED or choice.HasField("function"):
        raise invalid(
            "tool_choice",
            "tool_choice cannot force a tool call yet: only none and auto are served",
            "UNSUPPORTED_PARAMETER",
        )


def _choice(index: int, pieces: list[Piece], model: ServedModel) -> pb.ChatChoice:
    return pb.ChatChoice(
        index=index,
        message=pb.AssistantMessage(
            role=message_pb2.ROLE_ASSISTANT, content="".join(piece.text for piece in pieces)
        ),
        logprobs=_logprobs([piece.logprobs for piece in pieces if piece.logprobs], model.text.tokenizer),
        finish_reason=FINISH_REASONS[pieces[-1].finish],
    )


def _logprobs(parts: list[Logprobs], tokenizer: Tokenizer) -> pb.ChatLogprobs | None:
    if not parts:
        return None
    content = [
        pb.TokenLogprob(
            **_token(token_id, value, tokenizer),
            top_logprobs=[pb.TopLogprob(**_token(*other, tokenizer)) for other in top],
        )
        for part in parts
        for token_id, value, top in zip(part.token_ids, part.values, part.top, strict=True)
    ]
    return pb.ChatLogprobs(content=content)


def _token(token_id: int, value: float | None, tokenizer: Tokenizer) -> dict[str, Any]:
    data = tokenizer.token_bytes(token_id)
    return {"token": data.decode(errors="replace"), "logprob": value, "bytes": data}
