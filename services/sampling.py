"""Sampling fields of a request to `SamplingParams`: the model's defaults filled in, and what only the
model can tell (its context, its vocabulary) checked. The fields' own ranges were checked before.
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import orjson
from inferd.v1 import chat_pb2, completion_pb2, sampling_pb2

from services.catalog import ServedModel
from services.errors import invalid
from services.prompts import check_token_ids
from services.runtimes.base import Constraint, SamplingParams

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
) -> SamplingParams:
    """The sampling of every continuation that `request` asks for.

    `max_tokens` None: as many as the context has room for after the longest prompt; else `limited_by` is the
    field that gave it. Raises ServiceError INVALID_ARGUMENT naming the field.
    """
    room = _room(model, prompts, max_tokens, limited_by)
    limit = room if max_tokens is None else max_tokens
    if request.min_tokens > limit:
        raise invalid(
            "min_tokens", f"min_tokens is {request.min_tokens}: greater than {limited_by}, which is {limit}"
        )
    for index, string in enumerate(request.stop):
        if not string:
            raise invalid(f"stop[{index}]", f"stop[{index}] must not be empty")
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
        stop_token_ids=tuple(request.stop_token_ids),
        ignore_eos=request.ignore_eos,
        skip_special_tokens=value("skip_special_tokens"),
        constraint=_constraint(request),
        logit_bias=tuple(request.logit_bias.items()),
        seed=request.seed if request.HasField("seed") else None,
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


def _constraint(request: CompletionRequest) -> Constraint | None:
    found = {
        "response_format": _format_constraint(request.response_format),
        "regex": Constraint("regex", request.regex, "regex") if request.HasField("regex") else None,
        "ebnf": Constraint("ebnf", request.ebnf, "ebnf") if request.HasField("ebnf") else None,
    }
    for name in ("regex", "ebnf"):
        if request.HasField(name) and not getattr(request, name):
            raise invalid(name, f"{name} must not be empty")
    chosen = [name for name, constraint in found.items() if constraint]
    if len(chosen) > 1:
        raise invalid(chosen[1], f"at most one of {' and '.join(chosen)} may be set")
    return found[chosen[0]] if chosen else None


def _format_constraint(form: sampling_pb2.ResponseFormat) -> Constraint | None:
    kind = form.WhichOneof("format")
    if kind == "json_object":
        return Constraint("json_schema", '{"type":"object"}', "response_format")
    if kind != "json_schema":
        return None
    field = "response_format.json_schema.schema"
    try:
        schema = orjson.loads(form.json_schema.schema)
    except orjson.JSONDecodeError as error:
        raise invalid(field, f"{field} is no JSON document: {error}", "INVALID_CONSTRAINT") from error
    if not isinstance(schema, dict):
        raise invalid(field, f"{field} must be a JSON object", "INVALID_CONSTRAINT")
    return Constraint("json_schema", form.json_schema.schema, field)
