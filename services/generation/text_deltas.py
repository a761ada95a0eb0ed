"""From a runtime's tokens to text deltas: the text state of one continuation."""

from collections.abc import Sequence

from inferd.services.generation.delta_sink import DeltaSink, TextDelta
from inferd.services.generation.pending_logprobs import PendingLogprobs
from inferd.services.generation.token_usage import TokenUsage
from inferd.services.net.flow import Flow
from inferd.services.runtimes.base import Delta, Finish, GenerateRequest, SamplingParams
from inferd.services.runtimes.token_sink import TokenSink
from inferd.services.text.detokenizer import Detokenizer
from inferd.services.text.model_text import ModelText
from inferd.services.text.stop import StopStrings
from inferd.services.text.stop_regex import StopPatterns


class TextDeltas(TokenSink):
    """Decodes the tokens of the continuation at `index`, finds where its text ends, and pushes text deltas to
    `sink`.

    Three things wait here until they are complete: half characters, text that may begin a stop string, and a
    token that may turn out to have ended the text. The log probabilities of a token wait with its text.
    `token_ends` asks for `TextDelta.ends`. `keep` are special tokens that are never skipped.
    """

    def __init__(
        self,
        text: ModelText,
        request: GenerateRequest,
        sink: DeltaSink,
        flow: Flow,
        usage: TokenUsage,
        index: int = 0,
        *,
        token_ends: bool = False,
        keep: frozenset[int] = frozenset(),
    ) -> None:
        super().__init__(flow)
        sampling = request.sampling
        self._sink = sink
        self._usage = usage
        self._index = index
        self._detokenizer = Detokenizer(
            text.tokenizer, request.token_ids, skip_special_tokens=sampling.skip_special_tokens, keep=keep
        )
        self._stops = _stops(sampling)
        self._trim = not sampling.no_stop_trim
        self._end_ids = text.end_token_ids.union(sampling.stop_token_ids)
        #: A token that ends the text, if the runtime's next delta says that it did.
        self._held: Sequence[int] = ()
        self._logprobs = PendingLogprobs() if request.logprobs else None
        #: Tokens that were decoded and are in no delta yet.
        self._unsent: Sequence[int] = ()
        #: The ends of the texts of tokens that are in no delta yet. None: not asked for.
        self._ends: list[int] | None = [] if token_ends else None
        self._decoded = 0
        self._has_text_only = not (self._stops or self._logprobs or token_ends)

    def push(self, delta: Delta) -> bool:
        if not self.has_begun:
            self.begin()
        if delta.cached_tokens or delta.prompt_tokens is not None:
            self._usage.count_prompt(self._index, delta.cached_tokens, delta.prompt_tokens)
        new = self._read(delta)
        if new is None:
            return True
        # Counted before it is sent, because a chunk may tell the usage.
        self._usage.completion_tokens += len(new.token_ids)
        if new.finish is not None:
            self._sink.push(new)
            return False
        if self._sink.texts is not None:
            self._sink.texts.push(new.text)
        else:
            self._sink.push(new)
        return True

    def push_token(self, token_id: int) -> bool:
        if not self._has_text_only or self._held or self._unsent or token_id in self._end_ids:
            return self.push(Delta((token_id,)))
        text = self._detokenizer.plain_text(token_id)
        if text is None:
            return self.push(Delta((token_id,)))
        self._detokenizer.forget_context()
        self._usage.completion_tokens += 1
        self._sink.push_text(token_id, text)
        return True

    def _read(self, delta: Delta) -> TextDelta | None:
        """The text delta that these tokens complete; None if all of it has to wait."""
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
        text, used = (
            (self._detokenizer.add_tokens(ids), len(ids)) if self._has_text_only else self._decode(ids)
        )
        stopped = self._stopped
        if finish and not stopped:
            text += self._decode_rest()
            stopped = self._stopped
        reason = "stop" if stopped else finish.reason if finish else None
        logprobs = None
        if self._logprobs:
            logprobs = self._logprobs.take(len(text), last=reason is not None, cut=stopped)
        tokens = ids[:used] if stopped else [*ids, *ending] if ending else ids
        if self._unsent:
            tokens = [*self._unsent, *tokens]
        if not (text or reason or logprobs or delta.prompt_logprobs):
            self._unsent = tokens
            return None
        self._unsent = ()
        return TextDelta(
            text,
            tokens,
            reason,
            self._matched(finish) if reason == "stop" else None,
            self._take_ends(len(tokens)) if self._ends is not None else (),
            logprobs,
            delta.prompt_logprobs,
        )

    @property
    def _stopped(self) -> bool:
        return self._stops is not None and self._stops.matched is not None

    def _matched(self, finish: Finish | None) -> int | str | None:
        """The stop string or stop token that ended the text.

        The runtime's answer counts if no stop string was found here: the runtime also looks into the texts of
        special tokens, which may be skipped here.
        """
        if self._stops is not None and self._stops.matched is not None:
            return self._stops.matched
        if finish is None:
            return None
        return finish.matched_text if finish.matched_text is not None else finish.matched_token_id

    def _decode(self, ids: Sequence[int]) -> tuple[str, int]:
        """The text of these tokens that may be sent, and the number of tokens up to its end."""
        add, stops = self._detokenizer.add, self._stops
        parts = []
        for used, token_id in enumerate(ids, 1):
            part = add(token_id)
            self._decoded += len(part)
            if self._ends is not None:
                self._ends.append(self._decoded)
            if self._logprobs:
                self._logprobs.add_text(len(part))
            if stops is None:
                parts.append(part)
                continue
            parts.append(stops.feed(part))
            if stops.matched is not None:
                return "".join(parts), used
        return "".join(parts), len(ids)

    def _decode_rest(self) -> str:
        rest = self._detokenizer.finish()
        if self._stops is None:
            return rest
        rest = self._stops.feed(rest)
        return rest if self._stops.matched is not None else rest + self._stops.finish()

    def _take_ends(self, count: int) -> Sequence[int]:
        """Where the texts of a delta's tokens end. A stop token outside of the text ends with the text."""
        ends, self._ends = self._ends or [], []
        return [*ends, *[self._decoded] * (count - len(ends))]


def _stops(sampling: SamplingParams) -> StopStrings | StopPatterns | None:
    """The search for stop strings and expressions; None if the request has neither."""
    trim = not sampling.no_stop_trim
    if sampling.stop_regex:
        return StopPatterns(sampling.stop, sampling.stop_regex, trim=trim)
    return StopStrings(sampling.stop, trim=trim) if sampling.stop else None
