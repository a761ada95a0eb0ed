"""The options of dialects: those that cannot work fail at start, and each works without the others."""

from typing import Any

import orjson
import pytest
from google.protobuf.message_factory import GetMessageClass

from inferd.rest_bridge.decode import Decoder
from inferd.rest_bridge.encode import Encoder
from inferd.rest_bridge.event_writer import EventWriter
from inferd.rest_bridge.events import event_encoders
from inferd.rest_bridge.field_spelling import field_speller
from inferd.rest_bridge.json_spelling import SpellingError, enum_spelling
from inferd.rest_bridge.router import Router
from inferd.services.net.timeouts import SharedTimeout
from tests.rest_bridge.faults import fault
from tests.rest_bridge.written_response import WrittenResponse
from tests.support.proto_source import compile_messages, compile_services

FLAT = "message M { option $message = {tag: 't' flat: true}; "


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("message M { option $message.flat = true; int32 i = 1; }", "M: flat and untagged need a tag"),
        ("message M { option $message.untagged = 'i'; int32 i = 1; }", "M: flat and untagged need a tag"),
        (
            "message M { option $message = {tag: 't' untagged: 'x'}; oneof o { int32 i = 1; } }",
            "M: untagged names no field: 'x'",
        ),
        (
            "message M { option $message = {tag: 't' untagged: 'j'}; oneof o { int32 i = 1; } int32 j = 2; }",
            "M: untagged names no field of the oneof: j",
        ),
        (
            f"{FLAT} oneof o {{ N n = 1; }} string s = 2; }} message N {{ string s = 1; }}",
            "M: flat: two members are named s",
        ),
        (f"{FLAT} oneof o {{ N n = 1; }} }} message N {{ string t = 1; }}", "two members are named t"),
        (f"{FLAT} oneof o {{ N n = 1; }} }} message N {{ string s = 1 [$json.name = 't']; }}", "are named t"),
        (
            "message M { option $message = {tag: 'object' flat: true}; oneof o { N n = 1; } }"
            "message N { option $message.object = 'n'; }",
            "two members are named object",
        ),
        (f"{FLAT} oneof o {{ M m = 1; }} }}", "M: flat: codec.test.M has no members"),
        (
            f"{FLAT} oneof o {{ N n = 1; }} }}"
            "message N { option $message.bare = true; repeated int32 i = 1; }",
            "N has no members",
        ),
        (f"{FLAT} oneof o {{ google.protobuf.Timestamp x = 1; }} }}", "Timestamp has no members"),
        (f"{FLAT} oneof o {{ google.rpc.Status x = 1; }} }}", "Status has no members"),
        (f"{FLAT} oneof o {{ google.protobuf.StringValue x = 1; }} }}", "StringValue has no members"),
        ("message M { option $message.shorthand = 'n'; N n = 1; } message N { string s = 1; }", "M: .*not n"),
        ("message M { option $message.shorthand = 's'; repeated string s = 1; }", "M: .*not s"),
        ("message M { option $message.shorthand = 'm'; M m = 1; }", "M: its shorthand contains itself"),
        (
            "message M { option $message.shorthand = 'n'; N n = 1; }"
            "message N { option $message.shorthand = 'm'; M m = 1; }",
            "shorthand contains itself",
        ),
        ("message M { option $message.shorthand_members = '{\"i\": 1}'; int32 i = 1; }", "needs a shorthand"),
        (
            "message M { option $message = {shorthand: 's' shorthand_members: '[]'}; string s = 1; }",
            "M: shorthand_members is no JSON object: '\\[\\]'",
        ),
        (
            "message M { option $message = {shorthand: 's' shorthand_members: '{\"i\": \"x\"}'};"
            " string s = 1; int32 i = 2; }",
            "M: shorthand_members: i: expected an integer, got a string",
        ),
        ("message M { option $message.event = 's'; string s = 1; }", "M: event names neither the tag nor"),
        ("message M { option $message.event = 'x'; string s = 1; }", "M: event names neither the tag nor"),
        (
            "message M { option $message = {bare: true event: 'e'}; E e = 1; } enum E { Z = 0; A = 1; }",
            "M: event names neither the tag nor",
        ),
        (
            "message M { option $message = {tag: 't' event: 't' shorthand: 'e'}; oneof o { E e = 1; } }"
            "enum E { Z = 0; A = 1; }",
            "M: event goes not with a shorthand",
        ),
        (
            "message M { option $message = {tag: 't' event: 't'};"
            "oneof o { int32 i = 1 [$json.name = 'a\\n']; } }",
            "M: event: a name is not one line",
        ),
        (
            "message M { option $message.event = 'e'; E e = 1; }"
            "enum E { Z = 0; A = 1 [$dialect_word = {dialect: 'other' value: '\\n'}]; }",
            "M: event: a name is not one line",
        ),
        ("message M { map<string, int32> m = 1 [$json.unknown = true]; }", "M.m: json.unknown needs a map"),
        ("message M { string s = 1 [$json.unknown = true]; }", "M.s: json.unknown needs a map"),
        (
            "message M { map<string, string> a = 1 [$json.unknown = true];"
            " map<string, string> b = 2 [$json.unknown = true]; }",
            "M: at most one field has json.unknown",
        ),
        (
            "message M { map<string, string> a = 1 [$json.unknown = true]; N n = 2 [$json.inline = true]; }"
            "message N {}",
            "M: json.unknown needs a plain object",
        ),
        ("message M { int32 i = 1 [$json.default_value = 'x']; }", "M.i: json.default_value cannot be x"),
        ("message M { int32 i = 1 [$json.default_value = '\"x\"']; }", 'M.i: .* cannot be "x"'),
        ("message M { repeated int32 i = 1 [$json.default_value = '1']; }", "M.i: .* cannot be 1"),
        (
            "message M { optional int32 i = 1 [$json = {default_value: '1' null_when_unset: true}]; }",
            "M.i: json.default_value needs",
        ),
        (
            "enum E { Z = 0; A = 1 [$word = 'a'];"
            " B = 2 [$word = 'b', $dialect_word = {dialect: 'd' value: 'a'}]; } message M { E e = 1; }",
            "E: two values have the same json_value",
        ),
        (
            "enum E { Z = 0; A = 1; B = 2 [$dialect_word = {dialect: 'd' value: 'b'}]; }"
            "message M { E e = 1; }",
            "E: A has no json_value",
        ),
    ],
)
def test_bad_options_are_errors_at_start(source: str, names: str) -> None:
    message = compile_messages(source)["M"]
    with pytest.raises(SpellingError, match=names):
        Decoder(message, "d")
        Encoder(message, "d")


