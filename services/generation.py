"""Generation of text: a runtime's tokens to text, cut where a stop string or stop token ends it.

Knows nothing of chat or of messages: chat and text completion are made of the pieces that come out here.
"""

from collections.abc import AsyncGenerator
from dataclasses import replace

from services.piece_reader import Piece, PieceReader
from services.piece_relay import PieceRelay, TokenRelay
from services.replicas import Replicas
from services.runtimes.base import Delta, GenerateRequest
from services.stage import Stage
from services.text.model_text import ModelText


async def generate(
    text: ModelText,
    replicas: Replicas,
    request: GenerateRequest,
    *,
    spans: bool = False,
    keep: frozenset[int] = frozenset(),
    relay: PieceRelay | None = None,
) -> AsyncGenerator[Piece, None]:
    """One continuation. The last piece has `finish`. Closing the generator aborts the work.

    `keep` are special tokens that stay in the text where others are skipped. What `relay` takes,
    while this is waited for, is not yielded. Raises ServiceError as `Replicas.generate` does.
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
    deltas = replicas.generate(request)
    try:
        async for delta in deltas:
            piece = pieces.pull(delta)
            if piece is not None:
                yield piece
                if piece.finish:
                    return
    finally:
        await deltas.aclose()
