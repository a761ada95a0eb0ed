"""JSON to messages that inferd's own protos do not have: each option of a field, a message or an enum."""

from typing import Any

import pytest
from google.protobuf import json_format

from inferd.rest_bridge.decode import Decoder
from inferd.rest_bridge.field_spelling import field_speller
from inferd.rest_bridge.json_body import parse
from inferd.rest_bridge.json_spelling import SpellingError
from inferd.services.calls.field_limits import check_limits
from inferd.v1 import chat_pb2, queue_pb2
from tests.rest_bridge.faults import fault
from tests.support.proto_source import compile_messages

SHAPES = compile_messages("""
message Tree { string name = 1; repeated Tree children = 2; map<string, Tree> by_name = 3; Tree next = 4; }
message Pair { oneof pair { string a = 1; int32 b = 2; } }
message Value {
  option $message.bare = true;
  oneof value { string text = 1; double number = 2; bool truth = 3; Values list = 4; Named object = 5; }
}
message Values { option $message.bare = true; repeated Value values = 1; }
message Named { option $message.bare = true; map<string, Value> values = 1; }
message Kinds {
  float single = 1; bytes data = 2; bytes list = 3 [$json.byte_list = true]; map<bool, int64> truth = 4;
  Plain plain = 5; uint64 big = 6; Value any = 7;
}
enum Plain { PLAIN_UNSPECIFIED = 0; PLAIN_ONE = 1; }
message Known {
  google.protobuf.Timestamp at = 1; google.protobuf.Duration took = 2; google.protobuf.StringValue text = 3;
  google.protobuf.FieldMask mask = 4; repeated google.protobuf.Timestamp times = 5;
  map<int32, google.protobuf.Duration> durations = 6;
}
""")


