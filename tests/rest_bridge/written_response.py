"""A response to which an EventWriter writes, without a client."""

from typing import Any


class WrittenResponse:
    """Keeps the bytes of the body."""

    def __init__(self) -> None:
        self.data = b""

    def start_events_now(self, headers: Any) -> bool:
        return True

    def write_now(self, frames: bytes) -> bool:
        self.data += frames
        return True
