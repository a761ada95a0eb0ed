"""The events that an OutputParser returns, in the order of the text. They hold data only."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Content:
    """Text to append to the content."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Text to append to the reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegin:
    """A call begins. `index` counts the calls of the answer from 0. `id` is the call's id if the model writes
    one."""

    index: int
    name: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class CallArguments:
    """Text to append to the arguments of a call. The joined texts are a JSON object."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """A call ends. `complete` is false if the text ends, or breaks the format, within the arguments."""

    index: int
    complete: bool = True


Event = Content | Reasoning | CallBegin | CallArguments | CallEnd
