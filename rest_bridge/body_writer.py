"""Writes parts of a response's body at once, without a turn of its task."""

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

#: The name of a `BodyWriter`, among ASGI's extensions.
BODY_WRITER = "inferd.body_writer"

#: What stands before a chunk of HTTP/1.1, by its bytes: those of most events.
_HEADS = [b"%x\r\n" % size for size in range(1024)]


class BodyWriter:
    """Writes to a response whose headers were sent, and whose length is open. `wrote` is set where it did."""

    __slots__ = ("_cycle", "wrote")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self.wrote = False

    def write(self, data: bytes) -> bool:
        """Write it. False: there is no room, or no such response."""
        cycle = self._cycle
        if cycle.flow.write_paused or cycle.disconnected or cycle.response_complete:
            return False
        if not cycle.chunked_encoding:
            return False
        self.wrote = True
        size = len(data)
        head = _HEADS[size] if size < len(_HEADS) else b"%x\r\n" % size
        cycle.transport.write(head + data + b"\r\n")
        return True
