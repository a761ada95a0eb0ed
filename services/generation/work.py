"""One completion request, ready to run: what chat and text completion have in common."""

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from inferd.services.fleet.catalog import ServedModel
from inferd.services.generation.generation import generate
from inferd.services.generation.interleave import interleave
from inferd.services.generation.piece_reader import Piece
from inferd.services.generation.piece_relay import PieceRelay
from inferd.services.generation.sampling import ignored_fields
from inferd.services.generation.stream import Stream
from inferd.services.net.random_id import random_id
from inferd.services.net.text_sender import TextSender
from inferd.services.runtimes.base import GenerateRequest, Medium, SamplingParams
from inferd.v1 import sampling_pb2

FINISH_REASONS = {
    "stop": sampling_pb2.FINISH_REASON_STOP,
    "length": sampling_pb2.FINISH_REASON_LENGTH,
    "error": sampling_pb2.FINISH_REASON_ERROR,
    None: sampling_pb2.FINISH_REASON_UNSPECIFIED,
}


@dataclass
class Work:
    """`n` continuations of each prompt, numbered prompt by prompt; and the usage, as it grows.

    `spans` asks for where each token's text ends; `keep` are special tokens that stay in the text where
    others are skipped; `media` are those of the prompt. Of `background` work, which nobody waits for, no
    continuation fails by itself: it can be done again as a whole.
    """

    model: ServedModel
    prompts: Sequence[Sequence[int]]
    sampling: SamplingParams
    n: int
    stream: bool
    background: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    prompt_logprobs: bool = False
    spans: bool = False
    keep: frozenset[int] = frozenset()
    media: tuple[Medium, ...] = ()
    created: int = field(default_factory=lambda: int(time.time()))
    #: Of each prompt, by its index.
    _cached_tokens: dict[int, int] = field(default_factory=dict)
    #: Of each prompt, where the runtime says it.
    _prompt_tokens: dict[int, int] = field(default_factory=dict)
    #: Counts their tokens.
    _relay: PieceRelay = field(default_factory=PieceRelay)

    def notices(self) -> tuple[tuple[str, str], ...]:
        """What the caller should know before the answer, as metadata: fields that are ignored."""
        ignored = ignored_fields(self.sampling, self.model)
        return (("x-inferd-ignored", ",".join(ignored)),) if ignored else ()

    async def announce(self, context: Any) -> None:
        """Send the notices, if there are any."""
        notices = self.notices()
        if notices:
            await context.send_initial_metadata(notices)

    def run(self) -> Stream[tuple[int, Piece]]:
        """The pieces of all continuations, as they come, each with its index; see `interleave`."""
        text, replicas = self.model.text, self.model.replicas
        requests = self._requests()
        relay = self._relay if len(requests) == 1 and self.stream else None
        streams = [
            generate(text, replicas, request, spans=self.spans, keep=self.keep, relay=relay)
            for request in requests
        ]
        if len(streams) == 1:
            return _Only(streams[0], self._count, self._relay)
        return self._counted(interleave(streams, all_or_none=self.background))

    async def _counted(
        self, pieces: AsyncGenerator[tuple[int, Piece], None]
    ) -> AsyncGenerator[tuple[int, Piece], None]:
        try:
            async for index, piece in pieces:
                self._count(index, piece)
                yield index, piece
        finally:
            await pieces.aclose()

    def shorten(self, send: Callable[[Piece], bool]) -> None:
        """From now on, offer pieces to `send` that come while `run` is waited for. What it refuses (False)
        comes by `run`, and so do the last one, and all where there are several continuations."""
        self._relay.send = send

    def shorten_texts(self, sender: TextSender) -> None:
        """`shorten`, where nothing but the texts of the pieces matters."""
        self._relay.send_text = sender

    async def collect(self) -> list[list[Piece]]:
        """The pieces of each continuation, once all are complete."""
        collected: list[list[Piece]] = [[] for _ in range(len(self.prompts) * self.n)]
        pieces = self.run()
        try:
            async for index, piece in pieces:
                collected[index].append(piece)
        finally:
            await pieces.aclose()
        return collected

    def write_usage(self, usage: sampling_pb2.Usage, reasoning_tokens: int = 0) -> None:
        """Fill in the tokens read, and written so far; `reasoning_tokens` of these were reasoning."""
        told = self._prompt_tokens
        completion_tokens = self._relay.completion_tokens
        prompt_tokens = sum([told.get(index, len(prompt)) for index, prompt in enumerate(self.prompts)])
        usage.prompt_tokens = prompt_tokens
        usage.completion_tokens = completion_tokens
        usage.total_tokens = prompt_tokens + completion_tokens
        # Set, though it be to 0: the details are there.
        usage.prompt_tokens_details.cached_tokens = sum(self._cached_tokens.values())
        usage.completion_tokens_details.reasoning_tokens = reasoning_tokens

    def _count(self, index: int, piece: Piece) -> None:
        self._relay.completion_tokens += len(piece.token_ids)
        if piece.cached_tokens or piece.prompt_tokens is not None:
            self._count_prompt(index, piece)

    def _count_prompt(self, index: int, piece: Piece) -> None:
        prompt, later = divmod(index, self.n)
        if piece.prompt_tokens is not None:
            self._prompt_tokens[prompt] = piece.prompt_tokens
        # A prompt's later continuations find it cached by the first: no saving to report.
        if piece.cached_tokens and not later:
            self._cached_tokens[prompt] = piece.cached_tokens

    def _requests(self) -> list[GenerateRequest]:
        return [
            GenerateRequest(
                token_ids=prompt,
                sampling=self.sampling,
                stream=self.stream,
                background=self.background,
                adapter=self.model.adapter,
                media=self.media,
                logprobs=self.logprobs,
                top_logprobs=self.top_logprobs,
                prompt_logprobs=self.prompt_logprobs,
            )
            for prompt in self.prompts
            for _ in range(self.n)
        ]


class _Only:
    """The pieces of one continuation alone, numbered 0. `count` is told of each; `relay` ends with them."""

    __slots__ = ("_count", "_pieces", "_relay")

    def __init__(self, pieces: Stream[Piece], count: Callable[[int, Piece], None], relay: PieceRelay) -> None:
        self._pieces = pieces
        self._count = count
        self._relay = relay

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[int, Piece]:
        piece = await anext(self._pieces)
        self._count(0, piece)
        return 0, piece

    async def aclose(self) -> None:
        self._relay.close()
        await self._pieces.aclose()


def matched_stop(piece: Piece) -> sampling_pb2.MatchedStop | None:
    """What ended the continuation, where a stop token or stop string did."""
    if piece.matched is None:
        return None
    if isinstance(piece.matched, str):
        return sampling_pb2.MatchedStop(text=piece.matched)
    return sampling_pb2.MatchedStop(token_id=piece.matched)


def new_id(prefix: str) -> str:
    """An id such as "chatcmpl-" and 32 hexadecimal digits."""
    return f"{prefix}-{random_id()}"