class TestOtherShapes:
    """Protos of other services work without a change to the codec."""

    def test_recursion(self) -> None:
        decoder = Decoder(SHAPES["Tree"])
        tree = {"name": "a", "children": [{"name": "b"}], "by_name": {"c": {"next": {"name": "d"}}}}
        assert decoder.decode(tree) == json_format.ParseDict(tree, decoder.decode({}))
        assert fault(decoder.decode, {"by_name": {"c": {"next": []}}}).field == 'by_name["c"].next'

    def test_depth(self) -> None:
        body = b'{"next":' * 1000 + b"{}" + b"}" * 1000
        assert fault(Decoder(SHAPES["Tree"]).decode, parse(body)).message == "the body is nested too deeply"

    def test_oneof(self) -> None:
        decoder: Any = Decoder(SHAPES["Pair"])
        assert decoder.decode({"a": "x", "b": None}).a == "x"
        error = fault(decoder.decode, {"a": "x", "b": 1})
        assert (error.field, error.message) == ("b", "b cannot stand beside a")

    def test_bare_unions(self) -> None:
        made: Any = Decoder(SHAPES["Kinds"]).decode({"any": {"a": [1, "x", True, None, {"b": 2.5}]}})
        values = made.any.object.values["a"].list.values
        assert [value.WhichOneof("value") for value in values] == ["number", "text", "truth", None, "object"]

    def test_scalars(self) -> None:
        decoder: Any = Decoder(SHAPES["Kinds"])
        made = decoder.decode({"single": 0.5, "data": "-_8", "list": [0, 255], "truth": {"true": 1}})
        assert (made.single, made.data, made.list, made.truth) == (0.5, b"\xfb\xff", b"\0\xff", {True: 1})
        assert decoder.decode({"plain": "PLAIN_ONE", "big": 2**64 - 1}).plain == 1
        for document, field in (
            ({"single": 1e39}, "single"),
            ({"data": "a"}, "data"),
            ({"data": "é"}, "data"),
            ({"list": [256]}, "list[0]"),
            ({"list": "AAAA"}, "list"),
            ({"truth": {"True": 1}}, 'truth["True"]'),
            ({"plain": "PLAIN_UNSPECIFIED"}, "plain"),
            ({"big": 2.0**64}, "big"),
        ):
            assert fault(decoder.decode, document).field == field

    def test_well_known_types(self) -> None:
        decoder = Decoder(SHAPES["Known"])
        document = {
            "at": "2024-02-29T12:00:00.5Z",
            "took": "1.5s",
            "text": "",
            "mask": "a.b,c",
            "times": ["1970-01-01T00:00:00Z"],
            "durations": {"-1": "-3s"},
        }
        assert decoder.decode(document) == json_format.ParseDict(document, decoder.decode({}))
        for member, value in (("at", "yesterday"), ("took", "1.5"), ("took", "1e999s"), ("mask", "_")):
            assert fault(decoder.decode, {member: value}).field == member

    @pytest.mark.parametrize(
        ("member", "number", "text"),
        [
            ("at", 0, "1970-01-01T00:00:00Z"),
            ("at", 1700000000, "2023-11-14T22:13:20Z"),
            # Not the nearest binary fraction, which is 123000144 nanoseconds.
            ("at", 1700000000.123, "2023-11-14T22:13:20.123Z"),
            ("at", -0.5, "1969-12-31T23:59:59.500Z"),
            ("at", -62135596800, "0001-01-01T00:00:00Z"),
            ("at", 253402300799, "9999-12-31T23:59:59Z"),
            ("took", 90, "90s"),
            ("took", 1.5, "1.500s"),
            ("took", -1.5, "-1.500s"),
            ("took", 1e-9, "0.000000001s"),
            ("took", 315576000000, "315576000000s"),
        ],
    )
    def test_times_as_numbers(self, member: str, number: float, text: str) -> None:
        decoder: Any = Decoder(SHAPES["Known"])
        made = decoder.decode({member: number})
        assert made == decoder.decode({member: text})
        assert getattr(made, member).ToJsonString() == text

    @pytest.mark.parametrize(
        ("member", "value", "message"),
        [
            ("at", 253402300800, ": expected -62135596800 to 253402300799 seconds, got 253402300800"),
            ("at", -62135596801, ": expected -62135596800 to 253402300799 seconds, got -62135596801"),
            ("at", 1e308, ": expected -62135596800 to 253402300799 seconds, got 1e+308"),
            ("at", 2.0**70, ": expected -62135596800 to 253402300799 seconds, got 1.1805916207174113e+21"),
            ("took", -315576000001, ": expected -315576000000 to 315576000000 seconds, got -315576000001"),
            ("at", "x", ': expected a time such as "2026-11-23T18:00:00Z", or Unix seconds, got "x"'),
            ("at", True, ': expected a time such as "2026-11-23T18:00:00Z", or Unix seconds, got a boolean'),
            ("at", "5", ': expected a time such as "2026-11-23T18:00:00Z", or Unix seconds, got "5"'),
            ("took", [], ': expected a duration such as "3600s", or seconds, got a list'),
            ("mask", 5, ": expected a FieldMask, as proto3 JSON spells it, got an integer"),
            ("times", [0, {}], "[1]: expected a time such as"),
        ],
    )
    def test_no_times(self, member: str, value: Any, message: str) -> None:
        error = fault(Decoder(SHAPES["Known"]).decode, {member: value})
        assert error.message.startswith(f"{member}{message}")
        assert error.reason == (
            "OUT_OF_RANGE"
            if "seconds, got" in message and type(value) in (int, float) and value is not True
            else "INVALID_ARGUMENT"
        )


