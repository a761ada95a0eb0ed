"""The codec on random messages and random JSON, compared with json_format and OpenAI's own types."""

import json
import struct
from operator import attrgetter
from typing import Any

import grpc
import openai.types
import openai.types.chat
import orjson
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import example, given, settings
from hypothesis import strategies as st

from inferd.rest_bridge.decode import Decoder
from inferd.rest_bridge.encode import Encoder
from inferd.rest_bridge.json_body import parse
from inferd.rest_bridge.json_spelling import FieldSpelling, enum_spelling, json_fields, message_spelling
from inferd.services.errors import ServiceError
from inferd.v1 import chat_pb2, completion_pb2, message_pb2, models_pb2, queue_pb2, sampling_pb2, tokenize_pb2
from tests.support.proto_source import compile_messages

REQUESTS = [
    chat_pb2.CreateChatCompletionRequest,
    completion_pb2.CreateCompletionRequest,
    tokenize_pb2.CountTokensRequest,
    tokenize_pb2.TokenizeRequest,
    tokenize_pb2.DetokenizeRequest,
    queue_pb2.EnqueueRequest,
    queue_pb2.ListJobsRequest,
]
RESPONSES = [
    chat_pb2.ChatCompletion,
    chat_pb2.ChatCompletionChunk,
    completion_pb2.Completion,
    completion_pb2.CompletionChunk,
    models_pb2.ListModelsResponse,
    tokenize_pb2.CountTokensResponse,
]
PLAIN = compile_messages("""
message Plain {
  string text = 1; bytes data = 2; bool truth = 3; double number = 4; float single = 5; int32 a = 6;
  uint32 b = 7; sint32 c = 8; fixed32 d = 9; sfixed32 e = 10;
  optional string maybe_text = 11; optional double maybe_number = 12; optional Word word = 13;
  oneof either { int32 left_hand = 14; Plain right_hand = 15; }
  repeated string texts = 16; repeated int32 numbers = 17; repeated Word words = 18; repeated Plain all = 19;
  map<string, bytes> by_text = 20; map<int64, Plain> by_number = 21; map<bool, Word> by_truth = 22;
  optional int64 long = 23; optional uint64 longer = 24; repeated float singles = 25;
}
enum Word { WORD_UNSPECIFIED = 0; WORD_A = 1; WORD_B = -2; }
""")["Plain"]

#: Those that OpenAI's types of both completions have.
OPENAI_REASONS = {sampling_pb2.FINISH_REASON_STOP, sampling_pb2.FINISH_REASON_LENGTH}
TEXT = st.text(max_size=8)
INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
}
DOCUMENTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["text", "function", "auto", "user", "json_schema"])
    | TEXT,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["type", "text", "role", "content", "function", "1"]), inner)
        | st.dictionaries(TEXT, inner, max_size=3)
    ),
    max_leaves=12,
)


def leaves(field: FieldSpelling, depth: int, full: bool) -> st.SearchStrategy[Any]:
    """Values of a singular field, or elements of a repeated one."""
    match field.field.type:
        case _ if field.raw:
            return DOCUMENTS.filter(lambda d: d is not None).map(orjson_text)
        case FieldDescriptor.TYPE_MESSAGE if field.nested.full_name == "google.protobuf.Timestamp":
            return st.integers(0, 2**32).map(lambda seconds: well_known(field, seconds, 5))
        case FieldDescriptor.TYPE_MESSAGE if field.nested.full_name == "google.protobuf.Duration":
            return st.integers(-(2**32), 2**32).map(lambda seconds: well_known(field, seconds, 5))
        case FieldDescriptor.TYPE_MESSAGE if message_spelling(field.nested).is_status:
            return st.builds(GetMessageClass(field.nested), code=st.integers(0, 20), message=TEXT)
        case FieldDescriptor.TYPE_MESSAGE:
            return messages(GetMessageClass(field.nested), depth - 1, full, field.field.is_repeated)
        case FieldDescriptor.TYPE_ENUM:
            return st.sampled_from([n for n in enum_spelling(field.field.enum_type).words if n])
        case FieldDescriptor.TYPE_STRING:
            return TEXT
        case FieldDescriptor.TYPE_BYTES:
            return st.binary(max_size=5)
        case FieldDescriptor.TYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.TYPE_DOUBLE:
            return st.floats(allow_nan=False, allow_infinity=False)
        case FieldDescriptor.TYPE_FLOAT:
            # json_format refuses its own spelling of the greatest one.
            return st.floats(-(2.0**127), 2.0**127, width=32)
        case _:
            return INTEGERS[field.field.cpp_type]


