"""Where a runtime pushes the tokens of one generation."""

from collections.abc import Callable

from inferd.services.net.flow import Flow
from inferd.services.runtimes.base import Delta


class TokenSink:
    """To be subclassed. While `flow` is paused, the runtime has to wait.

    `has_begun` is set at the first delta, and `on_begin` is called then, if it is set.
    """

    __slots__ = ("flow", "has_begun", "on_begin")

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.has_begun = False
        self.on_begin: Callable[[], None] | None = None

    def push(self, delta: Delta) -> bool:
        """Take a delta. Returns False if the delta was the last, or if no more are wanted."""
        raise NotImplementedError

    def push_token(self, token_id: int) -> bool:
        """Take a delta that has nothing but one token, in less time than `push`. Not for the first delta.

        Returns as `push` does.
        """
        raise NotImplementedError

    def begin(self) -> None:
        """To be called by a subclass at the first delta."""
        self.has_begun = True
        if self.on_begin is not None:
            self.on_begin()
