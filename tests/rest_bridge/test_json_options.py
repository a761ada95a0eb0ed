"""Options of fields and messages, both ways: times as seconds, pairs, inline alternatives, names twice."""

from typing import Any

import orjson
import pytest
from google.protobuf.message_factory import GetMessageClass

from inferd.rest_bridge.decode import Decoder
from inferd.rest_bridge.encode import Encoder
from inferd.rest_bridge.json_spelling import SpellingError, json_fields, message_spelling
from inferd.v1 import chat_pb2, completion_pb2, queue_pb2, tokenize_pb2
from tests.rest_bridge.faults import fault
from tests.support.proto_source import compile_messages

ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}

SHAPES = compile_messages("""
message Times {
  string first = 1;
  google.protobuf.Timestamp at = 2 [$json = {name: 'moment' seconds: true}];
  google.protobuf.Duration took = 3 [$json.seconds = true];
  google.protobuf.Timestamp both = 4 [$json.also_seconds = 'both_seconds'];
  google.protobuf.Timestamp none = 5 [$json = {seconds: true null_when_unset: true}];
  repeated google.protobuf.Duration many = 6 [$json.seconds = true];
  string last = 7;
}
message Pairs { repeated Pair pairs = 1 [$json.pairs = true]; }
message Pair { string name = 1; Times times = 2; }
message Call {
  option $message = {tag: 'type' tag_after: 'id'};
  int32 index = 1; optional string id = 2;
  oneof call { Named named = 3; Empty empty = 4; }
  string last = 5;
}
message Named { string name = 1; }
message Empty {}
message Either {
  oneof either {
    Left left = 1 [$json = {inline: true selected_by: ['long_name', 'size']}];
    Right right = 2 [$json = {inline: true selected_by: 'colour'}];
    Other other = 3 [$json.inline = true];
  }
  string own = 4;
}
message Left { string long_name = 1; int32 size = 2; string same = 3; }
message Right { string colour = 1; bool same = 2; }
message Other { repeated string same = 1; google.protobuf.Timestamp at = 2 [$json.seconds = true]; }
message Strict {
  oneof either { Left left = 1 [$json = {inline: true selected_by: 'size'}]; }
  string own = 2;
} message Outer { int32 rank = 1; Inner inner = 2 [$json.inline = true]; Left left = 3 [$json.hides_inline =
true]; } message Inner {
  option $message.object = 'inner';
  int32 inner_rank = 1 [$json.name = 'rank']; google.protobuf.Timestamp other = 2 [$json.name = 'left'];
}
""")


def encoded(name: str, **fields: Any) -> Any:
    return orjson.loads(Encoder(SHAPES[name]).encode(GetMessageClass(SHAPES[name])(**fields)))


def decoded(name: str, document: Any) -> Any:
    return Decoder(SHAPES[name]).decode(document)


class TestSeconds:
    def test_responses(self) -> None:
        got = encoded(
            "Times",
            first="f",
            at={"seconds": -1, "nanos": 999},
            took={"seconds": -1, "nanos": -1},
            both={"seconds": 1700000000, "nanos": 999999999},
            many=[{"seconds": 1, "nanos": 999}, {"nanos": -1}],
            last="l",
        )
        assert got == {
            "first": "f",
            "moment": -1,
            "took": -2,
            "both": "2023-11-14T22:13:20.999999999Z",
            "both_seconds": 1700000000,
            "none": None,
            "many": [1, -1],
            "last": "l",
        }
        # A number has the place of its field, whatever else is set.
        assert list(got)[:3] == ["first", "moment", "took"]

    def test_unset(self) -> None:
        assert encoded("Times") == {"first": "", "none": None, "many": [], "last": ""}

    def test_requests(self) -> None:
        for at, took in ((5, 1.5), ("1970-01-01T00:00:05Z", "1.5s")):
            made = decoded("Times", {"moment": at, "took": took, "both_seconds": 5})
            assert (made.at.seconds, made.took.nanos, made.HasField("both")) == (5, 500_000_000, False)