def well_known(field: FieldSpelling, seconds: int, nanos: int) -> Any:
    message: Any = GetMessageClass(field.nested)()
    message.FromNanoseconds(seconds * 10**9 + (0 if field.seconds else nanos))
    return message


def orjson_text(document: Any) -> str:
    """As the codec keeps it: integers beyond 64 bits become floats, as orjson reads them."""
    return orjson.dumps(orjson.loads(json.dumps(document))).decode()


def values(field: FieldSpelling, depth: int, full: bool) -> st.SearchStrategy[Any]:
    """Values of a field."""
    if field.is_map:
        key, value = message_spelling(field.nested).fields
        return st.dictionaries(leaves(key, depth, full), leaves(value, depth, full), max_size=2)
    if field.field.is_repeated:
        unique_by = attrgetter(message_spelling(field.nested).fields[0].name) if field.pairs else None
        return st.lists(leaves(field, depth, full), max_size=2, unique_by=unique_by)
    return leaves(field, depth, full)


@st.composite
def messages(
    draw: Any,
    new: type[Message],
    depth: int = 6,
    full: bool = False,
    element: bool = False,
    hidden: frozenset[str] = frozenset(),
) -> Any:
    """Random messages that have a JSON form. `full`: with every message and enum that a response has.

    A tagged message has its kind; a bare one its value, unless it is an `element`, where null stands for
    it. An inline message is there: JSON cannot say that it is not; nor its members that are `hidden` by those
    of its holder. A time that is a number in OpenAI's JSON is there too.
    """
    spelling = message_spelling(new.DESCRIPTOR)
    message = new()
    chosen = set()
    for union in spelling.oneofs:
        empty_too = [] if spelling.tag or (spelling.bare and not element) else [None]
        one = draw(st.sampled_from([*union, *empty_too]))
        chosen.update(field.name for field in union if field is not one)
    for field in spelling.fields:
        if field.name in chosen or field.member in hidden or field.input_only:
            continue
        nested = field.field.type == FieldDescriptor.TYPE_MESSAGE
        in_union = any(field in union for union in spelling.oneofs)
        must = in_union or (spelling.bare and not element) or (full and (nested or _is_enum(field)))
        must = must or field.inline or (nested and (field.seconds or bool(field.also_seconds)))
        if not must and (draw(st.booleans()) or (nested and depth <= 0)):
            continue
        if nested and depth <= 0 and in_union and not spelling.tag and not spelling.bare:
            continue
        if field.inline:
            value = draw(
                messages(GetMessageClass(field.nested), depth - 1, full, hidden=spelling.inlines[0].hidden)
            )
        else:
            value = draw(values(field, depth, full))
        if field.is_map and message_spelling(field.nested).fields[1].field.message_type is not None:
            for key, item in value.items():
                getattr(message, field.name)[key].CopyFrom(item)
        else:
            message.MergeFrom(new(**{field.name: value}))
            if nested and not field.field.is_repeated:
                getattr(message, field.name).SetInParent()
    return message


def _is_enum(field: FieldSpelling) -> bool:
    return field.field.type == FieldDescriptor.TYPE_ENUM


def encoded(message: Message) -> Any:
    return orjson.loads(Encoder(message.DESCRIPTOR).encode(message))


@pytest.mark.parametrize(
    "new",
    [
        *(
            new
            for new in REQUESTS
            if new not in (tokenize_pb2.CountTokensRequest, tokenize_pb2.TokenizeRequest)
        ),
        *RESPONSES,
    ],
    ids=lambda new: new.DESCRIPTOR.name,
)
@given(data=st.data())
@settings(max_examples=60)
def test_what_is_written_reads_back(new: type[Message], data: Any) -> None:
    message = data.draw(messages(new))
    for choice in getattr(message, "choices", ()):
        # Written as OpenAI's error, which says less than it.
        choice.ClearField("error")
    assert Decoder(new.DESCRIPTOR).decode(parse(Encoder(new.DESCRIPTOR).encode(message))) == message


@given(message=messages(GetMessageClass(PLAIN), depth=1))
@settings(max_examples=60)
def test_json_format_reads_and_writes_the_same(message: Message) -> None:
    ours = encoded(message)
    theirs = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    assert _with_numbers(theirs) == ours
    decoder = Decoder(PLAIN)
    assert json_format.ParseDict(ours, type(message)()) == decoder.decode(ours) == message
    camel = _with_numbers(json_format.MessageToDict(message))
    assert decoder.decode(camel) == message


