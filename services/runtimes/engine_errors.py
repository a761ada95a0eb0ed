"""Errors of SGLang as `ServiceError`s, the same for each of its interfaces. Each is named by its reason.

SGLang's text is passed on only if it is about the request. Other texts name hosts or source lines.
"""

import re

import grpc

from inferd.services.errors import ServiceError, quota
from inferd.services.runtimes.base import Constraint

# xgrammar begins its messages with the time and the line of its source.
_SOURCE_PLACE = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ")

# After these words, a message repeats the request's tokens and its constraint.
_REPEATED = re.compile(r"\n(?:Accepted tokens|Key string):")
#: Characters of the engine's text that are passed on. Errors travel as metadata, and gRPC takes 16 kB of it.
_MAX_TEXT = 1_000

# A prompt may be too long although it fits into the model's context: SGLang reserves a few tokens, and its KV
# cache may be smaller than the context. Both the HTTP server and the scheduler check that.
_TOO_LONG = re.compile(
    r"(?:Input length|The input) \((\d+) tokens\) "
    r"(?:exceeds the maximum allowed length|is longer than the model's context length) \((\d+) tokens\)"
)
_TOO_MANY = re.compile(
    r"maximum context length of (\d+) tokens\. You requested a total of \d+ tokens: "
    r"(\d+) tokens from the input messages and (\d+) tokens"
)


def runtime_refused(text: str, constraint: Constraint | None = None) -> ServiceError:
    """The engine refuses the request. The reason is more exact if the engine's text tells why."""
    if constraint is not None and "grammar" in text.lower():
        return invalid_constraint(text, constraint)
    code = grpc.StatusCode.INVALID_ARGUMENT
    if too_long := _TOO_LONG.match(text):
        return ServiceError(
            code,
            "CONTEXT_LENGTH_EXCEEDED",
            f"the prompt has {too_long[1]} tokens, but this model's runtime takes {too_long[2]} at most",
            metadata={"prompt_tokens": too_long[1], "max_prompt_tokens": too_long[2]},
        )
    if too_many := _TOO_MANY.search(text):
        return ServiceError(
            code,
            "CONTEXT_LENGTH_EXCEEDED",
            f"the context of this model's runtime is {too_many[1]} tokens, but the prompt has {too_many[2]}"
            f" and {too_many[3]} were asked for",
            metadata={"max_model_len": too_many[1], "prompt_tokens": too_many[2]},
        )
    return ServiceError(code, "RUNTIME_REFUSED", text[:_MAX_TEXT])


def invalid_constraint(text: str, constraint: Constraint) -> ServiceError:
    """The engine cannot follow the request's constraint."""
    return ServiceError(
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_CONSTRAINT",
        _REPEATED.split(_SOURCE_PLACE.sub("", text), maxsplit=1)[0].strip()[:_MAX_TEXT],
        field=constraint.field,
    )


def runtime_aborted() -> ServiceError:
    """The engine ended the generation without finishing it."""
    return ServiceError(
        grpc.StatusCode.UNAVAILABLE,
        "RUNTIME_ABORTED",
        "the runtime aborted the generation",
        retry_after=1.0,
    )


def runtime_unavailable(message: str = "the runtime is not available") -> ServiceError:
    """The engine is down, is starting, or went away during a generation."""
    return ServiceError(grpc.StatusCode.UNAVAILABLE, "RUNTIME_UNAVAILABLE", message, retry_after=1.0)


def runtime_overloaded() -> ServiceError:
    """The engine's queue is full."""
    return ServiceError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "RUNTIME_OVERLOADED",
        "the runtime's queue is full",
        retry_after=1.0,
        details=[quota("runtime", "the runtime's queue is full")],
    )


def runtime_deadline() -> ServiceError:
    """The engine did not answer in time."""
    return ServiceError(
        grpc.StatusCode.DEADLINE_EXCEEDED, "RUNTIME_DEADLINE", "the runtime did not answer in time"
    )


def runtime_error(message: str = "the runtime failed") -> ServiceError:
    """The engine failed, and the request is not at fault."""
    return ServiceError(grpc.StatusCode.INTERNAL, "RUNTIME_ERROR", message)


def adapter_not_loaded(name: str) -> ServiceError:
    """The engine has not loaded the LoRA adapter of this name. Another replica may have loaded it."""
    return ServiceError(
        grpc.StatusCode.UNAVAILABLE,
        "ADAPTER_NOT_LOADED",
        f"the runtime has not loaded the LoRA adapter {name!r}",
        metadata={"adapter": name},
    )