INLINE = compile_messages("""
message Outer {
  string own = 1; optional string both = 2 [$json.hides_inline = true];
  string long_name = 3 [$json = {name: 'short' hides_inline: true}];
  Middle middle = 4 [$json.inline = true]; Other other = 5;
}
message Middle { int32 count = 1; Inner inner = 2 [$json.inline = true]; Outer again = 3; }
message Inner {
  string both = 1; string deep = 2 [$limits.max_length = 3]; string long_name = 3;
  oneof one { int32 a = 4; int32 b = 5; }
}
message Other { repeated Inner list = 1; }
message Strict { Needy needy = 1 [$json.inline = true, $required]; int32 own = 2; }
message Needy { optional string name = 1 [$required]; optional string text = 2; }
message Loose { Free free = 1 [$json.inline = true, $required]; }
message Free { optional string text = 1; }
message Voluntary { Needy needy = 1 [$json.inline = true]; int32 own = 2; }
message Short { option $message.shorthand = 'name'; string name = 1; Free free = 2 [$json.inline = true]; }
message Holder { repeated Short list = 1; }
""")


class TestInline:
    """Members of a message within a message, in one object."""

    def test_one_object(self) -> None:
        made: Any = Decoder(INLINE["Outer"]).decode({"own": "o", "count": 3, "deep": "d", "unknown": 1})
        assert (made.own, made.middle.count, made.middle.inner.deep) == ("o", 3, "d")

    def test_the_holder_wins(self) -> None:
        decoder: Any = Decoder(INLINE["Outer"])
        made = decoder.decode({"both": "x", "short": "y", "long_name": "z", "deep": "d"})
        assert (made.both, made.long_name) == ("x", "z")
        assert (made.middle.inner.both, made.middle.inner.long_name) == ("", "")
        assert not decoder.decode({"both": None}).HasField("middle")

    def test_the_field_itself_is_no_member(self) -> None:
        decoder: Any = Decoder(INLINE["Outer"])
        assert decoder.decode({"middle": {"count": 1}, "inner": {"deep": "d"}}) == decoder.decode({})

    def test_unset_where_none_of_its_members_is_given(self) -> None:
        decoder: Any = Decoder(INLINE["Outer"])
        assert not decoder.decode({"own": "o", "count": None, "unknown": 1}).HasField("middle")
        made = decoder.decode({"count": 1})
        assert made.HasField("middle") and not made.middle.HasField("inner")

    def test_recursion(self) -> None:
        made: Any = Decoder(INLINE["Outer"]).decode({"again": {"count": 2, "again": {"deep": "d"}}})
        assert made.middle.again.middle.count == 2
        assert made.middle.again.middle.again.middle.inner.deep == "d"

    @pytest.mark.parametrize(
        ("document", "field"),
        [
            ({"own": 1}, "own"),
            ({"count": "x"}, "count"),
            ({"deep": 1}, "deep"),
            ({"a": 1, "b": 2}, "b"),
            ({"again": {"count": "x"}}, "again.count"),
            ({"other": {"list": [{}, {"deep": 1}]}}, "other.list[1].deep"),
        ],
    )
    def test_paths(self, document: dict[str, Any], field: str) -> None:
        error = fault(Decoder(INLINE["Outer"]).decode, document)
        assert error.field == field
        assert error.message.startswith(field)

    def test_beside_a_shorthand(self) -> None:
        made: Any = Decoder(INLINE["Holder"]).decode({"list": ["n", {"name": "n", "text": "t"}]})
        assert [(short.name, short.free.text) for short in made.list] == [("n", ""), ("n", "t")]

    def test_the_queues_own(self) -> None:
        decoder = Decoder(queue_pb2.EnqueueRequest.DESCRIPTOR)
        conversation = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
        made: Any = decoder.decode({**conversation, "priority": 2, "wait_seconds": 1})
        assert made.request == Decoder(chat_pb2.CreateChatCompletionRequest.DESCRIPTOR).decode(conversation)
        assert (made.priority, made.wait.seconds) == (2, 1)

    @pytest.mark.parametrize(
        ("name", "document", "field"),
        [
            ("Outer", {"deep": "long"}, "middle.inner.deep"),
            ("Outer", {"again": {"deep": "long", "a": 1}}, "middle.again.middle.inner.deep"),
            ("Strict", {}, "needy.name"),
            ("Strict", {"own": 1}, "needy.name"),
            ("Strict", {"text": "t"}, "needy.name"),
            ("Voluntary", {"text": "t"}, "needy.name"),
        ],
    )
    def test_limits(self, name: str, document: dict[str, Any], field: str) -> None:
        error = fault(check_limits, Decoder(INLINE[name]).decode(document))
        assert error.field == field
        assert error.message.startswith(field)
        # The bridge leaves the names of inline fields out.
        assert field_speller(INLINE[name])(field) in ("deep", "again.deep", "name")

    @pytest.mark.parametrize(
        ("name", "document"),
        [
            ("Outer", {"deep": "abc", "a": 1}),
            ("Strict", {"name": "n"}),
            ("Loose", {"text": ""}),
            ("Loose", {}),
            ("Voluntary", {"own": 1}),
        ],
    )
    def test_within_limits(self, name: str, document: dict[str, Any]) -> None:
        check_limits(Decoder(INLINE[name]).decode(document))


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("message M { string s = 1 [$json.shorthand = true]; }", "M.s"),
        ("message M { int32 i = 1 [$json.raw = true]; }", "M.i"),
        ("message M { string s = 1 [$json.byte_list = true]; }", "M.s"),
        ("message M { string s = 1 [$json.omit_when_empty = true]; }", "M.s"),
        ("message M { string s = 1 [$json.null_when_unset = true]; }", "M.s"),
        ("message M { string a = 1; string b = 2 [$json.name = 'a']; }", "M: .*'a'"),
        ("message M { option $message.object = 'm'; string object = 1; }", "M: .*'object'"),
        ("message M { option $message.tag = 'type'; string type = 1; }", "M: .*'type'"),
        ("message M { option $message.tag = 'type'; string s = 1; }", "M: .*one oneof"),
        ("message M { option $message.bare = true; string a = 1; string b = 2; }", "M: .*one field"),
        (
            "message M { option $message.bare = true; oneof o { string a = 1; bytes b = 2; } }",
            "M: a and b",
        ),
        ("message M { option $message.bare = true; M m = 1; }", "M: .*itself"),
        ("message M { option $message.shorthand = 'x'; string a = 1; }", "M: .*'x'"),
        ("message M { option $message.shorthand = 'a'; int32 a = 1; }", "M: .*a"),
        ("message M { option $message = {bare: true, tag: 't'}; oneof o { int32 a = 1; } }", "M: .*bare"),
        (
            "message M { repeated L l = 1 [$json.shorthand = true]; }"
            "message L { option $message.bare = true; oneof o { string a = 1; N n = 2; } }"
            "message N { option $message.bare = true; repeated string s = 1; }",
            "M.l",
        ),
        ("enum E { Z = 0; A = 1 [$word = 'a']; B = 2; } message M { E e = 1; }", "E: B"),
        ("enum E { Z = 0; A = 1 [$word = 'a']; B = 2 [$word = 'a']; } message M { E e = 1; }", "E: .*same"),
        ("message M { string s = 1 [$json.inline = true]; }", "M.s: json.inline needs"),
        ("message M { repeated N n = 1 [$json.inline = true]; } message N {}", "M.n: json.inline needs"),
        ("message M { map<string, N> n = 1 [$json.inline = true]; } message N {}", "M.n: json.inline needs"),
        (
            "message M { N a = 1 [$json.inline = true]; N b = 2 [$json.inline = true]; } message N {}",
            "M: at most one field",
        ),
        ("message M { M m = 1 [$json.inline = true]; }", "M.m: .*contains itself"),
        (
            "message M { N n = 1 [$json.inline = true]; } message N { M m = 1 [$json.inline = true]; }",
            "N.m: .*M contains itself",
        ),
        (
            "message M { oneof o { N n = 1 [$json.inline = true]; int32 i = 2; } } message N {}",
            "M: all fields of a oneof",
        ),
        (
            "message M { oneof o { N n = 1 [$json.inline = true]; N p = 2 [$json.inline = true]; } }"
            "message N {}",
            "M: only one inline field",
        ),
        (
            "message M { oneof o { N n = 1 [$json = {inline: true selected_by: 'x'}]; } } message N {}",
            "M.n: json.selected_by names no member: 'x'",
        ),
        (
            "message M { N n = 1 [$json = {inline: true selected_by: 'i'}]; } message N { int32 i = 1; }",
            "M: json.selected_by needs a field of a oneof",
        ),
        ("message M { int32 i = 1 [$json.selected_by = 'i']; }", "M.i: json.selected_by needs an inline"),
        ("message M { int32 i = 1 [$json.hides_inline = true]; }", "M: json.hides_inline needs"),
        (
            "message M { int32 i = 1; N n = 2 [$json.inline = true]; } message N { string i = 1; }",
            "M.n: two members are named i",
        ),
        (
            "message M { int32 object = 1; N n = 2 [$json.inline = true]; }"
            "message N { option $message.object = 'n'; }",
            "M.n: two members are named object",
        ),
        (
            "message M { option $message.object = 'm'; N n = 2 [$json.inline = true]; }"
            "message N { string object = 1; }",
            "M.n: two members are named object",
        ),
        (
            "message M { string i = 1; N n = 2 [$json.inline = true]; }"
            "message N { google.protobuf.Timestamp t = 1 [$json.also_seconds = 'i']; }",
            "M.n: two members are named t, one of i",
        ),
        ("message M { int32 i = 1 [$json.seconds = true]; }", "M.i: json.seconds needs"),
        (
            "message M { google.protobuf.Duration d = 1 [$json.also_seconds = 's']; }",
            "M.d: json.also_seconds needs",
        ),
        (
            "message M { string s = 1; google.protobuf.Timestamp t = 2 [$json.also_seconds = 's']; }",
            "M: the member 's' is both s and t",
        ),
        ("message M { repeated int32 i = 1 [$json.pairs = true]; }", "M.i: json.pairs needs"),
        ("message M { N n = 1 [$json.pairs = true]; } message N { string a = 1; int32 b = 2; }", "M.n"),
        (
            "message M { repeated N n = 1 [$json.pairs = true]; } message N { int32 a = 1; int32 b = 2; }",
            "M.n: json.pairs needs",
        ),
        (
            "message M { option $message = {tag: 't' tag_after: 'x'}; oneof o { int32 a = 1; } }",
            "M: tag_after names no field: 'x'",
        ),
        (
            "message M { option $message = {tag: 't' tag_after: 'a'}; oneof o { int32 a = 1; } }",
            "M: tag_after names a field of the oneof: a",
        ),
        ("message M { option $message.tag_after = 'a'; int32 a = 1; }", "M: tag_after needs a tag"),
        (
            "message M { option $message.bare = true; N n = 1 [$json.inline = true]; } message N {}",
            "M: a bare or tagged",
        ),
        (
            "message M { N n = 1 [$json.inline = true]; }"
            "message N { option $message.bare = true; string s = 1; }",
            "N has no members",
        ),
        ("message M { google.protobuf.Timestamp t = 1 [$json.inline = true]; }", "Timestamp has no members"),
        ("message M { google.rpc.Status s = 1 [$json.inline = true]; }", "Status has no members"),
        (
            "message M { N n = 1 [$json = {inline: true, null_when_unset: true}]; } message N {}",
            "M.n: json.null_when_unset",
        ),
        ("message M { string s = 1 [$json.comment = true]; }", "M: json.comment"),
        (
            "message M { option $message.bare = true;"
            " oneof o { string s = 1; google.protobuf.Timestamp t = 2; } }",
            "M: s and t",
        ),
        ("message M { google.protobuf.Struct s = 1; }", "Struct is not supported"),
        ("message M { google.protobuf.Any s = 1; }", "Any is not supported"),
    ],
)
def test_bad_options_are_errors_at_start(source: str, names: str) -> None:
    with pytest.raises(SpellingError, match=names):
        Decoder(compile_messages(source)["M"])
