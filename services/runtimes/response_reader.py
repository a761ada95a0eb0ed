"""Reads the responses of one generation by the scheduler protocol: each token once, in order, none lost."""

from collections.abc import Sequence
from operator import itemgetter

from inferd.services.errors import ServiceError
from inferd.services.runtimes.base import Delta, Finish, GenerateRequest, Logprobs, joined
from inferd.services.runtimes.chunk_wire import next_token
from inferd.services.runtimes.engine_errors import aborted, failed
from inferd.services.runtimes.logprob_value import logprob_value
from smg_grpc_proto import sglang_scheduler_pb2 as pb

#: The fastest way to a list of a repeated field's elements.
_elements = itemgetter(slice(None))


class ResponseReader:
    """Makes deltas of one call's responses: each token once, in order, none lost.

    A stream's `complete` repeats the last chunk (SGLang), or repeats everything, or brings tokens that
    no chunk had: `completion_tokens`, the number generated up to and with a message, tells which.
    """

    def __init__(self, request: GenerateRequest) -> None:
        self._logprobs = request.logprobs
        self._prompt_logprobs = request.prompt_logprobs
        self._scored = request.logprobs or request.prompt_logprobs
        #: How many tokens were read.
        self.received = 0
        self._cached_tokens = 0
        #: One that comes after the delta that was read last.
        self.error: ServiceError | None = None

    def read(self, messages: Sequence[bytes]) -> Delta | None:
        """What is new in these responses, which came together; None where nothing is.

        Raises ServiceError: UNAVAILABLE where the engine aborted, INTERNAL where tokens are missing.
        """
        if len(messages) == 1:
            return self.read_one(pb.GenerateResponse.FromString(messages[0]))
        deltas: list[Delta] = []
        for message in messages:
            try:
                delta = self.read_one(pb.GenerateResponse.FromString(message))
            except ServiceError as error:
                if not deltas:
                    raise
                self.error = error
                break
            if delta is not None:
                deltas.append(delta)
                if delta.finish is not None:
                    break
        return joined(deltas) if deltas else None

    def next_token(self, message: bytes) -> int:
        """The token of a response that brings the next one and nothing else; -1 for any other. Whoever takes
        it has to count it (`received`), or to take `delta_of` it."""
        # The first one tells of the prompt as well.
        return -1 if self._scored or not self.received else next_token(message, self.received)

    def delta_of(self, token_id: int) -> Delta:
        """What `next_token` found, as a delta."""
        self.received += 1
        return Delta([token_id], cached_tokens=self._cached_tokens)

    def read_one(self, response: pb.GenerateResponse) -> Delta | None:
        """What is new in this response; raises as `read` does."""
        if response.HasField("chunk"):
            return self.read_chunk(response.chunk)
        complete = response.complete
        return self._new(complete, complete.output_ids, _finish(complete))

    def read_chunk(self, chunk: pb.GenerateStreamChunk) -> Delta | None:
        """What is new in a part of a stream; raises as `read` does."""
        if self._scored:
            return self._new(chunk, chunk.token_ids, None)
        # The usual, with no more than it needs: what is new follows what came.
        token_ids = _elements(chunk.token_ids)
        total = chunk.completion_tokens
        if not token_ids or total - len(token_ids) != self.received:
            return self._new(chunk, token_ids, None)
        self.received = total
        self._cached_tokens = chunk.cached_tokens
        return Delta(token_ids, None, None, None, chunk.cached_tokens)

    def _new(
        self,
        chunk: pb.GenerateStreamChunk | pb.GenerateComplete,
        token_ids: Sequence[int],
        finish: Finish | None,
    ) -> Delta | None:
        count = len(token_ids)
        # How many of them came before.
        known = self.received - chunk.completion_tokens + count
        if not 0 <= known <= self.received:
            raise failed("the runtime lost tokens")
        if known:
            token_ids = token_ids[known:]
        if known < count:
            self.received = chunk.completion_tokens

        logprobs = prompt_logprobs = None
        if self._logprobs and known < count:
            logprobs = _output_logprobs(chunk.output_logprobs, known, count)
        if self._prompt_logprobs and chunk.HasField("input_logprobs"):
            prompt_logprobs = _input_logprobs(chunk.input_logprobs)
            self._prompt_logprobs = False
        if not token_ids and finish is None and prompt_logprobs is None:
            return None
        self._cached_tokens = chunk.cached_tokens
        return Delta(_elements(token_ids), logprobs, prompt_logprobs, finish, chunk.cached_tokens)


def _finish(complete: pb.GenerateComplete) -> Finish:
    if complete.finish_reason == "length":
        return Finish("length")
    if complete.finish_reason == "stop":
        kind = complete.WhichOneof("matched_stop")
        if kind == "matched_stop_str":
            return Finish("stop", matched_text=complete.matched_stop_str)
        return Finish("stop", complete.matched_token_id if kind else None)
    raise aborted()


def _output_logprobs(logprobs: pb.OutputLogProbs, start: int, end: int) -> Logprobs:
    """Those of the message's tokens from `start`. A scored prompt has one more than tokens: left out."""
    return Logprobs(
        tuple(logprobs.token_ids[start:end]),
        tuple(map(logprob_value, logprobs.token_logprobs[start:end])),
        _top(logprobs.top_logprobs[start:end], end - start),
    )


def _input_logprobs(logprobs: pb.InputLogProbs) -> Logprobs:
    values = tuple(item.value if item.HasField("value") else None for item in logprobs.token_logprobs)
    return Logprobs(tuple(logprobs.token_ids), values, _top(logprobs.top_logprobs, len(values)))


def _top(lists: Sequence[pb.TopLogProbs], count: int) -> tuple[tuple[tuple[int, float], ...], ...]:
    """Pairs, likeliest first as SGLang sends them; an empty list for each token where none were asked."""
    if not lists:
        return ((),) * count
    return tuple(tuple(zip(top.token_ids, map(logprob_value, top.values), strict=True)) for top in lists)
