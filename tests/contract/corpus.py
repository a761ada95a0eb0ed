"""The requests that `test_parity` sends by REST and by gRPC: good, bad, streamed and queued ones."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
from google.protobuf.descriptor import FieldDescriptor

from inferd.rest_bridge.encode import Encoder
from tests.contract.requests import places
from tests.contract.test_limits import sides

HELLO: dict[str, Any] = {
    "model": "small",
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": 4,
}
TEXT: dict[str, Any] = {"model": "small", "prompt": "Hello", "max_tokens": 4}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
IMAGE: dict[str, Any] = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
NO_JOB = "chatcmpl-" + "0" * 32


@dataclass(frozen=True)
class Case:
    """One request: the gRPC method, and the JSON of its request.

    `path` is the HTTP path of a method without a body, with its query. `streamed` selects the streaming
    sibling of `method`.
    """

    name: str
    method: str
    body: dict[str, Any] = field(default_factory=dict)
    path: str = ""
    verb: str = "GET"
    streamed: bool = False


#: Valid values of fields that chat and text completion share.
SHARED: list[dict[str, Any]] = [
    {},
    {"temperature": 0},
    {"temperature": 2, "top_p": 0.5},
    {"top_k": -1, "min_p": 0},
    {"top_k": 5, "min_p": 1},
    {"frequency_penalty": -2, "presence_penalty": 2},
    {"repetition_penalty": 1.1},
    {"max_tokens": 1},
    {"min_tokens": 2},
    {"stop": "zzz"},
    {"stop": ["a", "e"]},
    {"stop_token_ids": [5, 6]},
    {"n": 2},
    {"seed": 7},
    {"logit_bias": {"5": -100}},
    {"ignore_eos": True},
    {"skip_special_tokens": False},
    {"stop_regex": "z+"},
    {"no_stop_trim": True, "stop": "l"},
    {"return_token_ids": True},
    {"user": "someone"},
    {"model": "org/small"},
    {"regex": "[a-z]+"},
    {"ebnf": 'root ::= "a"'},
    {"response_format": {"type": "text"}},
    {"response_format": {"type": "json_object"}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}},
    {"choice": ["a", "b"]},
]
#: Invalid ones, which only the services find.
REFUSED: list[dict[str, Any]] = [
    {"model": "other"},
    {"model": ""},
    {"lora_path": "none"},
    {"regex": "("},
    {"ebnf": "root ::="},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": 5}}}},
    {"regex": "a", "choice": ["a"]},
    {"min_tokens": 5},
    {"max_tokens": 100000},
    {"priority": 3},
    {"cache_salt": "a"},
    {"stop_regex": "("},
    {"stop": [""]},
    {"logit_bias": {"4294967295": 1}},
    {"stop_token_ids": [4294967295]},
]
CHAT: list[dict[str, Any]] = [
    {"logprobs": True, "top_logprobs": 3},
    {"max_completion_tokens": 2},
    {"tools": [TOOL]},
    {"tools": [TOOL], "tool_choice": "none"},
    {"functions": [TOOL["function"]]},
    {"reasoning_effort": "high"},
    {"chat_template_kwargs": {"a": 1}},
    {"prompt": "ignored"},
    {"input_ids": [72, 73]},
    {"messages": [], "prompt": "Hello"},
    {"metadata": {"a": "b"}, "store": True},
    {"messages": [{"role": "system", "content": [{"type": "text", "text": "a"}]}, *HELLO["messages"]]},
]
CHAT_REFUSED: list[dict[str, Any]] = [
    {"messages": []},
    {"messages": [{"role": "user"}]},
    {"messages": [{"role": "user", "content": [IMAGE]}]},
    {"top_logprobs": 2},
    {"modalities": ["audio"]},
    {"tool_choice": "required"},
    {"tools": [TOOL], "functions": [TOOL["function"]]},
    {"tools": [TOOL, TOOL]},
    {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
    {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": 1}}}]},
    {"tools": [{"type": "function", "function": {"name": "a b"}}]},
    {"chat_template_kwargs": {"messages": 1}},
    {"chat_template_kwargs": [1]},
    {"continue_final_message": True},
    {"input_ids": [4294967295]},
]
COMPLETION: list[dict[str, Any]] = [
    {"logprobs": 2},
    {"echo": True, "logprobs": 1},
    {"echo": True, "max_tokens": 0},
    {"best_of": 2},
    {"prompt": ["a", "b"]},
    {"prompt": [72, 73]},
    {"prompt": [[72], [73, 74]]},
    {"messages": HELLO["messages"]},
    {"prompt": None, "messages": HELLO["messages"]},
]
COMPLETION_REFUSED: list[dict[str, Any]] = [
    {"prompt": None},
    {"prompt": []},
    {"prompt": ["a", ""]},
    {"prompt": [4294967295]},
    {"n": 2, "best_of": 1},
    {"prompt": ["a"] * 300, "n": 4},
]
JOBS: list[dict[str, Any]] = [
    {},
    {"priority": 3},
    {"max_attempts": 1},
    {"request_id": "once"},
    {"wait_seconds": 30},
    {"expires_after": "60s"},
]
JOBS_REFUSED: list[dict[str, Any]] = [
    {"model": "other"},
    {"messages": []},
    {"temperature": 3},
    {"request_id": ""},
    {"expires_after": "0s"},
    {"expires_after": "9999999s"},
    {"webhook": "http://127.0.0.1/"},
    {"webhook": {"url": "ftp://example.com", "secret": "x"}},
    {"wait_seconds": 3601},
    {"priority": 1000001},
    {"messages": [{"role": "user", "content": [IMAGE]}]},
]


def _of(
    name: str, method: str, base: dict[str, Any], changes: list[dict[str, Any]], **more: Any
) -> Iterator[Case]:
    for change in changes:
        shown = ", ".join(f"{key}={value}" for key, value in change.items())[:60]
        yield Case(f"{name}: {shown or 'plain'}", method, {**base, **change}, **more)


def _beyond_limits() -> Iterator[Case]:
    """A request beyond each limit that the protos state."""
    for place in places():
        rule = place.method
        if rule.name not in POSTED or place.field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            continue
        for value, within in sides(place):
            if not within and value is not None:
                body = orjson.loads(Encoder(rule.input_type).encode(place.request(value)))
                yield Case(f"beyond: {place.field.full_name}", rule.name, body)


#: Methods whose requests are HTTP bodies.
POSTED = {
    "CreateChatCompletion",
    "CreateCompletion",
    "CountTokens",
    "Tokenize",
    "Detokenize",
    "Enqueue",
}
GROUPS: dict[str, list[Case]] = {
    "chat": [*_of("chat", "CreateChatCompletion", HELLO, [*SHARED, *CHAT])],
    "chat streams": [
        *_of("chat stream", "CreateChatCompletion", HELLO, [*SHARED, *CHAT], streamed=True),
        *_of(
            "chat stream",
            "CreateChatCompletion",
            HELLO,
            [
                {"stream_options": {"include_usage": True}},
                {"stream_options": {"continuous_usage_stats": True}},
            ],
            streamed=True,
        ),
    ],
    "refused chats": [
        *_of("chat", "CreateChatCompletion", HELLO, [*REFUSED, *CHAT_REFUSED]),
        *_of("chat stream", "CreateChatCompletion", HELLO, REFUSED[:4], streamed=True),
    ],
    "completions": [
        *_of("text", "CreateCompletion", TEXT, [*SHARED, *COMPLETION]),
        *_of(
            "text stream",
            "CreateCompletion",
            TEXT,
            [*SHARED[:12], *COMPLETION[:3], *COMPLETION[4:]],
            streamed=True,
        ),
    ],
    "refused completions": [*_of("text", "CreateCompletion", TEXT, [*REFUSED, *COMPLETION_REFUSED])],
    "limits": [*_beyond_limits()],
    "tokens": [
        *_of("count", "CountTokens", HELLO, [{}, *CHAT[2:12], *CHAT_REFUSED[:4], {"model": "other"}]),
        *_of("count", "CountTokens", TEXT, [{}, *COMPLETION[4:], *COMPLETION_REFUSED]),
        *_of("tokenize", "Tokenize", TEXT, [{}, {"add_special_tokens": False}, {"prompt": ["a", "b"]}]),
        *_of("tokenize", "Tokenize", HELLO, [{}, {"tools": [TOOL]}, {"messages": []}]),
        *_of(
            "detokenize",
            "Detokenize",
            {"model": "small", "tokens": [72, 73]},
            [{}, {"tokens": []}, {"tokens": [4294967295]}, {"model": ""}, {"skip_special_tokens": True}],
        ),
    ],
    "models": [
        Case("list", "ListModels", {}, "/v1/models"),
        Case("page", "ListModels", {"limit": 1}, "/v1/models?limit=1"),
        Case("no page", "ListModels", {"page_token": "x"}, "/v1/models?page_token=x"),
        Case("page size", "ListModels", {"limit": 0}, "/v1/models?limit=0"),
        Case("one", "GetModel", {"model": "org/small"}, "/v1/models/org/small"),
        Case("none", "GetModel", {"model": "other"}, "/v1/models/other"),
    ],
    "jobs": [
        *_of("job", "Enqueue", HELLO, [*JOBS, *JOBS_REFUSED]),
        *_of("job stream", "Enqueue", HELLO, [{}, {"n": 2}, {"model": "other"}], streamed=True),
        Case("no job", "GetJob", {"id": NO_JOB}, f"/queue/chat/completions/{NO_JOB}"),
        Case("no job's id", "GetJob", {"id": "x"}, "/queue/chat/completions/x"),
        Case(
            "wait", "GetJob", {"id": "x", "wait_seconds": 4000}, "/queue/chat/completions/x?wait_seconds=4000"
        ),
        Case("watch none", "GetJob", {"id": "x"}, "/queue/chat/completions/x?stream=true", streamed=True),
        Case("cancel none", "CancelJob", {"id": "x"}, "/queue/chat/completions/x/cancel", "POST"),
        Case("delete none", "DeleteJob", {"id": "x"}, "/queue/chat/completions/x", "DELETE"),
        Case("page", "ListJobs", {"limit": 101}, "/queue/chat/completions?limit=101"),
        Case("token", "ListJobs", {"page_token": "x"}, "/queue/chat/completions?page_token=x"),
        Case("after", "ListJobs", {"after": "x"}, "/queue/chat/completions?after=x"),
        Case("other", "ListJobs", {"model": "other"}, "/queue/chat/completions?model=other"),
        Case("states", "ListJobs", {"status": ["failed"]}, "/queue/chat/completions?status=failed"),
        Case("stats", "GetQueueStats", {}, "/queue/stats"),
    ],
}
