"""JSON to messages: every form that OpenAI's JSON has, and the error of every form that it has not."""

from typing import Any

import grpc
import orjson
import pytest
from google.protobuf import json_format
from inferd.rest_bridge.decode import Decoder
from inferd.rest_bridge.json_body import flag, parse
from inferd.rest_bridge.json_spelling import SpellingError
from inferd.services.calls.field_limits import check_limits
from inferd.services.errors import ServiceError
from inferd.v1 import chat_pb2, completion_pb2, message_pb2, queue_pb2, tokenize_pb2

from tests.support.proto_source import compile_messages

CHAT = Decoder(chat_pb2.CreateChatCompletionRequest.DESCRIPTOR)
COMPLETION = Decoder(completion_pb2.CreateCompletionRequest.DESCRIPTOR)


def chat(**document: Any) -> Any:
    return CHAT.decode(parse(orjson.dumps(document)))


def completion(**document: Any) -> Any:
    return COMPLETION.decode(parse(orjson.dumps(document)))


def said(content: Any) -> Any:
    """The parts of a message's content."""
    return list(chat(messages=[{"role": "user", "content": content}]).messages[0].content)


def fault(call: Any, *args: Any, **kwargs: Any) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        call(*args, **kwargs)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    return caught.value


def tool(kind: Any = "function", **function: Any) -> dict[str, Any]:
    return {"type": kind, "function": function}


class TestParse:
    def test_object(self) -> None:
        assert parse(b' {"a": [1, "\\u0000"]}\n') == {"a": [1, "\0"]}

    @pytest.mark.parametrize(
        ("body", "line", "column"),
        [
            (b"", 1, 1),
            (b"  ", 1, 1),
            (b"{", 1, 2),
            (b'{"a": }', 1, 7),
            ('{"é😀":1,\n "é😀": x}'.encode(), 2, 8),
            (b'{"a": NaN}', 1, 7),
            (b'{"a":\n "\xff"}', 2, 3),
            ('{"é": "'.encode() + b"\xff", 1, 8),
            (b"\xff\xfe", 1, 1),
            (b"[" * 5000 + b"]" * 5000, 1, 1026),
        ],
    )
    def test_malformed(self, body: bytes, line: int, column: int) -> None:
        error = fault(parse, body)
        assert error.reason == "MALFORMED_JSON"
        assert error.field is None
        assert error.metadata == {"line": str(line), "column": str(column)}
        assert f"line {line}, column {column}" in error.message

    def test_why(self) -> None:
        assert fault(parse, b"").message.endswith("the body is empty")
        assert fault(parse, b'"\xff"').message.endswith("invalid UTF-8")
        assert "surrogate" in fault(parse, b'{"a": "\\ud800"}').message

    @pytest.mark.parametrize(("body", "kind"), [(b"[]", "a list"), (b"null", "null"), (b'"x"', "a string")])
    def test_not_an_object(self, body: bytes, kind: str) -> None:
        error = fault(parse, body)
        assert (error.field, error.message) == (None, f"the body must be a JSON object, not {kind}")


def test_flag() -> None:
    assert flag({"stream": True}, "stream") is True
    assert [flag(document, "stream") for document in ({}, {"stream": None}, {"stream": False})] == [False] * 3
    error = fault(flag, {"stream": 1}, "stream")
    assert (error.field, error.message) == ("stream", "stream: expected a boolean, got an integer")


class TestMembers:
    def test_names(self) -> None:
        assert chat(max_tokens=3).max_tokens == chat(maxTokens=3).max_tokens == 3

    def test_what_would_not_be_done_is_refused(self) -> None:
        error = fault(chat, model="m", rid="x")
        assert (error.field, error.reason) == ("rid", "UNSUPPORTED_PARAMETER")
        assert error.message.startswith("rid is not supported: ")
        assert chat(model="m", rid=None, session_params={}, watermark=False, bootstrap_port=0) == chat(
            model="m"
        )

    def test_unknown_members_are_ignored(self) -> None:
        assert chat(model="m", me="me", own={"a": [1]}) == chat(model="m")

    def test_null_is_unset(self) -> None:
        document = {field.name: None for field in chat_pb2.CreateChatCompletionRequest.DESCRIPTOR.fields}
        assert chat(**document) == chat_pb2.CreateChatCompletionRequest()
        assert chat(messages=[{"role": "user", "content": None, "name": None}]) == chat(
            messages=[{"role": "user"}]
        )

    def test_presence(self) -> None:
        request = chat(temperature=0, prompt="", stream_options={})
        assert [field.name for field, _ in request.ListFields()] == [
            "prompt",
            "stream_options",
            "temperature",
        ]

    def test_json_name(self) -> None:
        shapes = compile_messages("message M { repeated string models = 1 [$json.name = 'data']; }")
        decoder = Decoder(shapes["M"])
        assert decoder.decode({"data": ["a"]}) == decoder.decode({"models": ["a"]})