def _with_numbers(document: Any) -> Any:
    """json_format's document, with 64-bit integers as OpenAI has them: numbers, not strings."""
    if isinstance(document, list):
        return [_with_numbers(element) for element in document]
    if isinstance(document, dict):
        return {
            member: int(value) if member in ("long", "longer") else _with_numbers(value)
            for member, value in document.items()
        }
    return document


@pytest.mark.parametrize("new", REQUESTS, ids=lambda new: new.DESCRIPTOR.name)
@given(data=st.data())
@settings(max_examples=200)
def test_any_json_is_a_message_or_an_error(new: type[Message], data: Any) -> None:
    members = [field.name for field in json_fields(message_spelling(new.DESCRIPTOR))]
    members += [field.member for field in json_fields(message_spelling(new.DESCRIPTOR))]
    document = data.draw(st.dictionaries(st.sampled_from(members), DOCUMENTS, max_size=4))
    decoder = Decoder(new.DESCRIPTOR)
    try:
        made = decoder.decode(parse(orjson_text(document).encode()))
    except ServiceError as error:
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert error.field and error.field.split("[")[0].split(".")[0] in members
        assert error.message.startswith(error.field)
        error.to_status()
    else:
        assert isinstance(made, new)


@given(body=st.binary(max_size=20) | TEXT.map(lambda text: ("{" + text).encode()))
def test_any_bytes_are_an_object_or_an_error(body: bytes) -> None:
    try:
        assert isinstance(parse(body), dict)
    except ServiceError as error:
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert all(int(number) >= 1 for number in error.metadata.values())


@pytest.mark.parametrize(
    ("new", "official"),
    [
        (chat_pb2.ChatCompletion, openai.types.chat.ChatCompletion),
        (chat_pb2.ChatCompletionChunk, openai.types.chat.ChatCompletionChunk),
        (completion_pb2.Completion, openai.types.Completion),
        (models_pb2.Model, openai.types.Model),
        (queue_pb2.Job, openai.types.chat.ChatCompletion),
        (queue_pb2.DeleteJobResponse, openai.types.chat.ChatCompletionDeleted),
    ],
    ids=lambda new: new.__name__,
)
@given(data=st.data())
@settings(max_examples=60)
def test_openai_types_take_every_response(new: type[Message], official: Any, data: Any) -> None:
    message = data.draw(messages(new, full=True))
    for choice in getattr(getattr(message, "completion", message), "choices", ()):
        if isinstance(choice, chat_pb2.ChatChoice):
            choice.message.role = message_pb2.ROLE_ASSISTANT
        if isinstance(choice, chat_pb2.ChatChunkChoice):
            choice.delta.role = message_pb2.ROLE_ASSISTANT
            for call in choice.delta.tool_calls:
                call.function.SetInParent()
        if choice.finish_reason not in OPENAI_REASONS:
            choice.finish_reason = sampling_pb2.FINISH_REASON_STOP
        if isinstance(choice, completion_pb2.CompletionChoice):
            # OpenAI's type has no null in its lists, though OpenAI sends it for an echoed first token.
            for entry in choice.logprobs.token_logprobs:
                entry.logprob = entry.logprob
            for entry in choice.logprobs.top_logprobs:
                entry.top.SetInParent()
    body = Encoder(new.DESCRIPTOR).encode(message)
    read = official.model_validate_json(body, strict=True)
    assert set(orjson.loads(body)) >= set(read.model_fields_set)
    official.model_validate(orjson.loads(body), strict=True)


@given(job=messages(queue_pb2.Job))
@settings(max_examples=60)
def test_openai_types_take_a_job_in_any_state(job: queue_pb2.Job) -> None:
    """Before it has an answer, too; its own members are its, and the answer's choices are its own."""
    for choice in job.completion.choices:
        choice.message.role = message_pb2.ROLE_ASSISTANT
        if choice.finish_reason not in OPENAI_REASONS:
            choice.finish_reason = sampling_pb2.FINISH_REASON_STOP
    if not job.completion.choices:
        job.ClearField("completion")
    read = openai.types.chat.ChatCompletion.model_validate(encoded(job), strict=True)
    assert (read.id, read.model, read.created) == (job.id, job.model, job.create_time.seconds)
    assert len(read.choices) == len(job.completion.choices)


@example(value=3.4028234663852886e38)
@given(value=st.floats(width=32))
def test_singles_survive(value: float) -> None:
    single = GetMessageClass(PLAIN)(single=value)
    written = encoded(single)["single"]
    if written is not None and written != -9999.0:
        decoded: Any = Decoder(PLAIN).decode({"single": written})
        assert struct.pack("f", decoded.single) == struct.pack("f", value)