@pytest.mark.parametrize(
    ("dialect", "fault"),
    [
        ("{errors: {}}", "a dialect needs a name"),
        ('{name: "d" errors: {envelope: "{"}}', "an envelope is no JSON: '{'"),
        ("{name: 'd' errors: {event_envelope: '{\"a\": \"{status}\"}'}}", "an error has no part 'status'"),
        ('{name: "d" errors: {event: "a\\nb"}}', "not one line"),
        ('{name: "d" errors: {kinds: {status: 200}}}', "200 is no HTTP status of an error"),
    ],
)
@pytest.mark.parametrize("of_method", [False, True])
def test_bad_dialects_are_errors_at_start(dialect: str, fault: str, of_method: bool) -> None:
    of_service = "" if of_method else f"$dialect = {dialect};"
    rpc = f"option (inferd.options.v1.method_dialect) = {dialect};" if of_method else ""
    source = f"""message Q {{}} service S {{ {of_service}
      rpc A(Q) returns (Q) {{ $http = {{post: "/a" body: "*"}}; {rpc} }} }}"""
    with pytest.raises(SpellingError, match=f"rest.test.S{'.A' if of_method else ''}: .*{fault}"):
        Router(compile_services(source))


SHAPES = compile_messages("""
message Mixed {
  option $message = {tag: 'kind' flat: true tag_after: 'id'};
  optional string id = 1; int32 rank = 2;
  oneof item { Named named = 3 [$json.name = 'by-name']; string text = 4; Deep deep = 5; }
}
message Named { string name = 1; }
message Deep { Mixed within = 1; Named inner = 2 [$json.inline = true]; repeated Mixed list = 3; }
message Untagged {
  option $message = {tag: 'kind' untagged: 'text'};
  oneof item { string text = 1; int32 number = 2; }
}
message Kept { int32 i = 1 [$json.name = 'n']; map<string, string> rest = 2 [$json.unknown = true]; }
message Outer { Kept kept = 1 [$json.inline = true]; string own = 2; Secret secret = 3; }
message Secret { string key = 1 [(google.api.field_behavior) = INPUT_ONLY]; string id = 2; }
message Kinds { option $message.event = 'kind'; E kind = 1; string text = 2; }
enum E { Z = 0; A = 1 [$word = 'a', $dialect_word = {dialect: 'd' value: 'other'}]; B = 2 [$word = 'b']; }
""")


def encoded(name: str, **fields: Any) -> Any:
    return orjson.loads(Encoder(SHAPES[name]).encode(GetMessageClass(SHAPES[name])(**fields)))


def decoded(name: str, document: Any) -> Any:
    return Decoder(SHAPES[name]).decode(document)


