"""Sampling fields of a request to `SamplingParams`: the model's defaults filled in, and what only the
model can tell (its context, its vocabulary) checked. The fields' own ranges were checked before.
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from inferd.v1 import chat_pb2, completion_pb2

from services.catalog import ServedModel
from services.errors import invalid
from services.prompts import check_token_ids
from services.runtimes.base import Constraint, SamplingParams
from services.text.stop_regex import compiled

CompletionRequest = chat_pb2.CreateChatCompletionRequest | completion_pb2.CreateCompletionRequest

#: A runtime that cannot honour these is no fault: they are best effort by definition.
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
    """The sampling of every continuation that `request` asks for.

    `max_tokens` None: as many as the context has room for after the longest prompt; else `limited_by` is the
    field that gave it. `constraint` is the form that the output must have. Raises ServiceError
    INVALID_ARGUMENT naming the field.
    """
    room = _room(model, prompts, max_tokens, limited_by)
    limit = room if max_tokens is None else max_tokens
    if request.min_tokens > limit:
        raise invalid(
            "min_tokens", f"min_tokens is {request.min_tokens}: greater than {limited_by}, which is {limit}"
        )
    if request.min_tokens and constraint is not None:
        # Where the form ends before, no token may follow: engines fail of that, some with all their requests.
        raise invalid(
            "min_tokens",
            "min_tokens may not be used where the answer has a form"
            + (f", which {constraint.field} gives it" if constraint.field else ""),
        )
    for index, string in enumerate(request.stop):
        if not string:
            raise invalid(f"stop[{index}]", f"stop[{index}] must not be empty")
    for index, pattern in enumerate(request.stop_regex):
        compiled(pattern, f"stop_regex[{index}]")
    check_token_ids(request.stop_token_ids, model.text, "stop_token_ids")
    check_token_ids(request.logit_bias, model.text, "logit_bias")

    def value(name: str) -> Any:
        if request.HasField(name):
            return getattr(request, name)
        return model.text.defaults.get(name, _DEFAULTS[name])

    params = SamplingParams(
        max_new_tokens=limit,
        temperature=value("temperature"),
        top_p=value("top_p"),
        top_k=value("top_k") or -1,
        min_p=value("min_p"),
        frequency_penalty=value("frequency_penalty"),
        presence_penalty=value("presence_penalty"),
        repetition_penalty=value("repetition_penalty"),
        min_new_tokens=request.min_tokens,
        stop=tuple(request.stop),
        stop_regex=tuple(request.stop_regex),
        stop_token_ids=tuple(request.stop_token_ids),
        no_stop_trim=request.no_stop_trim,
        ignore_eos=request.ignore_eos,
        skip_special_tokens=value("skip_special_tokens"),
        constraint=constraint,
        logit_bias=tuple(request.logit_bias.items()),
        seed=request.seed if request.HasField("seed") else None,
        priority=request.priority if request.HasField("priority") else None,
        cache_salt=request.cache_salt or None,
        extra_key=request.extra_key or None,
    )
    for name in model.replicas.unsupported - _BEST_EFFORT:
        if getattr(params, name) != _DEFAULTS[name]:
            raise invalid(
                name, f"{name} cannot be honoured by this model's runtimes", "UNSUPPORTED_PARAMETER"
            )
    return params


def ignored_fields(params: SamplingParams, model: ServedModel) -> list[str]:
    """Best-effort fields that the request sets and this model's runtimes ignore."""
    return sorted(
        name for name in model.replicas.unsupported & _BEST_EFFORT if getattr(params, name) is not None
    )


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