class TestPairs:
    def test_order_is_kept(self) -> None:
        pairs = [{"name": "b", "times": {"first": "1"}}, {"name": "a"}, {"name": "b"}]
        got = encoded("Pairs", pairs=pairs)["pairs"]
        assert list(got) == ["b", "a"]
        assert got["b"]["first"] == "1"
        assert encoded("Pairs") == {"pairs": {}}

    def test_requests(self) -> None:
        made = decoded("Pairs", {"pairs": {"b": {"first": "1"}, "a": {}}})
        assert [(pair.name, pair.times.first) for pair in made.pairs] == [("b", "1"), ("a", "")]
        assert fault(decoded, "Pairs", {"pairs": {"b": {"first": 1}}}).field == 'pairs["b"].first'
        assert fault(decoded, "Pairs", {"pairs": []}).message == "pairs: expected an object, got a list"


class TestTagAfter:
    def test_the_tag_follows_its_field(self) -> None:
        got = encoded("Call", index=1, id="i", named={"name": "n"}, last="l")
        assert list(got) == ["index", "last", "id", "type", "named"]
        assert got["type"] == "named"
        assert encoded("Call", id="", empty={}) == {"index": 0, "last": "", "id": "", "type": "empty"}

    def test_no_field_no_tag(self) -> None:
        assert encoded("Call", named={}) == {"index": 0, "last": "", "named": {"name": ""}}

    def test_requests(self) -> None:
        made = decoded("Call", {"type": "named", "named": {"name": "n"}})
        assert made == decoded("Call", {"named": {"name": "n"}})


class TestAlternatives:
    @pytest.mark.parametrize(
        ("document", "arm"),
        [
            ({"size": 1}, "left"),
            ({"longName": "n"}, "left"),
            ({"size": 0, "colour": "c"}, "left"),
            ({"colour": "c", "size": None}, "right"),
            ({"colour": ""}, "right"),
            ({"same": ["s"]}, "other"),
            ({"own": "o"}, "other"),
            ({}, "other"),
        ],
    )
    def test_members_select(self, document: dict[str, Any], arm: str) -> None:
        assert decoded("Either", document).WhichOneof("either") == arm

    def test_one_name_in_several(self) -> None:
        assert decoded("Either", {"size": 1, "same": "s"}).left.same == "s"
        assert decoded("Either", {"colour": "c", "same": True}).right.same is True
        assert decoded("Either", {"same": ["a"], "own": "o"}).other.same == ["a"]
        assert fault(decoded, "Either", {"same": "s"}).message == "same: expected a list, got a string"

    def test_none_selected(self) -> None:
        assert decoded("Strict", {"own": "o", "long_name": "n"}).WhichOneof("either") is None

    def test_responses(self) -> None:
        assert encoded("Either", left={"size": 1}, own="o") == {
            "own": "o",
            "long_name": "",
            "size": 1,
            "same": "",
        }
        assert encoded("Either", other={"at": {"seconds": 1}}) == {"own": "", "same": [], "at": 1}
        assert encoded("Either") == {"own": ""}

    def test_fields(self) -> None:
        members = [field.member for field in json_fields(message_spelling(SHAPES["Either"]))]
        assert sorted(members) == ["at", "colour", "long_name", "own", "same", "size"]


