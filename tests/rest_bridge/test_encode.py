"""Messages to the JSON that OpenAI's clients receive, member by member."""

import math
from typing import Any

import grpc
import orjson
import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from inferd.rest_bridge.encode import Encoder
from inferd.rest_bridge.json_spelling import SpellingError
from inferd.services.errors import ServiceError, invalid
from inferd.v1 import (
    chat_pb2,
    completion_pb2,
    message_pb2,
    models_pb2,
    prompt_pb2,
    queue_pb2,
    sampling_pb2,
    tokenize_pb2,
)
from tests.support.proto_source import compile_messages


def encoded(message: Message) -> Any:
    return orjson.loads(Encoder(message.DESCRIPTOR).encode(message))


def test_chat_chunk() -> None:
    chunk = chat_pb2.ChatCompletionChunk(
        id="c", create_time={"seconds": 2**32}, model="m", choices=[{"delta": {"content": "hi"}}]
    )
    assert encoded(chunk) == {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 2**32,
        "model": "m",
        "choices": [{"index": 0, "delta": {"content": "hi"}, "logprobs": None, "finish_reason": None}],
    }


def test_last_chat_chunk() -> None:
    chunk = chat_pb2.ChatCompletionChunk(
        choices=[{"delta": {}, "finish_reason": sampling_pb2.FINISH_REASON_STOP}],
        usage={"prompt_tokens": 1, "prompt_tokens_details": {}},
    )
    made = encoded(chunk)
    assert made["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]
    assert made["usage"] == {
        "prompt_tokens": 1,
        "completion_tokens": 0,
        "total_tokens": 0,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def test_chat_completion() -> None:
    choice = chat_pb2.ChatChoice(
        message={"role": message_pb2.ROLE_ASSISTANT},
        logprobs={"content": [{"token": "é", "logprob": -math.inf, "bytes": "é".encode()}]},
        finish_reason=sampling_pb2.FINISH_REASON_LENGTH,
    )
    assert encoded(chat_pb2.ChatCompletion(choices=[choice])) == {
        "object": "chat.completion",
        "id": "",
        "model": "",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": None},
                "logprobs": {
                    "content": [{"token": "é", "logprob": -9999.0, "bytes": [195, 169], "top_logprobs": []}]
                },
                "finish_reason": "length",
                "matched_stop": None,
            }
        ],
    }


def test_completion_logprobs() -> None:
    logprobs = completion_pb2.CompletionLogprobs(
        tokens=["a", "b", "c"],
        token_logprobs=[{}, {"logprob": 0}, {"logprob": -1.5}],
        top_logprobs=[
            {},
            {"top": {}},
            {"top": {"logprobs": [{"token": "c", "logprob": -1.5}, {"token": "d", "logprob": -math.inf}]}},
        ],
        text_offset=[0, 1, 2],
    )
    assert encoded(logprobs) == {
        "tokens": ["a", "b", "c"],
        "token_logprobs": [None, 0.0, -1.5],
        "top_logprobs": [None, {}, {"c": -1.5, "d": -9999.0}],
        "text_offset": [0, 1, 2],
    }


def test_empty_messages() -> None:
    assert encoded(models_pb2.ListModelsResponse()) == {"object": "list", "data": []}
    assert encoded(tokenize_pb2.TokenizeResponse()) == {"tokens": [], "count": 0, "max_model_len": 0}
    assert encoded(sampling_pb2.StreamOptions()) == {}


def test_enums_without_a_word_are_unset() -> None:
    delta = chat_pb2.ChatDelta(role=message_pb2.ROLE_UNSPECIFIED)
    assert encoded(delta) == {}
    assert encoded(chat_pb2.ChatDelta(role=77)) == {}  # newer than these protos
    assert encoded(chat_pb2.ChatChoice(finish_reason=77))["finish_reason"] is None
    assert encoded(chat_pb2.AssistantMessage()) == {"content": None}


BLANK_JOB = {
    "object": "chat.completion",
    "id": "",
    "model": "",
    "choices": [],
    "priority": 0,
    "attempts": 0,
    "lost_attempts": 0,
    "max_attempts": 0,
}


def test_jobs() -> None:
    assert encoded(queue_pb2.Job()) == BLANK_JOB
    job = queue_pb2.Job(
        id="j",
        model="m",
        state=queue_pb2.JOB_STATE_SUCCEEDED,
        create_time={"seconds": 1700000000},
        completion={
            "id": "c",
            "model": "other",
            "create_time": {"seconds": 9},
            "choices": [{"index": 1}],
            "usage": {},
        },
        retry_after={"seconds": 5, "nanos": 1},
    )
    assert encoded(job) == {
        **BLANK_JOB,
        "id": "j",
        "model": "m",
        "status": "succeeded",
        "created": 1700000000,
        "create_time": "2023-11-14T22:13:20Z",
        "retry_after": 5,
        "choices": encoded(job.completion)["choices"],
        "usage": encoded(job.completion)["usage"],
    }
    job.ClearField("id")
    assert encoded(job)["id"] == ""


