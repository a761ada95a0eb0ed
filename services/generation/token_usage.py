"""The tokens that the continuations of one request have read and written so far."""

from collections.abc import Sequence


class TokenUsage:
    """Counts for `prompts` of which each has `n` continuations, numbered prompt by prompt."""

    __slots__ = ("_cached", "_n", "_prompts", "_told", "completion_tokens")

    def __init__(self, prompts: Sequence[Sequence[int]], n: int) -> None:
        self._prompts = prompts
        self._n = n
        self.completion_tokens = 0
        #: By the prompt's index: its tokens in the runtime's cache, and its length by the runtime's count.
        self._cached: dict[int, int] = {}
        self._told: dict[int, int] = {}

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        told = self._told
        return sum([told.get(index, len(prompt)) for index, prompt in enumerate(self._prompts)])

    @property
    def cached_tokens(self) -> int:
        """Tokens of all prompts that their runtimes had in the cache."""
        return sum(self._cached.values())

    def count_prompt(self, index: int, cached_tokens: int, prompt_tokens: int | None) -> None:
        """Take the numbers that a runtime gives for the prompt of the continuation at `index`."""
        prompt, later = divmod(index, self._n)
        if prompt_tokens is not None:
            self._told[prompt] = prompt_tokens
        # The later continuations of a prompt find it in the cache because of the first: that saves nothing.
        if cached_tokens and not later:
            self._cached[prompt] = cached_tokens
