"""The text state of one continuation: what a delta's tokens add to it, as a piece."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from inferd.services.errors import ServiceError
from inferd.services.generation.logprob_queue import LogprobQueue
from inferd.services.runtimes.base import Delta, Finish, GenerateRequest, Logprobs, SamplingParams
from inferd.services.text.detokenizer import Detokenizer
from inferd.services.text.model_text import ModelText
from inferd.services.text.stop import StopStrings
from inferd.services.text.stop_regex import StopPatterns


# Not frozen: one is made for every token, and a frozen one costs a microsecond more.
@dataclass(slots=True)
class Piece:
    """What is new of one continuation.

    `token_ids` are the new tokens, the stop token included. Where they were asked for (`spans`), `ends` has
    for each how many characters of the continuation were decoded once it was. `cached_tokens` are those of
    the prompt that the runtime had cached, `prompt_tokens` how many there were, where the runtime says so:
    the same numbers in each piece. `matched` is the stop token's id, or the stop string, that ended it.
    `error` is why it failed, where `finish` is "error".
    """

    text: str
    token_ids: Sequence[int]
    finish: Literal["stop", "length", "error"] | None = None
    matched: int | str | None = None
    ends: Sequence[int] = ()
    logprobs: Logprobs | None = None
    prompt_logprobs: Logprobs | None = None
    cached_tokens: int = 0
    prompt_tokens: int | None = None
    error: ServiceError | None = None


class PieceReader:
    """Makes pieces of deltas: half characters, half stop strings and tokens that may turn out to
    have ended it wait here; and the log probabilities of tokens whose text waits."""

    def __init__(self, text: ModelText, request: GenerateRequest, spans: bool, keep: frozenset[int]) -> None:
        sampling = request.sampling
        self._detokenizer = Detokenizer(
            text.tokenizer, request.token_ids, skip_special_tokens=sampling.skip_special_tokens, keep=keep
        )
        self._stops = _stops(sampling)
        self._trim = not sampling.no_stop_trim
        self._end_ids = text.ends.union(sampling.stop_token_ids)
        #: A token that ends the text, if the runtime says next that it did.
        self._held: Sequence[int] = ()
        self._logprobs = LogprobQueue() if request.logprobs else None
        #: Tokens that were decoded, and are in no piece yet; and of all, where their texts end.
        self._unseen: Sequence[int] = ()
        self._ends: list[int] | None = [] if spans else None
        self._decoded = 0
        self._plain = not (self._stops or self._logprobs or spans)

    def read(self, delta: Delta) -> Piece | None:
        """The piece that this delta completes; None where all of it has to wait."""
        finish = delta.finish
        ids = [*self._held, *delta.token_ids] if self._held else delta.token_ids
        self._held = ()
        if delta.logprobs and self._logprobs:
            self._logprobs.add(delta.logprobs)
        last = ids[-1] if ids else None
        ending: Sequence[int] = ()
        if finish is None:
            if last in self._end_ids:
                ids, self._held = ids[:-1], ids[-1:]
        elif last is not None and last == finish.matched_token_id and self._trim:
            # The token that ended the text is no part of it.
            ids, ending = ids[:-1], ids[-1:]
        text, used = (self._detokenizer.add_all(ids), len(ids)) if self._plain else self._text(ids)
        stopped = self._stopped
        if finish and not stopped:
            text += self._rest()
            stopped = self._stopped
        reason = "stop" if stopped else finish.reason if finish else None
        logprobs = None
        if self._logprobs:
            logprobs = self._logprobs.take(len(text), last=reason is not None, cut=stopped)
        tokens = ids[:used] if stopped else [*ids, *ending] if ending else ids
        if self._unseen:
            tokens = [*self._unseen, *tokens]
        if not (text or reason or logprobs or delta.prompt_logprobs):
            self._unseen = tokens
            return None
        self._unseen = ()
        return Piece(
            text,
            tokens,
            reason,
            self._matched(finish) if reason == "stop" else None,
            self._take_ends(len(tokens)) if self._ends is not None else (),
            logprobs,
            delta.prompt_logprobs,
            delta.cached_tokens,
            delta.prompt_tokens,
        )

    def text_of(self, token_id: int) -> str | None:
        """The text of one more token, where that is all of its piece; None where it is not so, or not known
        yet. It counts as read once `passed` is called."""
        if not self._plain or self._held or self._unseen or token_id in self._end_ids:
            return None
        return self._detokenizer.text_of(token_id)

    def passed(self) -> None:
        """The text of the token went out."""
        self._detokenizer.passed()

    @property
    def _stopped(self) -> bool:
        return self._stops is not None and self._stops.matched is not None

    def _matched(self, finish: Finish | None) -> int | str | None:
        """What ended the text: what this side met, else what the runtime did (it looks for stop strings in
        special tokens' texts too, which may be skipped here)."""
        if self._stops is not None and self._stops.matched is not None:
            return self._stops.matched
        if finish is None:
            return None
        return finish.matched_text if finish.matched_text is not None else finish.matched_token_id

    def _text(self, ids: Sequence[int]) -> tuple[str, int]:
        """The text of these tokens that may go out, and how many of them it took to get to its end."""
        add, stops = self._detokenizer.add, self._stops
        parts = []
        for used, token_id in enumerate(ids, 1):
            part = add(token_id)
            self._decoded += len(part)
            if self._ends is not None:
                self._ends.append(self._decoded)
            if self._logprobs:
                self._logprobs.decoded(len(part))
            if stops is None:
                parts.append(part)
                continue
            parts.append(stops.feed(part))
            if stops.matched is not None:
                return "".join(parts), used
        return "".join(parts), len(ids)

    def _rest(self) -> str:
        rest = self._detokenizer.finish()
        if self._stops is None:
            return rest
        rest = self._stops.feed(rest)
        return rest if self._stops.matched is not None else rest + self._stops.finish()

    def _take_ends(self, count: int) -> Sequence[int]:
        """Where the texts of a piece's tokens end; a last one that is no part of the text has none."""
        ends, self._ends = self._ends or [], []
        return [*ends, *[self._decoded] * (count - len(ends))]


def _stops(sampling: SamplingParams) -> StopStrings | StopPatterns | None:
    """What looks for the end in the text itself, where there is anything to look for."""
    trim = not sampling.no_stop_trim
    if sampling.stop_regex:
        return StopPatterns(sampling.stop, sampling.stop_regex, trim=trim)
    return StopStrings(sampling.stop, trim=trim) if sampling.stop else None
