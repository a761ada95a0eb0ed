"""A generation that a runtime is asked for, from its request to its end.

Each adapter has a subclass, which knows the wire. Knows nothing of the engine's health.
"""

from abc import ABC, abstractmethod


class RunningGeneration(ABC):
    """One generation under way. `request_id` names it in the engine."""

    __slots__ = ("is_dropped", "request_id")

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        #: Whether it was ended because the engine is gone.
        self.is_dropped = False

    @property
    @abstractmethod
    def last_message_at(self) -> float:
        """When the engine sent its last message, or else when the generation began, in monotonic seconds."""

    @property
    @abstractmethod
    def needs_abort(self) -> bool:
        """Whether the engine may still work on the request."""

    @abstractmethod
    async def run(self) -> None:
        """Send the request, and push the engine's tokens to the generation's sink until the last one.

        Releases what it holds, however it ends. Raises ServiceError as `Runtime.generate` does.
        """

    @abstractmethod
    def drop(self) -> None:
        """End it, because the engine is gone: `run` raises UNAVAILABLE."""
