"""What comes out of a parser, in the order of the text."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Content:
    """Text of the answer to append."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Text of the reasoning to append."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegin:
    """A call begins. `index` counts calls from 0; `id` is the one that the model gave, for families whose
    models give one."""

    index: int
    name: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class CallArguments:
    """Text to append to the call's arguments: joined, the text of a JSON object."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """The call has ended. Not `complete`: the text ended, or broke the format, before the arguments did."""

    index: int
    complete: bool = True


Event = Content | Reasoning | CallBegin | CallArguments | CallEnd
