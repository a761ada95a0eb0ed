"""The variables that a request gives to the chat template, beside messages and tools. Renders nothing."""

from typing import Any

import orjson

from inferd.services.errors import invalid
from inferd.services.text.template import ChatTemplate
from inferd.v1 import chat_pb2

#: Variables that inferd sets from other fields of the request.
_SET_BY_SERVER = {"messages", "tools", "chat_template", "add_generation_prompt", "continue_final_message"}
#: Variables that the tokenizer sets, and that templates rely on.
_SET_BY_TOKENIZER = {f"{name}_token" for name in ("bos", "eos", "unk", "pad", "sep", "cls", "mask")}
#: Parameters of `apply_chat_template` of transformers, and functions that transformers gives to templates.
_SET_BY_TRANSFORMERS = {
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
_RESERVED = _SET_BY_SERVER | _SET_BY_TOKENIZER | _SET_BY_TRANSFORMERS

#: The variables that each field may set.
_VARIABLES = {
    "reasoning_effort": ("reasoning_effort", "thinking", "enable_thinking"),
    "thinking": ("thinking", "enable_thinking", "thinking_mode"),
    "verbosity": ("verbosity",),
}

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
    request: chat_pb2.CreateChatCompletionRequest,
) -> dict[str, Any]:
    """The variables by name. chat_template_kwargs overrides thinking, and thinking overrides
    reasoning_effort.

    Raises ServiceError INVALID_ARGUMENT if a field is no JSON, or gives a variable that the server sets.
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
        variables.update(_template_kwargs(request.chat_template_kwargs))
    return variables


def ignored_variables(request: chat_pb2.CreateChatCompletionRequest, template: ChatTemplate) -> list[str]:
    """Names of the fields that set only variables that the chat template does not read."""
    ignored = [
        field
        for field, variables in _VARIABLES.items()
        if getattr(request, field) and not template.reads(*variables)
    ]
    if request.HasField("chat_template_kwargs"):
        names = _template_kwargs(request.chat_template_kwargs)
        if names and not template.reads(*names):
            ignored.append("chat_template_kwargs")
    return ignored


def _set_thinking(variables: dict[str, Any], thinking: bool) -> None:
    """Set the variable that turns thinking on or off, under both names that templates use.

    It is `thinking` in templates of DeepSeek and Kimi, and `enable_thinking` in those of Qwen and GLM.
    """
    variables["thinking"] = variables["enable_thinking"] = thinking


def _read_thinking(text: str, variables: dict[str, Any]) -> None:
    """Read the field thinking: true, false, or an object such as {"type": "enabled"}, which the APIs of GLM,
    MiniMax and Anthropic take."""
    thinking = _document(text, "thinking")
    kind = thinking.get("type") if isinstance(thinking, dict) else None
    if isinstance(kind, str):
        variables["thinking_mode"] = kind
        thinking = kind != "disabled"
    if isinstance(thinking, bool):
        _set_thinking(variables, thinking)
    elif thinking is not None:
        variables["thinking"] = thinking


def _template_kwargs(text: str) -> dict[str, Any]:
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
