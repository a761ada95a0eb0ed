"""Counts the prompt tokens and the generated tokens of one request's continuations so far."""

from collections.abc import Sequence


class TokenUsage:
    """The counts of `prompts`. Each prompt has `n` continuations, which are numbered prompt by prompt."""

    __slots__ = ("_cached", "_n", "_prompts", "_reported", "completion_tokens")

    def __init__(self, prompts: Sequence[Sequence[int]], n: int) -> None:
        self._prompts = prompts
        self._n = n
        self.completion_tokens = 0
        #: By the prompt's index: its tokens in the runtime's cache, and its length by the runtime's count.
        self._cached: dict[int, int] = {}
        self._reported: dict[int, int] = {}

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        reported = self._reported
        return sum([reported.get(index, len(prompt)) for index, prompt in enumerate(self._prompts)])

    @property
    def cached_tokens(self) -> int:
        """Tokens of all prompts that their runtimes had in the cache."""
        return sum(self._cached.values())

    def count_prompt(self, index: int, cached_tokens: int, prompt_tokens: int | None) -> None:
        """Take the numbers that a runtime gives for the prompt of the continuation at `index`."""
        prompt, later = divmod(index, self._n)
        if prompt_tokens is not None:
            self._reported[prompt] = prompt_tokens
        # Only the first continuation counts: the others find the prompt cached because of the first.
        if cached_tokens and not later:
            self._cached[prompt] = cached_tokens
