"""The context that a handler is given: the part of grpc.aio.ServicerContext that handlers use.

gRPC's server and calls in this process each have a class that implements it.
"""

from typing import NoReturn, Protocol

import grpc
from google.protobuf.message import Message

from inferd.services.net.message_writer import MessageWriter, Metadata


class CallContext(Protocol):
    """The context of one call."""

    @property
    def writer(self) -> MessageWriter:
        """Takes the messages of a method that streams its response."""
        ...

    def invocation_metadata(self) -> Metadata:
        """The client's metadata."""
        ...

    def time_remaining(self) -> float | None:
        """Seconds until the client's deadline; None if it has none."""
        ...

    async def send_initial_metadata(self, metadata: Metadata) -> None:
        """Send metadata ahead of the first message. To be called once at most."""
        ...

    async def write(self, message: Message) -> None:
        """Send one of several responses, and wait while the client has no room for more."""
        ...

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """End the call with this status."""
        ...