def test_deleted_jobs_and_pages() -> None:
    assert encoded(queue_pb2.DeleteJobResponse(id="j", deleted=True)) == {
        "object": "chat.completion.deleted",
        "id": "j",
        "deleted": True,
    }
    page = queue_pb2.ListJobsResponse(jobs=[queue_pb2.Job()], first_id="j")
    assert encoded(page) == {
        "object": "list",
        "data": [BLANK_JOB],
        "next_page_token": "",
        "has_more": False,
        "first_id": "j",
        "last_id": None,
    }


def test_errors() -> None:
    ours = invalid("messages[0]", "messages[0]: too bad")
    assert encoded(queue_pb2.Job(error=ours.to_status()))["error"] == {
        "message": "messages[0]: too bad",
        "type": "invalid_request_error",
        "param": "messages[0]",
        "code": "invalid_argument",
    }
    late = ServiceError(grpc.StatusCode.DEADLINE_EXCEEDED, "JOB_EXPIRED", "its time was up")
    assert encoded(queue_pb2.Job(error=late.to_status()))["error"]["code"] == "job_expired"
    # What is not inferd's own may be about the server's inside.
    made = encoded(queue_pb2.Job(error={"code": 13, "message": "secret"}))["error"]
    assert made["code"] == "internal" and "secret" not in made["message"]


def test_request_forms() -> None:
    message = message_pb2.Message(
        role=message_pb2.ROLE_ASSISTANT,
        content=[{"text": "hi"}],
        tool_calls=[{"id": "c", "function": {"name": "f", "arguments": "{}"}}],
    )
    assert encoded(message) == {
        "role": "assistant",
        "content": [{"type": "text", "text": "hi"}],
        "tool_calls": [{"type": "function", "id": "c", "function": {"name": "f", "arguments": "{}"}}],
    }
    assert encoded(message_pb2.Message(role=message_pb2.ROLE_USER)) == {"role": "user", "content": []}
    assert encoded(message_pb2.ContentPart()) == {}


@pytest.mark.parametrize(
    ("message", "document"),
    [
        (chat_pb2.ToolChoice(mode=chat_pb2.TOOL_CHOICE_MODE_AUTO), "auto"),
        (chat_pb2.ToolChoice(function={"name": "f"}), {"type": "function", "function": {"name": "f"}}),
        (sampling_pb2.ResponseFormat(json_object={}), {"type": "json_object"}),
        (
            sampling_pb2.ResponseFormat(json_schema={"name": "n", "schema": '{"b":1,"a":[1.0]}'}),
            {"type": "json_schema", "json_schema": {"name": "n", "schema": {"b": 1, "a": [1.0]}}},
        ),
        (sampling_pb2.JsonSchemaFormat(name="n"), {"name": "n"}),
        (prompt_pb2.Prompt(), None),
        (prompt_pb2.Prompt(text=""), ""),
        (prompt_pb2.Prompt(token_ids={}), []),
        (prompt_pb2.Prompt(token_ids={"ids": [1, 2]}), [1, 2]),
        (completion_pb2.OptionalLogprob(logprob=0), 0.0),
        (completion_pb2.TopLogprobs(), {}),
    ],
)
def test_unions(message: Message, document: Any) -> None:
    assert encoded(message) == document


def test_raw_documents_keep_their_text() -> None:
    schema = sampling_pb2.JsonSchemaFormat(schema='{"z": 1.50, "a": 123456789012345678901234567890}')
    assert b'{"z": 1.50, "a": 123456789012345678901234567890}' in Encoder(schema.DESCRIPTOR).encode(schema)


SHAPES = compile_messages("""
message Tree { string name = 1; repeated Tree children = 2; Tree next = 3; }
message Node {
  option $message.tag = 'kind';
  int32 id = 1;
  oneof node { Node inner = 2 [$json.name = 'Inner']; string leaf = 3; }
}
message Names {
  string long_name = 1 [$json.name = 'longName'];
  repeated int32 some = 2 [$json.omit_when_empty = true];
  map<string, int32> few = 3 [$json.omit_when_empty = true];
  Names sub = 4 [$json.null_when_unset = true];
}
message Kinds {
  float single = 1; bytes data = 2; bytes list = 3 [$json.byte_list = true]; map<bool, uint64> truth = 4;
  Plain plain = 5; map<int32, Tree> trees = 6; optional Plain maybe = 7; double number = 8;
}
enum Plain { PLAIN_UNSPECIFIED = 0; PLAIN_ONE = 1; }
message Spelled { Zero zero = 1; }
enum Zero { ZERO_NONE = 0 [$word = 'none']; ZERO_ALL = 1 [$word = 'all']; }
message Known {
  google.protobuf.Timestamp at = 1; google.protobuf.Duration took = 2; google.protobuf.StringValue text = 3;
  google.protobuf.FieldMask mask = 4; repeated google.protobuf.Timestamp times = 5;
}
message Outer {
  optional string both = 1 [$json.hides_inline = true]; string own = 2;
  Middle middle = 3 [$json.inline = true];
  string renamed = 4 [$json = {name: 'name' hides_inline: true}];
}
message Middle {
  option $message.object = 'middle';
  string both = 1; int32 count = 2; repeated Outer outers = 3; Inner inner = 4 [$json.inline = true];
  string renamed = 5;
}
message Inner { optional string deep = 1 [$json.null_when_unset = true]; repeated int32 list = 2; }
message Constant { option $message.object = 'constant'; Middle middle = 1 [$json.inline = true]; }
message Failures {
  repeated google.rpc.Status list = 1; google.rpc.Status one = 2 [$json.null_when_unset = true];
}
""")


