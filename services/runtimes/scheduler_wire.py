"""The scheduler protocol's requests and errors. Its responses are read by `scheduler_responses`.

No I/O. The protocol is `sglang.grpc.scheduler.SglangScheduler` (package smg-grpc-proto).
"""

import logging

import grpc
from smg_grpc_proto import sglang_scheduler_pb2 as pb

from inferd.services.errors import ServiceError
from inferd.services.net.http2.client_call import CallFailed
from inferd.services.net.http2.framing import Metadata
from inferd.services.net.random_id import random_id
from inferd.services.runtimes.base import Constraint, GenerateRequest, SamplingParams
from inferd.services.runtimes.engine_errors import (
    invalid_constraint,
    runtime_aborted,
    runtime_deadline,
    runtime_error,
    runtime_overloaded,
    runtime_refused,
    runtime_unavailable,
)

log = logging.getLogger(__name__)

#: The trailer of a call that failed because of its grammar.
CONSTRAINT_TRAILER = "smg-constraint-failed"

#: The least positive normal number of 32 bits. The engine takes 0 for a field that is not set.
_LEAST_POSITIVE = 2.0**-126

_CONSTRAINT_FIELDS = {
    "json_schema": "json_schema",
    "regex": "regex",
    "ebnf": "ebnf_grammar",
    "structural_tag": "structural_tag",
}


def to_message(request: GenerateRequest) -> pb.GenerateRequest:
    """The request as SGLang's scheduler takes it, with a new id.

    Every scalar is set, because the engine takes proto3's default of 0 for a value. All ids have one length,
    because the engine aborts every request whose id begins with the given one.
    """
    message = pb.GenerateRequest(
        request_id=random_id(),
        return_logprob=request.logprobs or request.prompt_logprobs,
        # The first scored token; -1 is after the prompt. A scored prompt does not use the prefix cache.
        logprob_start_len=0 if request.prompt_logprobs else -1,
        top_logprobs_num=request.top_logprobs,
        stream=request.stream,
    )
    tokenized = message.tokenized
    tokenized.original_text = ""
    tokenized.input_ids.extend(request.token_ids)
    _set_sampling(message.sampling_params, request.sampling)
    return message


def _set_sampling(params: pb.SamplingParams, sampling: SamplingParams) -> None:
    # The message's constructor would take twice as long.
    params.temperature = sampling.temperature
    params.top_p = max(sampling.top_p, _LEAST_POSITIVE)
    params.top_k = sampling.top_k
    params.min_p = sampling.min_p
    params.frequency_penalty = sampling.frequency_penalty
    params.presence_penalty = sampling.presence_penalty
    params.repetition_penalty = max(sampling.repetition_penalty, _LEAST_POSITIVE)
    params.max_new_tokens = sampling.max_new_tokens
    params.min_new_tokens = sampling.min_new_tokens
    params.ignore_eos = sampling.ignore_eos
    params.skip_special_tokens = sampling.skip_special_tokens
    params.spaces_between_special_tokens = True
    params.no_stop_trim = False
    params.n = 1
    if sampling.stop:
        params.stop.extend(sampling.stop)
    if sampling.stop_token_ids:
        params.stop_token_ids.extend(sampling.stop_token_ids)
    for token_id, bias in sampling.logit_bias:
        params.logit_bias[str(token_id)] = bias
    if sampling.constraint is not None:
        setattr(params, _CONSTRAINT_FIELDS[sampling.constraint.kind], sampling.constraint.text)


def to_service_error(error: CallFailed, constraint: Constraint | None = None) -> ServiceError:
    """The error of a failed call. `constraint` is the constraint of its request."""
    code, details = error.code, error.details
    if constraint and _blames_constraint(code, details, error.trailers):
        return invalid_constraint(details, constraint)
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return runtime_refused(details)
    log.warning("runtime call failed: %s: %s", code.name, details)
    # SGLang reports a full queue as 503 (`Scheduler._abort_on_queued_limit`).
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED or "queue is full" in details:
        return runtime_overloaded()
    if code is grpc.StatusCode.UNAVAILABLE:
        return runtime_unavailable()
    if code is grpc.StatusCode.CANCELLED:
        return runtime_aborted()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return runtime_deadline()
    return runtime_error()


def _blames_constraint(code: grpc.StatusCode, details: str, trailers: Metadata) -> bool:
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        return "grammar" in details or any(key == CONSTRAINT_TRAILER for key, _ in trailers)
    return code is grpc.StatusCode.INVALID_ARGUMENT and "grammar" in details.lower()
