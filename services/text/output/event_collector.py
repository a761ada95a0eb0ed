"""Collects the events that the readers of an answer report.

Reads no text. Decides only that whitespace before, between and after calls is not content.
"""

from inferd.services.text.output.events import CallArguments, CallBegin, CallEnd, Content, Event, Reasoning


class EventCollector:
    """Collects events until they are taken. `calls`: whether the answer may have calls."""

    __slots__ = ("_blank", "_events", "_space", "call_count", "in_call")

    def __init__(self, *, calls: bool) -> None:
        self._events: list[Event] = []
        self._blank = calls  # only whitespace since the start or since the last call
        self._space = ""
        self.call_count = 0
        """How many calls have begun."""
        self.in_call = False
        """A call has begun and not ended."""

    @property
    def blank(self) -> bool:
        """Whether calls are possible, and no content but whitespace came since the start or the last call."""
        return self._blank

    def take(self) -> list[Event]:
        """The events since the last `take`."""
        events, self._events = self._events, []
        return events

    def content(self, text: str) -> None:
        """Add text to the content."""
        if self._blank:
            if text.isspace() or not text:
                self._space += text
                return
            text, self._space, self._blank = self._space + text, "", False
        self._events.append(Content(text))

    def reasoning(self, text: str) -> None:
        """Add text to the reasoning."""
        self._events.append(Reasoning(text))

    def begin_call(self, name: str, call_id: str | None = None) -> None:
        """Begin a call."""
        self._space, self._blank = "", True
        self._events.append(CallBegin(self.call_count, name, call_id))
        self.call_count += 1
        self.in_call = True

    def arguments(self, text: str) -> None:
        """Add text to the arguments of the open call."""
        if text:
            self._events.append(CallArguments(self.call_count - 1, text))

    def drop_blank(self) -> None:
        """Drop whitespace that is held back: it stands within a section of calls, and is not content."""
        if self._blank:
            self._space = ""

    def end_call(self, *, complete: bool = True) -> None:
        """End the open call."""
        self.in_call = False
        self._events.append(CallEnd(self.call_count - 1, complete))

    def finish(self) -> None:
        """End the answer. Whitespace is content if the answer has no calls."""
        if self._space and not self.call_count:
            self._events.append(Content(self._space))
        self._space = ""