class TestFlat:
    @pytest.mark.parametrize(
        ("fields", "document"),
        [
            ({"id": "i", "named": {"name": "n"}}, {"rank": 0, "id": "i", "kind": "by-name", "name": "n"}),
            ({"id": "", "text": "t"}, {"rank": 0, "id": "", "kind": "text", "text": "t"}),
            (
                {"id": "i", "deep": {"within": {"id": "j", "text": ""}, "inner": {"name": "n"}}},
                {
                    "rank": 0,
                    "id": "i",
                    "kind": "deep",
                    "name": "n",
                    "list": [],
                    "within": {"rank": 0, "id": "j", "kind": "text", "text": ""},
                },
            ),
        ],
    )
    def test_both_ways(self, fields: dict[str, Any], document: dict[str, Any]) -> None:
        assert encoded("Mixed", **fields) == document
        assert decoded("Mixed", document) == GetMessageClass(SHAPES["Mixed"])(**fields)

    def test_the_tags_place(self) -> None:
        assert list(encoded("Mixed", id="i", named={})) == ["rank", "id", "kind", "name"]
        assert encoded("Mixed", named={"name": "n"}) == {"rank": 0, "name": "n"}
        assert encoded("Mixed") == {"rank": 0}

    @pytest.mark.parametrize(
        ("document", "field"),
        [
            ({}, "kind"),
            ({"name": "n"}, "kind"),
            ({"kind": "named"}, "kind"),
            ({"kind": "by-name", "name": 5}, "name"),
            ({"kind": "by-name", "rank": "x"}, "rank"),
            ({"kind": "text"}, "text"),
            ({"kind": "deep", "list": [{"kind": "text", "text": 5}]}, "list[0].text"),
        ],
    )
    def test_faults(self, document: dict[str, Any], field: str) -> None:
        assert fault(decoded, "Mixed", document).field == field

    def test_members_of_other_kinds_are_ignored(self) -> None:
        assert decoded("Mixed", {"kind": "text", "text": "t", "name": 5}).text == "t"

    def test_paths_of_the_services(self) -> None:
        spell = field_speller(SHAPES["Mixed"])
        assert spell("named.name") == "name"
        assert spell("deep.list[3].deep.inner.name") == "list[3].name"
        assert spell("text") == "text"

    def test_untagged(self) -> None:
        assert decoded("Untagged", {"text": "t"}).text == "t"
        assert fault(decoded, "Untagged", {"number": 1}).field == "text"
        assert decoded("Untagged", {"kind": "number", "number": 1}).number == 1


class TestUnknown:
    def test_both_ways(self) -> None:
        document = {"n": 1, "x": {"b": [None], "a": "é"}, "y": False}
        made = decoded("Kept", document | {"z": None})
        assert dict(made.rest) == {"x": '{"b":[null],"a":"é"}', "y": "false"}
        assert orjson.loads(Encoder(SHAPES["Kept"]).encode(made)) == document

    def test_members_of_fields_win(self) -> None:
        assert encoded("Kept", i=1, rest={"n": "2", "i": "3", "x": "4", "empty": ""}) == {"n": 1, "x": 4}

    def test_inline(self) -> None:
        made = decoded("Outer", {"own": "o", "secret": {"key": "k"}, "x": 1})
        assert dict(made.kept.rest) == {"x": "1"}
        assert encoded("Outer", kept={"rest": {"own": '"x"', "x": "1"}}, own="o") == {
            "n": 0,
            "own": "o",
            "x": 1,
        }

    def test_one_line(self) -> None:
        event = event_encoders(SHAPES["Kept"])()
        made = GetMessageClass(SHAPES["Kept"])(rest={"x": '{\r\n "a": "\\n"\n}'})
        assert event(made) == b'data: {"n":0,"x":{   "a": "\\n" }}\n\n'

    def test_depth(self) -> None:
        deep: Any = []
        for _ in range(300):
            deep = [deep]
        assert fault(decoded, "Kept", {"x": deep}).message == "x is nested too deeply"


def test_input_only_fields_are_not_written() -> None:
    assert decoded("Secret", {"key": "k", "id": "i"}).key == "k"
    assert encoded("Secret", key="k", id="i") == {"id": "i"}


def test_words_of_a_dialect() -> None:
    words = enum_spelling(SHAPES["Kinds"].fields_by_name["kind"].enum_type, "d")
    assert words.words == {1: "other", 2: "b"}
    made: Any = Decoder(SHAPES["Kinds"], "d").decode({"kind": "other"})
    assert made.kind == 1
    assert fault(Decoder(SHAPES["Kinds"], "d").decode, {"kind": "a"}).field == "kind"
    assert orjson.loads(Encoder(SHAPES["Kinds"], "d").encode(made))["kind"] == "other"
    assert encoded("Kinds", kind=1)["kind"] == "a"


def test_events_by_an_enum() -> None:
    event, new = event_encoders(SHAPES["Kinds"], "d")(), GetMessageClass(SHAPES["Kinds"])
    assert event(new(kind=1)) == b'event: other\ndata: {"text":"","kind":"other"}\n\n'
    assert event(new(text="t")) == b'data: {"text":"t"}\n\n'


async def test_text_sinks_keep_the_names_of_events() -> None:
    response: Any = WrittenResponse()
    message = GetMessageClass(SHAPES["Kinds"])(kind=2)
    encode = event_encoders(SHAPES["Kinds"])()
    with EventWriter(None, response, encode, SharedTimeout(5)) as writer:
        texts = writer.text_sink(message, message, "text")
        for text in ("a", "\n"):
            texts.push(text)
    event = b'event: b\ndata: {"text":"%b","kind":"b"}\n\n'
    assert response.data == event % b"a" + event % b"\\n"
