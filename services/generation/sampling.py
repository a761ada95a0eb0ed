"""Reads the sampling fields of a request into `SamplingParams`, with the model's defaults.

Checks only limits that depend on the model, such as its context and its vocabulary.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from inferd.services.errors import invalid
from inferd.services.fleet.catalog import ServedModel
from inferd.services.net.message_writer import Metadata
from inferd.services.runtimes.base import Constraint, SamplingParams
from inferd.services.text.model_text import ModelText, check_token_ids
from inferd.services.text.stop_regex import compile_stop_regex
from inferd.v1 import chat_pb2, completion_pb2

CompletionRequest = chat_pb2.CreateChatCompletionRequest | completion_pb2.CreateCompletionRequest

#: Fields that a runtime may ignore, because the API defines them as best effort.
_BEST_EFFORT = frozenset({"seed"})
_DEFAULTS = {field.name: field.default for field in fields(SamplingParams)}


def sampling_params(
    request: CompletionRequest,
    model: ServedModel,
    prompts: Sequence[Sequence[int]],
    max_tokens: int | None,
    limited_by: str = "max_tokens",
    constraint: Constraint | None = None,
) -> SamplingParams:
    """The sampling parameters of every continuation that `request` asks for.

    `max_tokens` None: generate until the context is full after the longest prompt. Else `limited_by` is the
    name of the field that set `max_tokens`. `constraint` is the form that the output must have. Raises
    ServiceError INVALID_ARGUMENT, which names the field.
    """
    room = _room(model, prompts, max_tokens, limited_by)
    limit = room if max_tokens is None else max_tokens
    params = SamplingParams(limit, constraint=constraint, **model.text.sampling_defaults)
    # Only fields that are set are read, because most requests set a few of many.
    for field, value in request.ListFields():
        reader = _FIELDS.get(field.name)
        if reader is not None:
            name, read = reader
            setattr(params, name, read(value, model.text) if read is not None else value)
    # 0 means all tokens. SGLang has -1 for that.
    params.top_k = params.top_k or -1
    if params.min_new_tokens:
        _check_min_tokens(params, limited_by)
    for name in model.replicas.unsupported - _BEST_EFFORT:
        if getattr(params, name) != _DEFAULTS[name]:
            field_name = _FIELD_OF[name]
            raise invalid(
                field_name,
                f"{field_name} cannot be honoured by this model's runtimes",
                "UNSUPPORTED_PARAMETER",
            )
    return params


def _check_min_tokens(params: SamplingParams, limited_by: str) -> None:
    least, most = params.min_new_tokens, params.max_new_tokens
    if least > most:
        raise invalid("min_tokens", f"min_tokens is {least}: greater than {limited_by}, which is {most}")
    if params.constraint is not None:
        # If the form is complete before, no token is allowed, and engines fail. Some fail entirely.
        field = params.constraint.field
        raise invalid(
            "min_tokens",
            "min_tokens may not be used where the answer has a form"
            + (f", which {field} gives it" if field else ""),
        )


def ignored_fields(params: SamplingParams, model: ServedModel) -> list[str]:
    """Names of best-effort fields that the request sets, and that this model's runtimes ignore."""
    names = model.replicas.unsupported & _BEST_EFFORT
    return [name for name in sorted(names) if getattr(params, name) is not None]


def ignored_metadata(names: Iterable[str]) -> Metadata:
    """The initial metadata that tells which fields of a request had no effect. Empty if there are none."""
    given = ",".join(sorted(names))
    return (("x-inferd-ignored", given),) if given else ()


def _room(
    model: ServedModel, prompts: Sequence[Sequence[int]], max_tokens: int | None, limited_by: str
) -> int:
    longest = max(map(len, prompts))
    room = model.max_model_len - longest
    if room < (max_tokens if max_tokens is not None else 1):
        asked = "" if max_tokens is None else f" and {limited_by} is {max_tokens}"
        raise invalid(
            "messages" if max_tokens is None else limited_by,
            f"this model's context is {model.max_model_len} tokens, but the prompt has {longest}{asked}",
            "CONTEXT_LENGTH_EXCEEDED",
            max_model_len=str(model.max_model_len),
            prompt_tokens=str(longest),
        )
    return room


def _stop(strings: Sequence[str], _: ModelText) -> tuple[str, ...]:
    for index, string in enumerate(strings):
        if not string:
            raise invalid(f"stop[{index}]", f"stop[{index}] must not be empty")
    return tuple(strings)


def _stop_regex(patterns: Sequence[str], _: ModelText) -> tuple[str, ...]:
    for index, pattern in enumerate(patterns):
        compile_stop_regex(pattern, f"stop_regex[{index}]")
    return tuple(patterns)


def _stop_token_ids(ids: Sequence[int], text: ModelText) -> tuple[int, ...]:
    check_token_ids(ids, text, "stop_token_ids")
    return tuple(ids)


def _logit_bias(bias: Mapping[int, float], text: ModelText) -> tuple[tuple[int, float], ...]:
    check_token_ids(bias, text, "logit_bias")
    return tuple(bias.items())


#: By the request's field: the field of `SamplingParams`, and a function that reads it. None: taken as it is.
_FIELDS: dict[str, tuple[str, Callable[[Any, ModelText], Any] | None]] = {
    "temperature": ("temperature", None),
    "top_p": ("top_p", None),
    "top_k": ("top_k", None),
    "min_p": ("min_p", None),
    "frequency_penalty": ("frequency_penalty", None),
    "presence_penalty": ("presence_penalty", None),
    "repetition_penalty": ("repetition_penalty", None),
    "min_tokens": ("min_new_tokens", None),
    "stop": ("stop", _stop),
    "stop_regex": ("stop_regex", _stop_regex),
    "stop_token_ids": ("stop_token_ids", _stop_token_ids),
    "no_stop_trim": ("no_stop_trim", None),
    "ignore_eos": ("ignore_eos", None),
    "skip_special_tokens": ("skip_special_tokens", None),
    "logit_bias": ("logit_bias", _logit_bias),
    "seed": ("seed", None),
    "runtime_priority": ("priority", None),
    "cache_salt": ("cache_salt", lambda value, _: value or None),
    "extra_key": ("extra_key", lambda value, _: value or None),
}
#: By the field of `SamplingParams`: the request's field.
_FIELD_OF = {name: field for field, (name, _) in _FIELDS.items()}
