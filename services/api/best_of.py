"""Of several continuations of each prompt, the best: those with the greatest log probability a token."""

from collections.abc import Sequence

from inferd.services.generation.piece_reader import Piece


def best(continuations: Sequence[list[Piece]], of: int, n: int) -> list[list[Piece]]:
    """The `n` best `of` each prompt's continuations, best first.

    Continuations stand prompt by prompt, with their log probabilities. Those that failed come last.
    """
    chosen: list[list[Piece]] = []
    for start in range(0, len(continuations), of):
        chosen += sorted(continuations[start : start + of], key=_score, reverse=True)[:n]
    return chosen


def _score(pieces: Sequence[Piece]) -> tuple[bool, float]:
    """Whether it did not fail, and its mean log probability a token; of no tokens, 0."""
    values = [
        value
        for piece in pieces
        if piece.logprobs is not None
        for value in piece.logprobs.values
        if value is not None
    ]
    return pieces[-1].finish != "error", sum(values) / len(values) if values else 0.0
