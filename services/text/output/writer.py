"""Writes down what the readers find, as events.

Decides one thing itself: text of nothing but whitespace before, between and after calls is not content.
"""

from inferd.services.text.output.events import CallArguments, CallBegin, CallEnd, Content, Event, Reasoning


class Writer:
    """Collects events until they are taken. `calls`: whether there may be calls at all."""

    __slots__ = ("_blank", "_events", "_space", "arguments_begun", "count", "open")

    def __init__(self, *, calls: bool) -> None:
        self._events: list[Event] = []
        self._blank = calls  # nothing but whitespace since the beginning or the last call
        self._space = ""
        self.count = 0
        """Calls begun."""
        self.open = False
        """A call has begun and not ended."""
        self.arguments_begun = False

    def take(self) -> list[Event]:
        """The events since the last time."""
        events, self._events = self._events, []
        return events

    def content(self, text: str) -> None:
        """Text of the answer."""
        if self._blank:
            if text.isspace() or not text:
                self._space += text
                return
            text, self._space, self._blank = self._space + text, "", False
        self._events.append(Content(text))

    def reasoning(self, text: str) -> None:
        """Text of the reasoning."""
        self._events.append(Reasoning(text))

    def begin(self, name: str, call_id: str | None = None) -> None:
        """A call begins."""
        self._space, self._blank = "", True
        self._events.append(CallBegin(self.count, name, call_id))
        self.count += 1
        self.open, self.arguments_begun = True, False

    def arguments(self, text: str) -> None:
        """Text of the open call's arguments."""
        if text:
            self.arguments_begun = True
            self._events.append(CallArguments(self.count - 1, text))

    def inside(self) -> None:
        """What came last stood inside of what holds the calls: space there is not the content's."""
        if self._blank:
            self._space = ""

    def end(self, *, complete: bool = True) -> None:
        """The open call ends."""
        self.open = False
        self._events.append(CallEnd(self.count - 1, complete))

    def finish(self) -> None:
        """The text has ended: whitespace is content after all, where nothing else was."""
        if self._space and not self.count:
            self._events.append(Content(self._space))
        self._space = ""
