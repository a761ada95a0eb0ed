"""JSON to messages: each form of OpenAI's JSON is accepted, and each other form names its error."""

from typing import Any

import orjson
import pytest

from inferd.rest_bridge.decode import Decoder
from inferd.rest_bridge.json_body import flag, parse
from inferd.v1 import chat_pb2, completion_pb2, message_pb2, tokenize_pb2
from tests.rest_bridge.faults import fault
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
        error = fault(chat, tool_choice={"type": "other"})
        assert (
            error.message == 'tool_choice.type: expected "function", "allowed_tools" or "custom", got "other"'
        )

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
