"""What all readers of calls share: the text, where to write, and the functions that may be called."""

from collections.abc import Mapping
from dataclasses import dataclass

from inferd.services.text.function import Function
from inferd.services.text.output.source import Source
from inferd.services.text.output.writer import Writer


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads `source`, writes to `writer`."""

    source: Source
    writer: Writer
    functions: Mapping[str, Function]

    def begin(self, name: str, call_id: str | None = None) -> None:
        """Announces a call: from here on there is no way back."""
        self.writer.begin(name, call_id)
        self.source.release()

    def end(self, *, complete: bool = True) -> None:
        """Ends the call; what follows may turn out to be no call."""
        self.writer.end(complete=complete)
        self.source.hold()
