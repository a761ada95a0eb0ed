"""The state that all readers of one answer share. Reads nothing itself."""

from collections.abc import Mapping
from dataclasses import dataclass

from inferd.services.text.function import Function
from inferd.services.text.output.event_collector import EventCollector
from inferd.services.text.output.text_buffer import TextBuffer


@dataclass(frozen=True, slots=True)
class ParserState:
    """The text of the answer, the writer of its events, and the functions that may be called, by name."""

    buffer: TextBuffer
    writer: EventCollector
    functions: Mapping[str, Function]

    def begin_call(self, name: str, call_id: str | None = None) -> None:
        """Write the event that a call begins. The call cannot be taken back afterwards."""
        self.writer.begin_call(name, call_id)
        self.buffer.release()

    def end_call(self, *, complete: bool = True) -> None:
        """Write the event that the call ends, and hold the text after it, which may turn out to be no
        call."""
        self.writer.end_call(complete=complete)
        self.buffer.hold()
