"""One completion request, ready to run: what chat and text completion have in common."""

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

from inferd.v1 import sampling_pb2

from services.catalog import ServedModel
from services.generation import Piece, generate, interleave
from services.runtimes.base import GenerateRequest, SamplingParams
from services.sampling import ignored_fields

FINISH_REASONS = {
    "stop": sampling_pb2.FINISH_REASON_STOP,
    "length": sampling_pb2.FINISH_REASON_LENGTH,
    None: sampling_pb2.FINISH_REASON_UNSPECIFIED,
}


@dataclass
class Work:
    """`n` continuations of each prompt, numbered prompt by prompt; and the usage, as it grows."""

    model: ServedModel
    prompts: Sequence[Sequence[int]]
    sampling: SamplingParams
    n: int
    stream: bool
    background: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    prompt_logprobs: bool = False
    created: int = field(default_factory=lambda: int(time.time()))
    _completion_tokens: int = 0
    #: Of each prompt, by its index.
    _cached_tokens: dict[int, int] = field(default_factory=dict)

    def notices(self) -> tuple[tuple[str, str], ...]:
        """What the caller should know before the answer, as metadata: fields that are ignored."""
        ignored = ignored_fields(self.sampling, self.model)
        return (("x-inferd-ignored", ",".join(ignored)),) if ignored else ()

    async def announce(self, context: Any) -> None:
        """Send the notices, if there are any."""
        notices = self.notices()
        if notices:
            await context.send_initial_metadata(notices)

    async def run(self) -> AsyncGenerator[tuple[int, Piece], None]:
        """The pieces of all continuations, as they come, each with its index."""
        pieces = interleave(
            [generate(self.model.text, self.model.replicas, request) for request in self._requests()]
        )
        try:
            async for index, piece in pieces:
                self._completion_tokens += piece.tokens
                if piece.cached_tokens:
                    prompt, later = divmod(index, self.n)
                    # A prompt's later continuations find it cached by the first: no saving to report.
                    if not later:
                        self._cached_tokens[prompt] = piece.cached_tokens
                yield index, piece
        finally:
            await pieces.aclose()

    async def collect(self) -> list[list[Piece]]:
        """The pieces of each continuation, once all are complete."""
        collected: list[list[Piece]] = [[] for _ in range(len(self.prompts) * self.n)]
        async for index, piece in self.run():
            collected[index].append(piece)
        return collected

    def usage(self) -> sampling_pb2.Usage:
        """Tokens read, and written so far."""
        prompt_tokens = sum(map(len, self.prompts))
        return sampling_pb2.Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=self._completion_tokens,
            total_tokens=prompt_tokens + self._completion_tokens,
            prompt_tokens_details=sampling_pb2.PromptTokensDetails(
                cached_tokens=sum(self._cached_tokens.values())
            ),
        )

    def _requests(self) -> list[GenerateRequest]:
        return [
            GenerateRequest(
                token_ids=prompt,
                sampling=self.sampling,
                stream=self.stream,
                background=self.background,
                logprobs=self.logprobs,
                top_logprobs=self.top_logprobs,
                prompt_logprobs=self.prompt_logprobs,
            )
            for prompt in self.prompts
            for _ in range(self.n)
        ]


def new_id(prefix: str) -> str:
    """An id such as "chatcmpl-" and 32 hexadecimal digits."""
    return f"{prefix}-{uuid.uuid4().hex}"