class TestTypes:
    def test_numbers(self) -> None:
        request = chat(max_tokens=5.0, top_k=-1, seed=-(2**63), temperature=1, top_p=0.5)
        assert (request.max_tokens, request.top_k, request.seed) == (5, -1, -(2**63))
        assert (request.temperature, request.top_p) == (1.0, 0.5)

    @pytest.mark.parametrize(
        ("member", "value", "message"),
        [
            ("model", 5, "model: expected a string, got an integer"),
            ("temperature", "1", "temperature: expected a number, got a string"),
            ("temperature", True, "temperature: expected a number, got a boolean"),
            ("max_tokens", "5", "max_tokens: expected an integer, got a string"),
            ("max_tokens", True, "max_tokens: expected an integer, got a boolean"),
            ("max_tokens", 1.5, "max_tokens: expected an integer, got 1.5"),
            ("max_tokens", -1, "max_tokens: expected an integer from 1 to 4294967295, got -1"),
            ("max_tokens", 2**32, "max_tokens: expected an integer from 1 to 4294967295, got 4294967296"),
            ("maxTokens", {}, "maxTokens: expected an integer, got an object"),
            ("top_k", -(2**31) - 1, "top_k: expected an integer from -1 to 2147483647, got"),
            (
                "seed",
                2**63,
                "seed: expected an integer from -9223372036854775808 to 9223372036854775807, got",
            ),
            ("seed", 1e300, "seed: expected an integer from -9223372036854775808"),
            ("ignore_eos", 1, "ignore_eos: expected a boolean, got an integer"),
            ("ignore_eos", "true", "ignore_eos: expected a boolean, got a string"),
            ("messages", {}, "messages: expected a list, got an object"),
            ("messages", [None], "messages[0]: expected an object, got null"),
            ("stream_options", [], "stream_options: expected an object, got a list"),
            ("stop", ["a", 1], "stop[1]: expected a string, got an integer"),
            ("stop", ["a", None], "stop[1]: expected a string, got null"),
            ("stop", 5, "stop: expected a string or a list, got an integer"),
            ("stop_token_ids", [1, True], "stop_token_ids[1]: expected an integer, got a boolean"),
            ("stop_token_ids", [1, -1], "stop_token_ids[1]: expected an integer from 0 to"),
            ("stop_token_ids", 1, "stop_token_ids: expected a list, got an integer"),
        ],
    )
    def test_faults(self, member: str, value: Any, message: str) -> None:
        error = fault(chat, **{member: value})
        assert error.message.startswith(message)
        assert error.field == message.split(":")[0]

    def test_integers_beyond_64_bits(self) -> None:
        for seed in (b"36893488147419103232", b"-9223372036854775809"):
            assert fault(CHAT.decode, parse(b'{"seed": %b}' % seed)).field == "seed"

    def test_lists(self) -> None:
        assert chat(stop_token_ids=[1, 2.0, 3]).stop_token_ids == [1, 2, 3]
        assert chat(stop=["a", "b"]).stop == ["a", "b"]

    def test_enums(self) -> None:
        assert chat(messages=[{"role": "tool"}]).messages[0].role == message_pb2.ROLE_TOOL
        offered = 'expected "system", "user", "assistant", "tool", "developer" or "function", got'
        for role, got in (("ROLE_USER", '"ROLE_USER"'), ("", '""'), (2, "an integer"), ([], "a list")):
            error = fault(chat, messages=[{"role": "user"}, {"role": role}])
            assert (error.field, error.message) == ("messages[1].role", f"messages[1].role: {offered} {got}")
        assert len(fault(chat, messages=[{"role": "x" * 10_000}]).message) < 300

    def test_maps(self) -> None:
        assert chat(logit_bias={"123": 1.5, "7": -1}).logit_bias == {123: 1.5, 7: -1.0}
        for key in ("abc", "-1", "1.0", "", " 1", "1_0", "٣", str(2**32)):
            error = fault(chat, logit_bias={key: 1})
            assert error.field == f'logit_bias["{key}"]'
            assert "expected an integer from 0 to 4294967295 as the key" in error.message
        assert len(fault(chat, logit_bias={"9" * 5000: 1}).message) < 200
        assert fault(chat, logit_bias={"1": None}).field == 'logit_bias["1"]'
        assert fault(chat, logit_bias=[]).message == "logit_bias: expected an object, got a list"


