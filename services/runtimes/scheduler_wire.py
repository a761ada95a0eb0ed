"""The scheduler protocol's messages: a GenerateRequest made, responses read, a call's failure named.

No I/O. The protocol is `sglang.grpc.scheduler.SglangScheduler` (package smg-grpc-proto).
"""

import logging
import secrets
from collections.abc import Sequence
from operator import itemgetter

import grpc
from smg_grpc_proto import sglang_scheduler_pb2 as pb

from services.errors import ServiceError
from services.http2.client_call import CallFailed
from services.http2.framing import Metadata
from services.runtimes.base import Constraint, Delta, Finish, GenerateRequest, Logprobs, joined
from services.runtimes.engine_errors import (
    aborted,
    bad_constraint,
    failed,
    late,
    overloaded,
    refused,
    unavailable,
)
from services.runtimes.logprob_value import logprob_value

log = logging.getLogger(__name__)

#: Trailer of a call that ended because its grammar could not be followed.
CONSTRAINT_TRAILER = "smg-constraint-failed"

#: The least number that is not 0 in 32 bits, which the engine takes for unset.
_LEAST = 2.0**-126

_CONSTRAINT_FIELDS = {
    "json_schema": "json_schema",
    "regex": "regex",
    "ebnf": "ebnf_grammar",
    "structural_tag": "structural_tag",
}


def to_message(request: GenerateRequest) -> pb.GenerateRequest:
    """The request as SGLang's scheduler takes it, with a fresh id.

    Every scalar is set, because the engine takes proto3's zeros for values. Ids have one length,
    because it aborts by prefix.
    """
    sampling = request.sampling
    params = pb.SamplingParams(
        temperature=sampling.temperature,
        top_p=max(sampling.top_p, _LEAST),
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        frequency_penalty=sampling.frequency_penalty,
        presence_penalty=sampling.presence_penalty,
        repetition_penalty=max(sampling.repetition_penalty, _LEAST),
        max_new_tokens=sampling.max_new_tokens,
        min_new_tokens=sampling.min_new_tokens,
        stop=sampling.stop,
        stop_token_ids=sampling.stop_token_ids,
        ignore_eos=sampling.ignore_eos,
        skip_special_tokens=sampling.skip_special_tokens,
        spaces_between_special_tokens=True,
        no_stop_trim=False,
        n=1,
        logit_bias={str(token_id): bias for token_id, bias in sampling.logit_bias},
    )
    if sampling.constraint is not None:
        setattr(params, _CONSTRAINT_FIELDS[sampling.constraint.kind], sampling.constraint.text)
    return pb.GenerateRequest(
        request_id=secrets.token_hex(16),
        tokenized=pb.TokenizedInput(original_text="", input_ids=request.token_ids),
        sampling_params=params,
        return_logprob=request.logprobs or request.prompt_logprobs,
        # Where logprobs of the prompt begin; -1 is after it. They cost the prefix cache.
        logprob_start_len=0 if request.prompt_logprobs else -1,
        top_logprobs_num=request.top_logprobs,
        stream=request.stream,
    )


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
        self._received = 0
        self.error: ServiceError | None = None

    def read(self, messages: Sequence[bytes]) -> Delta | None:
        """What is new in these responses, which came together; None where nothing is.

        Raises ServiceError: UNAVAILABLE where the engine aborted, INTERNAL where tokens are missing. `error`
        is one that comes after the delta.
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
        # How many of them came before.
        known = self._received - chunk.completion_tokens + count
        if not 0 <= known <= self._received:
            raise failed("the runtime lost tokens")
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


def to_service_error(error: CallFailed, constraint: Constraint | None = None) -> ServiceError:
    """What a failed call means to the caller; `constraint` is the form that its output had to have."""
    code, details = error.code, error.details
    if constraint and _blames_constraint(code, details, error.trailers):
        return bad_constraint(details, constraint)
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return refused(details)
    log.warning("runtime call failed: %s: %s", code.name, details)
    # SGLang says 503 of a full queue (`Scheduler._abort_on_queued_limit`).
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED or "queue is full" in details:
        return overloaded()
    if code is grpc.StatusCode.UNAVAILABLE:
        return unavailable()
    if code is grpc.StatusCode.CANCELLED:
        return aborted()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return late()
    return failed()


def _blames_constraint(code: grpc.StatusCode, details: str, trailers: Metadata) -> bool:
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        return "grammar" in details or any(key == CONSTRAINT_TRAILER for key, _ in trailers)
    return code is grpc.StatusCode.INVALID_ARGUMENT and "grammar" in details.lower()
