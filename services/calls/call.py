"""One call on its way through the chain: all that the links know about it. Does nothing itself."""

from typing import Any

from inferd.services.calls.deadline import Deadline
from inferd.services.errors import ServiceError
from inferd.services.net.message_writer import Metadata


class Call:
    """A call of `method` ("package.Service/Method", or "GET /path" for a page of the bridge).

    `request` is the request message, or an iterator of them. `time_remaining` is in seconds; None: the client
    set no deadline. The links and the chain set the other attributes: `request_id`, `deadline`, and `error`
    once the call has failed.
    """

    __slots__ = ("deadline", "error", "metadata", "method", "request", "request_id", "time_remaining")

    def __init__(self, method: str, request: Any, metadata: Metadata, time_remaining: float | None) -> None:
        self.method = method
        self.request = request
        self.metadata = metadata
        self.time_remaining = time_remaining
        self.request_id = ""
        self.deadline: Deadline | None = None
        self.error: ServiceError | None = None
