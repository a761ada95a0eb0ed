"""Generation of text: a runtime's tokens to text, cut at stop strings; and several such streams as one.

Knows nothing of chat or of messages: chat and text completion are made of the pieces that come out here.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Literal

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
    """The text state of one continuation: half characters and half stop strings wait here."""

    def __init__(self, text: ModelText, request: GenerateRequest) -> None:
        sampling = request.sampling
        self._detokenizer = Detokenizer(
            text.tokenizer, request.token_ids, skip_special_tokens=sampling.skip_special_tokens
        )
        self._stops = StopStrings(sampling.stop) if sampling.stop else None
        self._unseen = 0

    def read(self, delta: Delta) -> Piece | None:
        """The piece that this delta completes; None where all of it has to wait."""
        ids, finish = delta.token_ids, delta.finish
        if finish and ids and ids[-1] == finish.matched_token_id:
            # The token that ended the text is no part of it.
            text, used = self._text(ids[:-1])
            used += used == len(ids) - 1
        else:
            text, used = self._text(ids)
        if finish and not self._stopped:
            text += self._rest()
        reason = "stop" if self._stopped else finish.reason if finish else None
        logprobs = _first(delta.logprobs, used) if delta.logprobs else None
        tokens = self._unseen + used
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
        add = self._detokenizer.add
        if self._stops is None:
            return "".join([add(token_id) for token_id in ids]), len(ids)
        parts = []
        for used, token_id in enumerate(ids, 1):
            parts.append(self._stops.feed(add(token_id)))
            if self._stops.matched is not None:
                return "".join(parts), used
        return "".join(parts), len(ids)

    def _rest(self) -> str:
        rest = self._detokenizer.finish()
        if self._stops is None:
            return rest
        rest = self._stops.feed(rest)
        return rest if self._stops.matched is not None else rest + self._stops.finish()


def _first(logprobs: Logprobs, count: int) -> Logprobs:
    if count >= len(logprobs.token_ids):
        return logprobs
    return Logprobs(logprobs.token_ids[:count], logprobs.values[:count], logprobs.top[:count])


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
