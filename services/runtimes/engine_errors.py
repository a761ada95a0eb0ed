"""What SGLang's words about a request that failed mean to its caller: the same over each of its interfaces.

Its own words pass only where they speak of the request: others name hosts or source lines.
"""

import re

import grpc
from inferd.services.errors import ServiceError
from inferd.services.runtimes.base import Constraint

# xgrammar starts its messages with the time and the place in its own source.
_SOURCE_PLACE = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ")

# What follows repeats the request's tokens and its constraint.
_REPEATED = re.compile(r"\n(?:Accepted tokens|Key string):")
#: Of the engine's words, in characters: errors travel as metadata, of which gRPC takes 16 kB.
_MAX_WORDS = 1_000

# SGLang keeps a few tokens of the context, and all that its KV cache lacks, for itself. Its words, by who
# checks: the scheduler, and before it the HTTP server.
_TOO_LONG = re.compile(
    r"(?:Input length|The input) \((\d+) tokens\) "
    r"(?:exceeds the maximum allowed length|is longer than the model's context length) \((\d+) tokens\)"
)
_TOO_MANY = re.compile(
    r"maximum context length of (\d+) tokens\. You requested a total of \d+ tokens: "
    r"(\d+) tokens from the input messages and (\d+) tokens"
)


def refused(words: str, constraint: Constraint | None = None) -> ServiceError:
    """The engine refuses the request: INVALID_ARGUMENT, with a reason of its own where the words tell."""
    if constraint is not None and "grammar" in words.lower():
        return bad_constraint(words, constraint)
    code = grpc.StatusCode.INVALID_ARGUMENT
    if too_long := _TOO_LONG.match(words):
        return ServiceError(
            code,
            "CONTEXT_LENGTH_EXCEEDED",
            f"the prompt has {too_long[1]} tokens, but this model's runtime takes {too_long[2]} at most",
            metadata={"prompt_tokens": too_long[1], "max_prompt_tokens": too_long[2]},
        )
    if too_many := _TOO_MANY.search(words):
        return ServiceError(
            code,
            "CONTEXT_LENGTH_EXCEEDED",
            f"the context of this model's runtime is {too_many[1]} tokens, but the prompt has {too_many[2]}"
            f" and {too_many[3]} were asked for",
            metadata={"max_model_len": too_many[1], "prompt_tokens": too_many[2]},
        )
    return ServiceError(code, "RUNTIME_REFUSED", words[:_MAX_WORDS])


def bad_constraint(words: str, constraint: Constraint) -> ServiceError:
    """The engine cannot follow the request's constraint."""
    return ServiceError(
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_CONSTRAINT",
        _REPEATED.split(_SOURCE_PLACE.sub("", words), maxsplit=1)[0].strip()[:_MAX_WORDS],
        field=constraint.field,
    )


def aborted() -> ServiceError:
    """The engine ended the generation without finishing it."""
    return ServiceError(
        grpc.StatusCode.UNAVAILABLE,
        "RUNTIME_ABORTED",
        "the runtime aborted the generation",
        retry_after=1.0,
    )


def unavailable(message: str = "the runtime is not available") -> ServiceError:
    """The engine is down, starting, or went away under way."""
    return ServiceError(grpc.StatusCode.UNAVAILABLE, "RUNTIME_UNAVAILABLE", message, retry_after=1.0)


def overloaded() -> ServiceError:
    """The engine's queue is full."""
    return ServiceError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "RUNTIME_OVERLOADED",
        "the runtime's queue is full",
        retry_after=1.0,
    )


def late() -> ServiceError:
    """The engine did not answer in time."""
    return ServiceError(
        grpc.StatusCode.DEADLINE_EXCEEDED, "RUNTIME_DEADLINE", "the runtime did not answer in time"
    )


def failed(message: str = "the runtime failed") -> ServiceError:
    """The engine failed at a request that it should have been able to do."""
    return ServiceError(grpc.StatusCode.INTERNAL, "RUNTIME_ERROR", message)


def adapter_missing(name: str) -> ServiceError:
    """The engine has not loaded the LoRA adapter of this name: another replica may have."""
    return ServiceError(
        grpc.StatusCode.UNAVAILABLE,
        "ADAPTER_NOT_LOADED",
        f"the runtime has not loaded the LoRA adapter {name!r}",
        metadata={"adapter": name},
    )
