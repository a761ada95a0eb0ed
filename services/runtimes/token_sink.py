"""Where a runtime pushes the tokens of one generation."""

from collections.abc import Callable

from inferd.services.net.flow import Flow
from inferd.services.runtimes.base import Delta


class TokenSink:
    """To be subclassed. `flow` says whether the runtime is to wait before it pushes more.

    `has_begun` is set with the first delta; `on_begin` is called then, if it is set.
    """

    __slots__ = ("flow", "has_begun", "on_begin")

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.has_begun = False
        self.on_begin: Callable[[], None] | None = None

    def push(self, delta: Delta) -> bool:
        """Take a delta. False: the generation is over, because the delta or the sink has ended it."""
        raise NotImplementedError

    def push_token(self, token_id: int) -> bool:
        """Take one token about which there is nothing else to say: `push` in less time. Not the first one."""
        raise NotImplementedError

    def begin(self) -> None:
        """To be called by subclasses with the first delta."""
        self.has_begun = True
        if self.on_begin is not None:
            self.on_begin()
