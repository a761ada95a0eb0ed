"""Generation of text: a runtime's tokens to text, cut at stop strings; and several such streams as one.

Knows nothing of chat or of messages: chat and text completion are made of the pieces that come out here.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Literal

from services.logprob_queue import LogprobQueue
from services.replicas import Replicas
from services.runtimes.base import Delta, GenerateRequest, Logprobs
from services.text.detokenizer import Detokenizer
from services.text.model_text import ModelText
from services.text.stop import StopStrings


@dataclass(frozen=True, slots=True)
class Piece:
    """What is new of one continuation.

    `tokens` counts the new tokens, the stop token included; `cached_tokens` those of the prompt that the
    runtime had cached: the same number in each piece.
    """

    text: str
    tokens: int
    finish: Literal["stop", "length"] | None = None
    logprobs: Logprobs | None = None
    prompt_logprobs: Logprobs | None = None
    cached_tokens: int = 0


async def generate(
    text: ModelText, replicas: Replicas, request: GenerateRequest
) -> AsyncGenerator[Piece, None]:
    """One continuation. The last piece has `finish`. Closing the generator aborts the work.

    Raises ServiceError as `Replicas.generate` does.
    """
    reader = _Reader(text, request)
    deltas = replicas.generate(request)
    try:
        async for delta in deltas:
            piece = reader.read(delta)
            if piece is not None:
                yield piece
                if piece.finish:
                    return
    finally:
        await deltas.aclose()


class _Reader:
    """The text state of one continuation: half characters, half stop strings and tokens that may turn out to
    have ended it wait here; and the log probabilities of tokens whose text waits."""

    def __init__(self, text: ModelText, request: GenerateRequest) -> None:
        sampling = request.sampling
        self._detokenizer = Detokenizer(
            text.tokenizer, request.token_ids, skip_special_tokens=sampling.skip_special_tokens
        )
        self._stops = StopStrings(sampling.stop) if sampling.stop else None
        self._ends = text.ends.union(sampling.stop_token_ids)
        #: A token that ends the text, if the runtime says next that it did.
        self._held: list[int] = []
        self._logprobs = LogprobQueue() if request.logprobs else None
        self._unseen = 0

    def read(self, delta: Delta) -> Piece | None:
        """The piece that this delta completes; None where all of it has to wait."""
        finish = delta.finish
        ids = [*self._held, *delta.token_ids]
        held = len(self._held)
        self._held = []
        if delta.logprobs and self._logprobs:
            self._logprobs.add(delta.logprobs)
        if finish and ids and ids[-1] == finish.matched_token_id:
            # The token that ended the text is no part of it.
            ids.pop()
        elif not finish and ids and ids[-1] in self._ends:
            self._held = [ids.pop()]
        text, used = self._text(ids)
        if finish and not self._stopped:
            text += self._rest()
        reason = "stop" if self._stopped else finish.reason if finish else None
        logprobs = None
        if self._logprobs:
            logprobs = self._logprobs.take(len(text), last=reason is not None, cut=self._stopped)
        tokens = self._unseen + (max(0, used - held) if self._stopped else len(delta.token_ids))
        if not (text or reason or logprobs or delta.prompt_logprobs):
            self._unseen = tokens
            return None
        self._unseen = 0
        return Piece(text, tokens, reason, logprobs, delta.prompt_logprobs, delta.cached_tokens)

    @property
    def _stopped(self) -> bool:
        return self._stops is not None and self._stops.matched is not None

    def _text(self, ids: Sequence[int]) -> tuple[str, int]:
        """The text of these tokens that may go out, and how many of them it took to get to its end."""
        parts = []
        for used, token_id in enumerate(ids, 1):
            part = self._detokenizer.add(token_id)
            if self._logprobs:
                self._logprobs.decoded(len(part))
            if self._stops is not None:
                part = self._stops.feed(part)
            parts.append(part)
            if self._stopped:
                return "".join(parts), used
        return "".join(parts), len(ids)

    def _rest(self) -> str:
        rest = self._detokenizer.finish()
        if self._stops is None:
            return rest
        rest = self._stops.feed(rest)
        return rest if self._stops.matched is not None else rest + self._stops.finish()


async def interleave(
    streams: Sequence[AsyncGenerator[Piece, None]],
) -> AsyncGenerator[tuple[int, Piece], None]:
    """Pieces of several continuations, each with its stream's index, as they come.

    The first error ends all. Closing the generator closes them all.
    """
    if len(streams) == 1:
        try:
            async for piece in streams[0]:
                yield 0, piece
        finally:
            await streams[0].aclose()
        return
    # Bounded, so that a slow reader slows the runtimes and not the memory.
    queue: asyncio.Queue[tuple[int, Piece | Exception | None]] = asyncio.Queue(len(streams))

    async def pump(index: int, stream: AsyncGenerator[Piece, None]) -> None:
        try:
            async for piece in stream:
                await queue.put((index, piece))
            await queue.put((index, None))
        except Exception as error:
            await queue.put((index, error))
        finally:
            await stream.aclose()

    pumps = [asyncio.create_task(pump(index, stream)) for index, stream in enumerate(streams)]
    try:
        running = len(pumps)
        while running:
            index, item = await queue.get()
            if item is None:
                running -= 1
            elif isinstance(item, Exception):
                raise item
            else:
                yield index, item
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
