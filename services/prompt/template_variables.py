"""The variables that a request gives to the model's chat template, beside its messages and tools."""

from typing import Any

import orjson
from inferd.services.errors import invalid
from inferd.v1 import chat_pb2, tokenize_pb2

#: What the server sets, from fields of the request.
_SET = {"messages", "tools", "chat_template", "add_generation_prompt", "continue_final_message"}
#: What the tokenizer sets: a template may take it for granted.
_SPECIAL = {f"{name}_token" for name in ("bos", "eos", "unk", "pad", "sep", "cls", "mask")}
#: What transformers would take for its own (parameters of `apply_chat_template`), or gives to templates.
_RENDERING = {
    "conversation",
    "conversations",
    "tokenize",
    "padding",
    "truncation",
    "max_length",
    "return_tensors",
    "return_dict",
    "return_assistant_tokens_mask",
    "tokenizer_kwargs",
    "raise_exception",
    "strftime_now",
}
_RESERVED = _SET | _SPECIAL | _RENDERING

_EFFORTS = {
    chat_pb2.REASONING_EFFORT_NONE: "none",
    chat_pb2.REASONING_EFFORT_MINIMAL: "minimal",
    chat_pb2.REASONING_EFFORT_LOW: "low",
    chat_pb2.REASONING_EFFORT_MEDIUM: "medium",
    chat_pb2.REASONING_EFFORT_HIGH: "high",
    chat_pb2.REASONING_EFFORT_XHIGH: "xhigh",
    chat_pb2.REASONING_EFFORT_ULTRA: "ultra",
    chat_pb2.REASONING_EFFORT_MAX: "max",
}


def template_variables(
    request: chat_pb2.CreateChatCompletionRequest | tokenize_pb2.CountTokensRequest,
) -> dict[str, Any]:
    """The variables, by name. What chat_template_kwargs says wins, then thinking, then reasoning_effort.

    Raises ServiceError INVALID_ARGUMENT for a document that is none, and for what the server sets.
    """
    variables: dict[str, Any] = {}
    if request.reasoning_effort:
        effort = _EFFORTS.get(request.reasoning_effort)
        if effort is None:
            raise invalid("reasoning_effort", "reasoning_effort is no effort that is known")
        variables["reasoning_effort"] = effort
        _set_thinking(variables, effort != "none")
    if request.HasField("thinking"):
        _read_thinking(request.thinking, variables)
    if request.HasField("verbosity"):
        variables["verbosity"] = request.verbosity
    if request.HasField("chat_template_kwargs"):
        variables.update(_given(request.chat_template_kwargs))
    return variables


def _set_thinking(variables: dict[str, Any], thinking: bool) -> None:
    """Templates know one of the two names: DeepSeek's and Kimi's the first, Qwen's and GLM's the other."""
    variables["thinking"] = variables["enable_thinking"] = thinking


def _read_thinking(text: str, variables: dict[str, Any]) -> None:
    """true and false; or the object of GLM's, MiniMax's and Anthropic's: {"type": "enabled"}."""
    thinking = _document(text, "thinking")
    kind = thinking.get("type") if isinstance(thinking, dict) else None
    if isinstance(kind, str):
        variables["thinking_mode"] = kind
        thinking = kind != "disabled"
    if isinstance(thinking, bool):
        _set_thinking(variables, thinking)
    elif thinking is not None:
        variables["thinking"] = thinking


def _given(text: str) -> dict[str, Any]:
    field = "chat_template_kwargs"
    variables = _document(text, field)
    if not isinstance(variables, dict):
        raise invalid(field, f"{field} must be a JSON object: names and values of the template's variables")
    for name in variables:
        if name in _RESERVED:
            path = f"{field}.{name}"
            raise invalid(path, f"{path} cannot be given: the server sets it", "RESERVED_VARIABLE")
    return variables


def _document(text: str, field: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise invalid(field, f"{field} is no JSON document: {error}") from error
