"""Messages of streams as server-sent events. Before `first_only`, the server sent the recorded ones."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from inferd.rest_bridge.encode import Encoder
from inferd.rest_bridge.event_writer import EventWriter
from inferd.rest_bridge.events import event_encoders
from inferd.rest_bridge.json_spelling import SpellingError
from inferd.services.net.timeouts import SharedTimeout
from inferd.v1 import chat_pb2, completion_pb2, message_pb2, queue_pb2, sampling_pb2
from tests.rest_bridge.written_response import WrittenResponse
from tests.support.proto_source import compile_messages

RECORDED = Path(__file__).parent / "recorded"
TIME = {"seconds": 1700000000, "nanos": 999}
HEAD = {"id": "chatcmpl-1", "create_time": TIME, "model": "m"}
ASSISTANT = message_pb2.ROLE_ASSISTANT


def logprob(text: str, value: float, **more: Any) -> dict[str, Any]:
    return {"token": text, "logprob": value, "bytes": text.encode(), **more}


CHAT: list[dict[str, Any]] = [
    {**HEAD, "choices": [{"delta": {"role": ASSISTANT, "content": ""}}], "prompt_token_ids": [1, 2]},
    {"choices": [{"delta": {"content": "Hé"}}]},
    {"choices": [{"index": 1, "delta": {"role": ASSISTANT, "reasoning_content": "hm"}, "token_ids": [5]}]},
    {
        "choices": [
            {
                "delta": {"content": "!"},
                "logprobs": {
                    "content": [
                        logprob("!", -0.5, top_logprobs=[logprob("!", -0.5), logprob("?", float("-inf"))])
                    ]
                },
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
    },
    {"choices": [{"delta": {"tool_calls": [{"id": "call_1", "function": {"name": "f", "arguments": ""}}]}}]},
    {"choices": [{"delta": {"tool_calls": [{"function": {"arguments": '{"a'}}]}}]},
    {
        "choices": [
            {
                "index": 1,
                "delta": {},
                "finish_reason": sampling_pb2.FINISH_REASON_STOP,
                "matched_stop": {"token_id": 2},
            }
        ]
    },
    {
        "choices": [
            {
                "delta": {},
                "finish_reason": sampling_pb2.FINISH_REASON_ERROR,
                "error": {"code": 5, "message": "gone"},
            }
        ]
    },
    {
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 4,
            "total_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 1},
        }
    },
]
COMPLETION: list[dict[str, Any]] = [
    {
        **HEAD,
        "id": "cmpl-1",
        "choices": [
            {
                "text": "Once",
                "prompt_token_ids": [4],
                "logprobs": {
                    "tokens": ["On", "ce"],
                    "token_logprobs": [{}, {"logprob": -1.5}],
                    "top_logprobs": [
                        {},
                        {
                            "top": {
                                "logprobs": [
                                    {"token": "ce", "logprob": -1.5},
                                    {"token": "x", "logprob": -2},
                                    {"token": "ce", "logprob": -3},
                                ]
                            }
                        },
                    ],
                    "text_offset": [0, 2],
                },
            }
        ],
    },
    {"choices": [{"index": 1, "text": " upon", "token_ids": [7]}]},
    {"choices": [{"finish_reason": sampling_pb2.FINISH_REASON_LENGTH}]},
    {"usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}},
]


def events(messages: Iterable[Message], new: type[Message]) -> list[bytes]:
    """The events of one stream."""
    event = event_encoders(new.DESCRIPTOR)()
    return [event(message) for message in messages]


def recorded(name: str) -> list[bytes]:
    return [event + b"\n\n" for event in (RECORDED / name).read_bytes().split(b"\n\n")[:-1]]


def test_chat() -> None:
    new = chat_pb2.ChatCompletionChunk
    assert events([new(**chunk) for chunk in CHAT], new) == recorded("chat_events.txt")


def test_completion() -> None:
    new = completion_pb2.CompletionChunk
    assert events([new(**chunk) for chunk in COMPLETION], new) == recorded("completion_events.txt")


def test_a_job() -> None:
    new = queue_pb2.JobEvent
    job = new(job={"id": "j"})
    got = events([job, *(new(chunk=chunk) for chunk in CHAT), job], new)
    assert got[1:-1] == recorded("chat_events.txt")
    assert got[0] == got[-1]
    assert got[0].startswith(b': {"object":"chat.completion","id":"j"')


def test_streams_of_one_method_share_nothing() -> None:
    new = chat_pb2.ChatCompletionChunk
    begin = event_encoders(new.DESCRIPTOR)
    first, second = begin(), begin()
    assert b'"id":"chatcmpl-1"' in first(new(**CHAT[0]))
    assert b'"id":"other"' in second(new(**{**CHAT[0], "id": "other"}))
    assert b'"id":"chatcmpl-1"' in first(new(**CHAT[1]))
    assert b'"id":"other"' in second(new(**CHAT[1]))


def test_unary_messages_remember_nothing() -> None:
    encoder = Encoder(chat_pb2.ChatCompletionChunk.DESCRIPTOR)
    encoder.encode(chat_pb2.ChatCompletionChunk(**CHAT[0]))
    assert encoder.encode(chat_pb2.ChatCompletionChunk()) == (
        b'{"object":"chat.completion.chunk","id":"","model":"","choices":[]}'
    )


async def test_text_sinks() -> None:
    response: Any = WrittenResponse()
    new = chat_pb2.ChatCompletionChunk
    begin = event_encoders(new.DESCRIPTOR)
    with EventWriter(None, response, begin(), SharedTimeout(5)) as writer:
        writer.push(new(**CHAT[0]))
        chunk = new(choices=[{"delta": {"content": ""}}])
        texts = writer.text_sink(chunk, chunk.choices[0].delta, "content")
        for text in ("Hé", "Hé"):
            texts.push(text)
        await asyncio.sleep(0)
    before, text = recorded("chat_events.txt")[:2]
    assert response.data == before + text * 2


SHAPES = compile_messages("""
message Chunk {
  option $message.object = 'chunk';
  repeated int32 counts = 2 [$json.first_only = true];
  google.protobuf.Duration took = 3 [$json.seconds = true];
  Kind kind = 4 [$json = {first_only: true, null_when_unset: true}];
  Chunk within = 5;
}
enum Kind { KIND_UNSPECIFIED = 0; KIND_ONE = 1 [$word = 'one']; }
""")


def test_other_shapes() -> None:
    new: Any = GetMessageClass(SHAPES["Chunk"])
    messages = [
        new(counts=[1], kind=1, took={"seconds": 1, "nanos": 5}),
        new(within={"counts": [2]}),
        new(took={"seconds": -1, "nanos": -5}),
    ]
    got = [orjson.loads(event[6:]) for event in events(messages, new)]
    same = {"object": "chunk", "counts": [1], "kind": "one"}
    assert got == [
        {**same, "took": 1},
        {**same, "within": {**same, "counts": [2], "kind": None}},
        {**same, "took": -2},
    ]


@pytest.mark.parametrize(
    "source",
    [
        "message M { option $message.bare = true; string s = 1 [$json.first_only = true]; }",
        "message M { option $message.tag = 't'; int32 i = 1 [$json.first_only = true]; oneof o { N n = 2; } }"
        "message N {}",
        "message M { N n = 1 [$json.inline = true]; int32 i = 2 [$json.first_only = true]; } message N {}",
    ],
)
def test_first_only_needs_an_object(source: str) -> None:
    with pytest.raises(SpellingError, match=r"M: json\.first_only needs"):
        event_encoders(compile_messages(source)["M"])
