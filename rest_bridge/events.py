"""Encodes the messages of a stream as server-sent events: data, comments, or an error. Sends nothing."""

from collections.abc import Callable
from typing import Any

import orjson
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from inferd.rest_bridge import sse
from inferd.rest_bridge.encode import Encoder
from inferd.rest_bridge.json_spelling import FieldSpelling, message_spelling
from inferd.rest_bridge.transport import RpcFailed

#: Makes the event of a message. Each stream has its own, because events may repeat the first message's
#: fields.
EventEncoder = Callable[[Message], bytes]


def event_encoders(message: Descriptor, dialect: str = "") -> Callable[[], EventEncoder]:
    """A function that returns the encoder for one stream of messages of a type.

    `dialect` is the name of the JSON's dialect, or empty. Raises SpellingError for a type that has no JSON
    form. A google.rpc.Status that is the value of a bare message is the stream's last event: for such a
    message an encoder raises RpcFailed with this status.
    """
    encoder = Encoder(message, dialect)
    named_by = message_spelling(message).event
    comments = {field.name for field in comment_fields(message)}
    errors = {field.name for field in error_fields(message)}

    def begin() -> EventEncoder:
        convert = encoder.begin_stream()
        if named_by:
            return _named(convert, named_by)
        if not comments and not errors:
            return lambda message: sse.event(orjson.dumps(convert(message)))

        def event(message: Any) -> bytes:
            for field, value in message.ListFields():
                if field.name in errors:
                    raise RpcFailed(value)
                if field.name in comments:
                    return sse.comment(orjson.dumps(convert(message)))
            return sse.event(orjson.dumps(convert(message)))

        return event

    return begin


def _named(convert: Callable[[Message], Any], member: str) -> EventEncoder:
    """The encoder of events whose names are the values of a member, which has only words of the protos."""

    def event(message: Message) -> bytes:
        document = convert(message)
        name = document.get(member)
        return sse.event(orjson.dumps(document), name.encode() if name else b"")

    return event


def comment_fields(message: Descriptor) -> tuple[FieldSpelling, ...]:
    """The fields of a streamed message that are sent as comments."""
    return tuple(field for field in message_spelling(message).fields if field.comment)


def error_fields(message: Descriptor) -> tuple[FieldSpelling, ...]:
    """The fields of a streamed message that are the stream's error."""
    spelling = message_spelling(message)
    return tuple(field for field in spelling.fields if spelling.bare and _is_status(field))


def _is_status(field: FieldSpelling) -> bool:
    return field.field.message_type is not None and message_spelling(field.nested).is_status
