"""Text deltas, and the sinks that they are pushed to. Makes no deltas itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from inferd.services.errors import ServiceError
from inferd.services.net.text_sink import TextSink
from inferd.services.runtimes.base import Logprobs


# Not frozen, because a frozen dataclass takes a microsecond more, and one is made for nearly every token.
@dataclass(slots=True)
class TextDelta:
    """The new text and tokens of one continuation. The last delta has `finish`.

    `token_ids` are the new tokens, the stop token included. `ends` has, for each of them, the length in
    characters of the continuation once the token was decoded; it is empty unless the generation was asked for
    `token_ends`. `matched` is the id of the stop token, or the stop string, that ended the continuation.
    `error` says why the continuation failed, if `finish` is "error".
    """

    text: str
    token_ids: Sequence[int]
    finish: Literal["stop", "length", "error"] | None = None
    matched: int | str | None = None
    ends: Sequence[int] = ()
    logprobs: Logprobs | None = None
    prompt_logprobs: Logprobs | None = None
    error: ServiceError | None = None


class DeltaSink:
    """Takes the text deltas of one continuation. To be subclassed.

    A subclass sets `texts` once its answer to a delta depends on nothing but the delta's text. From then on
    the texts of all deltas but the last go there, and no TextDelta is made for them.
    """

    __slots__ = ("texts",)

    def __init__(self) -> None:
        self.texts: TextSink | None = None

    def push(self, delta: TextDelta) -> None:
        """Take a delta."""
        raise NotImplementedError

    def push_text(self, token_id: int, text: str) -> None:
        """Take the text of one token about which there is nothing else to say."""
        if self.texts is not None:
            self.texts.push(text)
        else:
            self.push(TextDelta(text, (token_id,)))


class Collector(DeltaSink):
    """The end of the chain of a whole answer: keeps the deltas."""

    __slots__ = ("deltas",)

    def __init__(self) -> None:
        super().__init__()
        self.deltas: list[TextDelta] = []

    def push(self, delta: TextDelta) -> None:
        self.deltas.append(delta)
