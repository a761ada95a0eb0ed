"""Reads the responses of one generation by the scheduler protocol, and pushes their tokens."""

from collections.abc import Sequence
from operator import itemgetter
from time import monotonic

from smg_grpc_proto import sglang_scheduler_pb2 as pb

from inferd.services.net.http2.client_call import MessageReceiver
from inferd.services.runtimes.base import Delta, Finish, GenerateRequest, Logprobs, join_deltas
from inferd.services.runtimes.chunk_wire import next_token
from inferd.services.runtimes.engine_errors import runtime_aborted, runtime_error
from inferd.services.runtimes.logprob_value import logprob_value
from inferd.services.runtimes.token_sink import TokenSink

#: The fastest way to a list of a repeated field's elements.
_elements = itemgetter(slice(None))


class SchedulerResponses(MessageReceiver):
    """Pushes each token of one call's responses to `sink`: once, in order, and none lost.

    The `complete` message of a stream repeats the last chunk (SGLang), or repeats all tokens, or has tokens
    that no chunk had. Its `completion_tokens`, the number of tokens generated so far, tells which. `receive`
    and `receive_all` raise ServiceError: UNAVAILABLE if the engine aborts, INTERNAL if tokens are missing.
    """

    def __init__(self, request: GenerateRequest, sink: TokenSink) -> None:
        self._sink = sink
        self._logprobs = request.logprobs
        self._prompt_logprobs = request.prompt_logprobs
        self._is_scored = request.logprobs or request.prompt_logprobs
        #: The number of tokens so far.
        self._received = 0
        #: When the engine sent its last message, in monotonic seconds.
        self.last_message_at = monotonic()
        #: Whether the engine has finished.
        self.is_finished = False
        #: Whether the engine has finished, or the sink wants no more.
        self.is_over = False

    def receive(self, message: bytes) -> bool:
        self.last_message_at = monotonic()
        # The first response also tells how much of the prompt was cached.
        token_id = -1 if self._is_scored or not self._received else next_token(message, self._received)
        if token_id < 0:
            return self._push(self._read(pb.GenerateResponse.FromString(message)))
        self._received += 1
        self.is_over = not self._sink.push_token(token_id)
        return not self.is_over

    def receive_all(self, messages: Sequence[bytes]) -> bool:
        if len(messages) == 1:
            return self.receive(messages[0])
        self.last_message_at = monotonic()
        deltas: list[Delta] = []
        try:
            for message in messages:
                delta = self._read(pb.GenerateResponse.FromString(message))
                if delta is not None:
                    deltas.append(delta)
                    if delta.finish is not None:
                        break
        finally:
            # Tokens that came before an error are pushed before it is raised.
            wants_more = self._push(join_deltas(deltas) if deltas else None)
        return wants_more

    def _push(self, delta: Delta | None) -> bool:
        if delta is None:
            return True
        self.is_finished = delta.finish is not None
        self.is_over = not self._sink.push(delta) or self.is_finished
        return not self.is_over

    def _read(self, response: pb.GenerateResponse) -> Delta | None:
        """The new part of a response; None if there is none."""
        if not response.HasField("chunk"):
            complete = response.complete
            return self._new(complete, complete.output_ids, _finish(complete))
        chunk = response.chunk
        if self._is_scored:
            return self._new(chunk, chunk.token_ids, None)
        # The usual case: all tokens of the chunk are new.
        token_ids = _elements(chunk.token_ids)
        total = chunk.completion_tokens
        if not token_ids or total - len(token_ids) != self._received:
            return self._new(chunk, token_ids, None)
        self._received = total
        return Delta(token_ids, None, None, None, chunk.cached_tokens)

    def _new(
        self,
        chunk: pb.GenerateStreamChunk | pb.GenerateComplete,
        token_ids: Sequence[int],
        finish: Finish | None,
    ) -> Delta | None:
        count = len(token_ids)
        # The number of these tokens that came before.
        known = self._received - chunk.completion_tokens + count
        if not 0 <= known <= self._received:
            raise runtime_error("the runtime lost tokens")
        if known:
            token_ids = token_ids[known:]
        if known < count:
            self._received = chunk.completion_tokens

        logprobs = prompt_logprobs = None
        if self._logprobs and known < count:
            logprobs = _output_logprobs(chunk.output_logprobs, known, count)
        if self._prompt_logprobs and chunk.HasField("input_logprobs"):
            prompt_logprobs = _input_logprobs(chunk.input_logprobs)
            self._prompt_logprobs = False
        if not token_ids and finish is None and prompt_logprobs is None:
            return None
        return Delta(_elements(token_ids), logprobs, prompt_logprobs, finish, chunk.cached_tokens)


def _finish(complete: pb.GenerateComplete) -> Finish:
    if complete.finish_reason == "length":
        return Finish("length")
    if complete.finish_reason == "stop":
        kind = complete.WhichOneof("matched_stop")
        if kind == "matched_stop_str":
            return Finish("stop", matched_text=complete.matched_stop_str)
        return Finish("stop", complete.matched_token_id if kind else None)
    raise runtime_aborted()


def _output_logprobs(logprobs: pb.OutputLogProbs, start: int, end: int) -> Logprobs:
    """The log probabilities of tokens `start` to `end`, without the one more that SGLang may send."""
    return Logprobs(
        tuple(logprobs.token_ids[start:end]),
        tuple(map(logprob_value, logprobs.token_logprobs[start:end])),
        _top(logprobs.top_logprobs[start:end], end - start),
    )


def _input_logprobs(logprobs: pb.InputLogProbs) -> Logprobs:
    values = tuple(item.value if item.HasField("value") else None for item in logprobs.token_logprobs)
    return Logprobs(tuple(logprobs.token_ids), values, _top(logprobs.top_logprobs, len(values)))


def _top(lists: Sequence[pb.TopLogProbs], count: int) -> tuple[tuple[tuple[int, float], ...], ...]:
    """Pairs for each token, the likeliest first as SGLang sends them; no pairs if none were asked for."""
    if not lists:
        return ((),) * count
    return tuple(tuple(zip(top.token_ids, map(logprob_value, top.values), strict=True)) for top in lists)
