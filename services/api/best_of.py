"""Picks the best of several continuations: those with the greatest mean log probability of their tokens."""

from collections.abc import Sequence

from inferd.services.generation.delta_sink import TextDelta


def best_continuations(continuations: Sequence[list[TextDelta]], of: int, n: int) -> list[list[TextDelta]]:
    """The `n` best of each prompt's `of` continuations, the best first.

    `continuations` are in the order of their prompts, and have log probabilities. Failed ones come last.
    """
    chosen: list[list[TextDelta]] = []
    for start in range(0, len(continuations), of):
        chosen += sorted(continuations[start : start + of], key=_score, reverse=True)[:n]
    return chosen


def _score(deltas: Sequence[TextDelta]) -> tuple[bool, float]:
    """Whether the continuation succeeded, and the mean log probability of its tokens; 0 if it has none."""
    values = [
        value
        for delta in deltas
        if delta.logprobs is not None
        for value in delta.logprobs.values
        if value is not None
    ]
    return deltas[-1].finish != "error", sum(values) / len(values) if values else 0.0
