"""Bounds the number of calls that run at once."""

import grpc

from inferd.services.calls.call import Call
from inferd.services.errors import ServiceError, quota


class Admission:
    """Lets `max_concurrent` calls run, and refuses more with RESOURCE_EXHAUSTED."""

    def __init__(self, max_concurrent: int) -> None:
        self._max_concurrent = max_concurrent
        self._running = 0

    def enter(self, call: Call) -> None:
        if self._running >= self._max_concurrent:
            message = f"the server is answering {self._max_concurrent} calls, which is its limit"
            raise ServiceError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "OVERLOADED",
                message,
                retry_after=1,
                metadata={"limit": str(self._max_concurrent)},
                details=[quota("server", message)],
            )
        self._running += 1

    def leave(self, call: Call) -> None:
        self._running -= 1
