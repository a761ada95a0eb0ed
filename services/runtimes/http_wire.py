"""The documents of SGLang's `/generate` over HTTP: requests, answers and errors.

No I/O. The fields are those of `GenerateReqInput` (`srt/managers/io_struct.py`) and of `SamplingParams`.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from inferd.services.errors import ServiceError, invalid
from inferd.services.runtimes.base import Constraint, Delta, Finish, GenerateRequest, Logprobs
from inferd.services.runtimes.engine_errors import (
    adapter_not_loaded,
    invalid_constraint,
    runtime_aborted,
    runtime_deadline,
    runtime_error,
    runtime_overloaded,
    runtime_refused,
    runtime_unavailable,
)
from inferd.services.runtimes.logprob_value import logprob_value

log = logging.getLogger(__name__)

#: SGLang's messages if it has not loaded an adapter, has unloaded it, or loads none at all.
_NO_ADAPTER = re.compile(
    r"LoRA adapter that has never been loaded"
    r"|LoRA adapters are not loaded"
    r"|LoRA adapter .* was requested, but LoRA is not enabled"
)


def to_body(request: GenerateRequest, rid: str) -> bytes:
    """The JSON body of `POST /generate`. `rid` is the request's id, by which it can be aborted."""
    sampling = request.sampling
    params: dict[str, Any] = {
        "max_new_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        "repetition_penalty": sampling.repetition_penalty,
        "min_new_tokens": sampling.min_new_tokens,
        "stop": sampling.stop,
        "stop_token_ids": sampling.stop_token_ids,
        "ignore_eos": sampling.ignore_eos,
        "skip_special_tokens": sampling.skip_special_tokens,
        "n": 1,
    }
    if sampling.logit_bias:
        params["logit_bias"] = {str(token_id): bias for token_id, bias in sampling.logit_bias}
    if sampling.seed is not None:
        params["sampling_seed"] = sampling.seed
    if sampling.constraint is not None:
        params[sampling.constraint.kind] = sampling.constraint.text
    body: dict[str, Any] = {
        "rid": rid,
        "input_ids": request.token_ids,
        "sampling_params": params,
        "stream": request.stream,
    }
    if request.logprobs or request.prompt_logprobs:
        body["return_logprob"] = True
        # The first scored token; -1 is after the prompt. A scored prompt does not use the prefix cache.
        body["logprob_start_len"] = 0 if request.prompt_logprobs else -1
        body["top_logprobs_num"] = request.top_logprobs
    for name, value in (
        ("priority", sampling.priority),
        ("cache_salt", sampling.cache_salt),
        ("extra_key", sampling.extra_key),
        ("lora_path", request.adapter),
        ("image_data", [medium.url for medium in request.media if medium.kind == "image"] or None),
        ("audio_data", [medium.url for medium in request.media if medium.kind == "audio"] or None),
    ):
        if value is not None:
            body[name] = value
    return orjson.dumps(body, default=list)