class TestTokenCounter:
    """The bodies of the paths that take a chat or a text completion."""

    @pytest.mark.parametrize("new", [tokenize_pb2.CountTokensRequest, tokenize_pb2.TokenizeRequest])
    def test_kinds(self, new: Any) -> None:
        decode = Decoder(new.DESCRIPTOR).decode
        chat = Decoder(chat_pb2.CreateChatCompletionRequest.DESCRIPTOR).decode
        text = Decoder(completion_pb2.CreateCompletionRequest.DESCRIPTOR).decode
        for document in (ASK, {**ASK, "prompt": "p"}, {"model": "m", "input_ids": [1]}, {"inputIds": [1]}):
            assert decode(document) == new(chat=chat(document))
        for document in ({"model": "m", "prompt": ["a", [1]]}, {"prompt": "p", "messages": None}, {}):
            assert decode(document) == new(completion=text(document))

    def test_faults_are_those_of_the_request(self) -> None:
        decode = Decoder(tokenize_pb2.CountTokensRequest.DESCRIPTOR).decode
        assert fault(decode, {**ASK, "temperature": "x"}).field == "temperature"
        assert fault(decode, {"prompt": [1, "a"]}).field == "prompt[1]"
        # `suffix` is refused in text completions, `chat_template` in chats; elsewhere they are unknown.
        assert fault(decode, {"prompt": "p", "suffix": "s"}).reason == "UNSUPPORTED_PARAMETER"
        assert fault(decode, {**ASK, "chat_template": "t"}).reason == "UNSUPPORTED_PARAMETER"
        assert decode({**ASK, "suffix": "s", "me": 1}) == decode(ASK)

    def test_own_members(self) -> None:
        made: Any = Decoder(tokenize_pb2.TokenizeRequest.DESCRIPTOR).decode(
            {"prompt": "p", "add_special_tokens": False}
        )
        assert (made.completion.prompt[0].text, made.add_special_tokens) == ("p", False)

    def test_required_members(self) -> None:
        fields = json_fields(message_spelling(tokenize_pb2.CountTokensRequest.DESCRIPTOR))
        assert [field.name for field in fields if field.required] == ["model"]


class TestNamesTwice:
    def test_the_jobs_priority_and_the_runtimes(self) -> None:
        decode: Any = Decoder(queue_pb2.EnqueueRequest.DESCRIPTOR).decode
        made = decode({**ASK, "priority": 2, "runtime_priority": 3})
        assert (made.priority, made.request.runtime_priority) == (2, 3)
        assert not decode({**ASK, "priority": 2}).request.HasField("runtime_priority")
        document = orjson.loads(Encoder(queue_pb2.EnqueueRequest.DESCRIPTOR).encode(made))
        assert (document["priority"], document["runtime_priority"]) == (2, 3)
        assert fault(decode, {**ASK, "runtime_priority": "x"}).field == "runtime_priority"

    def test_both_names_of_the_runtimes_priority(self) -> None:
        decode: Any = Decoder(chat_pb2.CreateChatCompletionRequest.DESCRIPTOR).decode
        assert decode({"priority": 3}) == decode({"runtime_priority": 3})

    def test_refused_members_of_an_inline_message(self) -> None:
        decode = Decoder(queue_pb2.EnqueueRequest.DESCRIPTOR).decode
        error = fault(decode, {**ASK, "rid": "x"})
        assert (error.field, error.reason) == ("rid", "UNSUPPORTED_PARAMETER")

    def test_the_other_name_alone(self) -> None:
        made = decoded("Outer", {"rank": 1, "inner_rank": 2, "left": {"size": 3}, "other": 4})
        assert (made.rank, made.inner.inner_rank, made.left.size) == (1, 2, 3)
        # The hidden field has no member at all.
        assert not made.inner.HasField("other")
        assert encoded("Outer", rank=1, inner={"inner_rank": 2, "other": {"seconds": 4}}) == {
            "object": "inner",
            "rank": 1,
            "inner_rank": 2,
        }
        assert encoded("Outer") == {"object": "inner", "rank": 0, "inner_rank": 0}
        assert {field.member for field in json_fields(message_spelling(SHAPES["Outer"]))} == {
            "rank",
            "inner_rank",
            "left",
        }

    def test_a_name_twice(self) -> None:
        outer = "message M { int32 a = 1; N n = 2 [$json.inline = true]; }"
        shapes = compile_messages(f"{outer} message N {{ string b = 1 [$json.name = 'a']; }}")
        assert message_spelling(shapes["M"]).inlines[0].renamed == {"a": "b"}
        with pytest.raises(SpellingError, match=r"M\.n: two members are named a"):
            message_spelling(compile_messages(f"{outer} message N {{ string a = 1; }}")["M"])
