"""A short way for what a runtime's stream brings, past the task that waits for it."""

from inferd.services.runtimes.base import Delta


class Relay:
    """To be subclassed. May be offered what comes while `generate` is waited for, but not the last delta.
    What it refuses (False) comes by `generate`."""

    __slots__ = ()

    def push(self, delta: Delta) -> bool:
        """Take a delta."""
        raise NotImplementedError

    def push_token(self, token_id: int) -> bool:
        """Take one token, of which there is nothing else to tell: what `push` does, in less time. What it
        refuses may be offered to `push`."""
        raise NotImplementedError