class EventReader:
    """Splits the bytes of a stream of server-sent events into the JSON documents of the events.

    If `last_only` is set, of the events that came together only the last one is read.
    """

    def __init__(self) -> None:
        self.last_only = False
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The documents that these bytes complete, without the closing [DONE]."""
        start = max(0, len(self._buffer) - 1)
        self._buffer += data
        end = self._buffer.rfind(b"\n\n", start)
        if end < 0:
            return
        events = bytes(self._buffer[:end]).split(b"\n\n")
        del self._buffer[: end + 2]
        documents = [event[6:] for event in events if event.startswith(b"data: {")]
        for index, document in enumerate(documents):
            if not self.last_only or index == len(documents) - 1:
                yield document


class AnswerReader:
    """Reads the answers of one generation as deltas: each token once, in order, and none lost.

    SGLang's chunks have all tokens so far, or, with --incremental-streaming-output, the new ones. A chunk's
    `completion_tokens`, the number of tokens generated so far, tells which. `cumulative` says whether the
    last chunk had all tokens so far.
    """

    def __init__(self, request: GenerateRequest) -> None:
        self._request = request
        self._prompt_logprobs = request.prompt_logprobs
        self._received = 0
        self.cumulative = False

    def read(self, document: bytes) -> Delta | None:
        """The new part of a chunk or of a whole answer; None if nothing is new.

        Raises ServiceError: for an error document as `to_service_error` does, UNAVAILABLE if the engine has
        aborted, INTERNAL if tokens are missing.
        """
        try:
            return self._read(orjson.loads(document), document)
        except (orjson.JSONDecodeError, LookupError, TypeError, ValueError) as error:
            log.error("the runtime's answer was not understood: %r", error)
            raise runtime_error("the runtime's answer was not understood") from error

    def _read(self, answer: Any, document: bytes) -> Delta | None:
        if "error" in answer:
            raise to_service_error(400, document, self._request)
        meta = answer["meta_info"]
        reason = meta["finish_reason"]
        finish = _finish(reason, self._request) if reason is not None else None
        token_ids: Sequence[int] = answer["output_ids"]
        count, total = len(token_ids), meta["completion_tokens"]
        # The number of these tokens that came before.
        known = self._received - total + count
        if not 0 <= known <= self._received:
            raise runtime_error("the runtime lost tokens")
        self.cumulative = 0 < self._received == known

        logprobs = prompt_logprobs = None
        if known < count:
            self._received = total
            if self._request.logprobs:
                logprobs = _logprobs(meta, "output", known, count)
        if self._prompt_logprobs and meta.get("input_token_logprobs"):
            prompt_logprobs = _logprobs(meta, "input", 0, None)
            self._prompt_logprobs = False
        if known == count and finish is None and prompt_logprobs is None:
            return None
        return Delta(
            tuple(token_ids[known:]),
            logprobs,
            prompt_logprobs,
            finish,
            meta["cached_tokens"],
            # Without media, the number of tokens sent is the count.
            meta["prompt_tokens"] if self._request.media else None,
        )


def _finish(reason: dict[str, Any], request: GenerateRequest) -> Finish:
    matched = reason.get("matched")
    if reason["type"] == "stop":
        if isinstance(matched, str):
            return Finish("stop", matched_text=matched)
        # A list if several tokens together were the stop.
        return Finish("stop", matched[-1] if isinstance(matched, list) else matched)
    if reason["type"] == "length":
        return Finish("length")
    status = reason.get("status_code")
    raise _error(status, reason["message"], request) if status else runtime_aborted()


def _logprobs(meta: dict[str, Any], side: str, start: int, end: int | None) -> Logprobs:
    """The log probabilities of tokens `start` to `end`, without the one more that SGLang may send."""
    tokens = meta[f"{side}_token_logprobs"][start:end]
    top = meta.get(f"{side}_top_logprobs", [])[start:end]
    return Logprobs(
        tuple(token_id for _, token_id, _ in tokens),
        tuple(None if value is None else logprob_value(value) for value, _, _ in tokens),
        # The likeliest first, as SGLang sends them; no pairs if none were asked for.
        tuple(tuple((token_id, logprob_value(value)) for value, token_id, _ in pairs or ()) for pairs in top)
        or ((),) * len(tokens),
    )


def to_service_error(status: int, document: bytes, request: GenerateRequest) -> ServiceError:
    """The error of an answer with a status other than 200, or of an error document in a stream."""
    try:
        answer = orjson.loads(document)
    except orjson.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict):
        answer = {}
    error = answer.get("error")
    if isinstance(error, dict):
        code = error.get("code")
        return _error(code if isinstance(code, int) else status, str(error.get("message")), request)
    text = error or answer.get("message") or answer.get("detail") or ""
    if status == 400:
        # SGLang did not understand the body. That is inferd's fault, and the text is a traceback.
        log.error("the runtime did not take a request: %s", text)
        return runtime_error()
    return _error(status, str(text), request)


def _error(status: int, text: str, request: GenerateRequest) -> ServiceError:
    constraint: Constraint | None = request.sampling.constraint
    if request.adapter is not None and _NO_ADAPTER.search(text):
        log.warning("the runtime has not loaded an adapter: %s", text)
        return adapter_not_loaded(request.adapter)
    if request.media and text.startswith("Error while loading data "):
        # The message repeats the data, which is left out. It does not tell which of several media failed.
        _, _, why = text.rpartition("...: ")
        field = request.media[0].field if len(request.media) == 1 else "messages"
        return invalid(field, f"the runtime cannot read {field}: {why}", "INVALID_MEDIA")
    if status in (400, 413):
        return runtime_refused(text, constraint)
    if constraint is not None and text.startswith("Grammar"):
        return invalid_constraint(text, constraint)
    log.warning("runtime call failed: %d: %s", status, text)
    # SGLang reports a full queue as 503 (`Scheduler._abort_on_queued_limit`).
    if status == 429 or "queue is full" in text:
        return runtime_overloaded()
    if status in (502, 503):
        return runtime_unavailable()
    if status in (408, 504):
        return runtime_deadline()
    return runtime_error()