class TestContent:
    def test_forms(self) -> None:
        hi = [message_pb2.ContentPart(text="hi")]
        assert said("hi") == said(["hi"]) == said([{"type": "text", "text": "hi"}]) == hi
        assert said({"type": "text", "text": "hi"}) == said([{"text": "hi"}]) == hi
        assert said(["a", {"type": "text", "text": "b"}]) == [
            message_pb2.ContentPart(text="a"),
            message_pb2.ContentPart(text="b"),
        ]
        assert said([]) == said(None) == []
        assert said("") == [message_pb2.ContentPart(text="")]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (
                ["a", {"type": "file", "file": {"file_id": "u"}}],
                '[1].type: expected "text", "image_url", "input_audio" or "refusal", got "file"',
            ),
            (
                [{"type": 5, "text": "x"}],
                '[0].type: expected "text", "image_url", "input_audio" or "refusal", got an integer',
            ),
            ([{"type": "text"}], "[0].text is required"),
            ([{"type": "text", "text": None}], "[0].text is required"),
            ([{"type": "text", "text": 1}], "[0].text: expected a string, got an integer"),
            ({"type": "text"}, ".text is required"),
            ([{}], "[0].type is required"),
            ([None], "[0]: expected an object or a string, got null"),
            ([["a"]], "[0]: expected an object or a string, got a list"),
            (5, ": expected a string, a list or an object, got an integer"),
        ],
    )
    def test_faults(self, content: Any, message: str) -> None:
        error = fault(said, content)
        assert error.message == f"messages[0].content{message}"
        assert error.field and error.message.startswith(error.field)


class TestTags:
    def test_response_format(self) -> None:
        assert (
            chat(response_format={"type": "json_object"}).response_format.WhichOneof("format")
            == "json_object"
        )
        assert chat(response_format={"type": "text"}).response_format.HasField("text")
        schema = chat(
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": {"b": 1, "a": [1.5]}},
            }
        )
        assert schema.response_format.json_schema.schema == '{"b":1,"a":[1.5]}'

    def test_message_with_required_fields(self) -> None:
        error = fault(chat, response_format={"type": "json_schema"})
        assert (error.field, error.reason) == ("response_format.json_schema", "REQUIRED_FIELD_MISSING")

    def test_unknown_kind(self) -> None:
        error = fault(chat, response_format={"type": "xml"})
        assert (
            error.message
            == 'response_format.type: expected "text", "json_object", "json_schema" or "structural_tag",'
            ' got "xml"'
        )

    def test_members_of_other_kinds_are_ignored(self) -> None:
        request = chat(response_format={"type": "text", "json_schema": 5})
        assert request.response_format.WhichOneof("format") == "text"

    def test_no_kind(self) -> None:
        assert chat(response_format={"text": {}}).response_format.HasField("text")
        for document in ({}, {"text": {}, "json_object": {}}, {"type": None}):
            assert fault(chat, response_format=document).field == "response_format.type"

    def test_tool_choice(self) -> None:
        assert chat(tool_choice="auto").tool_choice.mode == chat_pb2.TOOL_CHOICE_MODE_AUTO
        named = chat(tool_choice={"type": "function", "function": {"name": "f"}})
        assert named.tool_choice.function.name == "f"
        error = fault(chat, tool_choice="any")
        assert error.message == 'tool_choice: expected "none", "auto" or "required", got "any"'
        error = fault(chat, tool_choice={"type": "custom"})
        assert error.message == 'tool_choice.type: expected "function" or "allowed_tools", got "custom"'

    def test_members_beside_the_tag(self) -> None:
        call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        made = chat(messages=[{"role": "assistant", "tool_calls": [call]}]).messages[0].tool_calls[0]
        assert (made.id, made.function.name, made.function.arguments) == ("c1", "f", "{}")


class TestRaw:
    @pytest.mark.parametrize("document", [{"b": {"a": "é"}, "a": 1}, "text", [1, None], False, 5])
    def test_any_document(self, document: Any) -> None:
        made = chat(tools=[tool(name="f", parameters=document)]).tools[0].function.parameters
        assert made == orjson.dumps(document).decode()

    def test_null_is_unset(self) -> None:
        assert not chat(tools=[tool(parameters=None)]).tools[0].function.HasField("parameters")

    def test_depth(self) -> None:
        body = b'{"tools":[{"function":{"parameters":' + b"[" * 500 + b"]" * 500 + b"}}]}"
        error = fault(CHAT.decode, parse(body))
        assert error.message == "tools[0].function.parameters is nested too deeply"


