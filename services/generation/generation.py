"""Generation of text: a runtime's tokens to text, cut where a stop string or stop token ends it.

Knows nothing of chat or of messages: chat and text completion are made of the pieces that come out here.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Self

from inferd.services.fleet.replicas import Replicas
from inferd.services.generation.piece_reader import Piece, PieceReader
from inferd.services.generation.piece_relay import PieceRelay, TokenRelay
from inferd.services.generation.stage import Stage
from inferd.services.generation.stream import Stream
from inferd.services.runtimes.base import Delta, GenerateRequest
from inferd.services.text.model_text import ModelText


def generate(
    text: ModelText,
    replicas: Replicas,
    request: GenerateRequest,
    *,
    spans: bool = False,
    keep: frozenset[int] = frozenset(),
    relay: PieceRelay | None = None,
) -> Stream[Piece]:
    """One continuation. The last piece has `finish`. Closing the stream aborts the work.

    `keep` are special tokens that stay in the text where others are skipped. What `relay` takes,
    while this is waited for, is not yielded. Iterating raises ServiceError as `Replicas.generate` does.
    """
    reader = PieceReader(text, request, spans, keep)
    pieces: Stage[Delta, Piece] = Stage(reader.read)
    if relay is not None:
        pieces.send = relay.push
        # The request is this generation's own, from here on.
        request.relay = TokenRelay(reader, pieces.push, relay)
    if request.sampling.stop_regex:
        # Looked for here alone. SGLang would in its scheduler, at every step: one client's slow expression
        # would stop all others.
        request = replace(request, stream=True, sampling=replace(request.sampling, stop_regex=()))
    return _Continuation(replicas.generate(request), pieces.pull)


class _Continuation:
    """The pieces of one continuation, which `read` makes of deltas."""

    __slots__ = ("_deltas", "_is_over", "_read")

    def __init__(self, deltas: Stream[Delta], read: Callable[[Delta], Piece | None]) -> None:
        self._deltas = deltas
        self._read = read
        self._is_over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Piece:
        while not self._is_over:
            piece = self._read(await anext(self._deltas))
            if piece is not None:
                self._is_over = piece.finish is not None
                return piece
        # The text may end before the runtime's work does.
        await self._deltas.aclose()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._is_over = True
        await self._deltas.aclose()