def made(name: str, document: dict[str, Any]) -> Message:
    """A message from its proto3 JSON."""
    return json_format.ParseDict(document, GetMessageClass(SHAPES[name])())


class TestOtherShapes:
    """Protos of other services work without a change to the codec."""

    def test_recursion(self) -> None:
        tree = {"name": "a", "children": [{"name": "b", "children": []}]}
        assert encoded(made("Tree", tree)) == tree
        node = {"id": 1, "kind": "Inner", "Inner": {"id": 2, "kind": "leaf", "leaf": ""}}
        assert encoded(made("Node", {"id": 1, "inner": {"id": 2, "leaf": ""}})) == node

    def test_member_options(self) -> None:
        assert encoded(made("Names", {})) == {"longName": "", "sub": None}
        full = {"longName": "x", "some": [1], "few": {"a": 0}, "sub": {}}
        assert encoded(made("Names", full)) == {**full, "sub": {"longName": "", "sub": None}}

    def test_scalars(self) -> None:
        empty = {"single": 0.0, "data": "", "list": [], "truth": {}, "trees": {}, "number": 0.0}
        assert encoded(made("Kinds", {})) == empty
        given = {
            "single": 0.1,
            "data": "+/8=",
            "truth": {"true": str(2**64 - 1)},
            "plain": "PLAIN_ONE",
            "trees": {"-1": {"name": "x"}},
            "maybe": "PLAIN_UNSPECIFIED",
        }
        assert encoded(made("Kinds", given)) == {
            **empty,
            "single": 0.1,
            "data": "+/8=",
            "truth": {"true": 2**64 - 1},
            "plain": "PLAIN_ONE",
            "trees": {"-1": {"name": "x", "children": []}},
        }

    @pytest.mark.parametrize("number", ["NaN", "Infinity"])
    def test_no_numbers(self, number: str) -> None:
        values = encoded(made("Kinds", {"number": number, "single": number}))
        assert (values["number"], values["single"]) == (None, None)

    def test_zero_with_a_word(self) -> None:
        assert encoded(made("Spelled", {})) == {"zero": "none"}

    def test_well_known_types(self) -> None:
        known = {
            "at": "2024-02-29T12:00:00.500Z",
            "took": "1.500s",
            "text": "",
            "mask": "a.b,c",
            "times": ["1970-01-01T00:00:00Z"],
        }
        assert encoded(made("Known", known)) == known
        assert encoded(made("Known", {})) == {"times": []}

    def test_inline(self) -> None:
        blank = {
            "object": "middle",
            "count": 0,
            "outers": [],
            "deep": None,
            "list": [],
            "own": "",
            "name": "",
        }
        assert encoded(made("Outer", {})) == encoded(made("Outer", {"middle": {"inner": {}}})) == blank
        # A member that the holder has is the holder's, though it is not set there.
        middle = {"both": "hidden", "count": 3, "renamed": "hidden", "inner": {"deep": "d", "list": [1]}}
        full = {**blank, "count": 3, "deep": "d", "list": [1]}
        assert encoded(made("Outer", {"middle": middle})) == full
        assert encoded(made("Outer", {"middle": middle, "both": "b", "own": "o"})) == {
            **full,
            "both": "b",
            "own": "o",
        }
        assert encoded(made("Constant", {}))["object"] == "constant"

    def test_inline_recursion(self) -> None:
        outer = made("Outer", {"middle": {"outers": [{"middle": {"count": 1}}]}})
        assert encoded(outer)["outers"][0]["count"] == 1

    def test_blanks_are_not_shared(self) -> None:
        encoder = Encoder(SHAPES["Outer"])
        first = encoder.to_json(made("Outer", {"middle": {"count": 3, "inner": {"deep": "d"}}}))
        assert (first["count"], first["deep"]) == (3, "d")
        second = encoder.to_json(made("Outer", {}))
        assert (second["count"], second["deep"]) == (0, None)

    def test_errors(self) -> None:
        assert encoded(made("Failures", {})) == {"list": [], "one": None}
        failed = encoded(made("Failures", {"list": [{"code": 5, "message": "no"}]}))
        assert failed["list"] == [
            {"message": "no", "type": "invalid_request_error", "param": None, "code": "not_found"}
        ]

    def test_refused(self) -> None:
        shapes = compile_messages("message M { google.protobuf.Value v = 1; }")
        with pytest.raises(SpellingError, match="Value is not supported"):
            Encoder(shapes["M"])