class TestPrompt:
    @pytest.mark.parametrize(
        ("document", "prompts"),
        [
            ("abc", [{"text": "abc"}]),
            ("", [{"text": ""}]),
            ([1, 2, 3], [{"token_ids": {"ids": [1, 2, 3]}}]),
            (["a", "b"], [{"text": "a"}, {"text": "b"}]),
            ([[1, 2], [3]], [{"token_ids": {"ids": [1, 2]}}, {"token_ids": {"ids": [3]}}]),
            (["a", [3]], [{"text": "a"}, {"token_ids": {"ids": [3]}}]),
            ([[]], [{"token_ids": {}}]),
            ([1.0], [{"token_ids": {"ids": [1]}}]),
            ([None], [{}]),
            ([], []),
        ],
    )
    def test_forms(self, document: Any, prompts: list[dict[str, Any]]) -> None:
        assert completion(prompt=document) == completion_pb2.CreateCompletionRequest(prompt=prompts)

    @pytest.mark.parametrize(
        ("document", "message"),
        [
            ([1, "a"], "prompt[1]: expected an integer, got a string"),
            (["a", 1], "prompt[1]: expected a string or a list, got an integer"),
            ([[1], 2], "prompt[1]: expected a string or a list, got an integer"),
            ([[1], ["a"]], "prompt[1][0]: expected an integer, got a string"),
            ([1, -2], "prompt[1]: expected an integer from 0 to 4294967295, got -2"),
            ([True], "prompt[0]: expected a string or a list, got a boolean"),
            (5, "prompt: expected a string or a list, got an integer"),
            ({}, "prompt: expected a string or a list, got an object"),
        ],
    )
    def test_faults(self, document: Any, message: str) -> None:
        assert fault(completion, prompt=document).message == message


def test_plain_lists_take_no_bare_element() -> None:
    decoder = Decoder(tokenize_pb2.DetokenizeRequest.DESCRIPTOR)
    assert decoder.decode({"tokens": [1, 2]}) == tokenize_pb2.DetokenizeRequest(tokens=[1, 2])
    assert fault(decoder.decode, {"tokens": 1}).field == "tokens"


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
  string own = 1; optional string both = 2; string long_name = 3 [$json.name = 'short'];
  Middle middle = 4 [$json.inline = true]; Other other = 5;
}
message Middle { int32 count = 1; Inner inner = 2 [$json.inline = true]; Outer again = 3; }
message Inner {
  string both = 1; string deep = 2 [$limits.max_length = 3]; string long_name = 3;
  oneof one { int32 a = 4; int32 b = 5; }
}
message Other { repeated Inner list = 1; }
message Strict { Needy needy = 1 [$json.inline = true, $limits.required = true]; int32 own = 2; }
message Needy { optional string name = 1 [$limits.required = true]; optional string text = 2; }
message Loose { Free free = 1 [$json.inline = true, $limits.required = true]; }
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
        assert made.request == CHAT.decode(conversation)
        assert (made.priority, made.wait_seconds) == (2, 1)

    @pytest.mark.parametrize(
        ("name", "document", "field"),
        [
            ("Outer", {"deep": "long"}, "deep"),
            ("Outer", {"again": {"deep": "long"}}, "again.deep"),
            ("Strict", {}, "name"),
            ("Strict", {"own": 1}, "name"),
            ("Strict", {"text": "t"}, "name"),
            ("Loose", {}, "free"),
            ("Voluntary", {"text": "t"}, "name"),
        ],
    )
    def test_limits(self, name: str, document: dict[str, Any], field: str) -> None:
        error = fault(check_limits, Decoder(INLINE[name]).decode(document))
        assert error.field == field
        assert error.message.startswith(field)

    @pytest.mark.parametrize(
        ("name", "document"),
        [
            ("Outer", {"deep": "abc"}),
            ("Strict", {"name": "n"}),
            ("Loose", {"text": ""}),
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
        ("message M { oneof o { N n = 1 [$json.inline = true]; } } message N {}", "M: .*oneof.* n"),
        (
            "message M { option $message.bare = true; N n = 1 [$json.inline = true]; } message N {}",
            "M: a bare or tagged",
        ),
        (
            "message M { N n = 1 [$json.inline = true]; }"
            "message N { option $message.bare = true; string s = 1; }",
            "M: .*N has no members",
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
