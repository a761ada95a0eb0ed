"""Converts response messages to JSON bytes. Compiles each message type once, at start, to closures.

Every streamed token passes here, so that only the fields that are set are converted: `ListFields` finds them
in one call. The members of the other fields are copied from the JSON of an empty message. Does not write to
the client.
"""

import base64
import math
import struct
from collections.abc import Callable
from operator import itemgetter, methodcaller
from typing import Any

import orjson
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from inferd.rest_bridge.errors import error_object
from inferd.rest_bridge.json_spelling import FieldSpelling, MessageSpelling, enum_spelling, message_spelling

#: Converts a field's value to a value that orjson writes. None: orjson writes the field's value itself.
_Convert = Callable[[Any], Any] | None
#: By field: the JSON member, and the conversion of the value.
_Members = dict[FieldDescriptor, tuple[str, _Convert]]

#: OpenAI's number for the logarithm of 0, because JSON has no infinity.
_MINUS_INFINITY = -9999.0

#: Copies a repeated field to a list by a slice, which takes a third of the time of iterating.
_as_list = itemgetter(slice(None))


class Encoder:
    """Writes messages of one type. Raises SpellingError if the type has no JSON form."""

    def __init__(self, message: Descriptor) -> None:
        self._convert = _Compiler().message(message)

    def to_json(self, message: Message) -> Any:
        """The message as a value for orjson. Do not change the value: messages share its empty lists."""
        return self._convert(message)

    def encode(self, message: Message) -> bytes:
        """The message as compact JSON."""
        return orjson.dumps(self._convert(message))


class _Compiler:
    """Compiles message types, each once, because a message may contain itself."""

    def __init__(self) -> None:
        self._messages: dict[Descriptor, Callable[[Any], Any]] = {}

    def message(self, message: Descriptor) -> Callable[[Any], Any]:
        """The conversion of a message to a JSON value."""
        convert = self._messages.get(message)
        if convert is None:
            spelling = message_spelling(message)
            if spelling.is_json_string:
                convert = self._messages[message] = methodcaller("ToJsonString")
            elif spelling.is_status:
                convert = self._messages[message] = error_object
            elif spelling.bare:
                convert = self._bare(spelling)
            elif spelling.tag:
                convert = self._tagged(spelling)
            else:
                convert = self._object(spelling)
        return convert

    def _object(self, spelling: MessageSpelling) -> Callable[[Any], dict[str, Any]]:
        members: _Members = {}
        convert = _object_of_fields(spelling, members)
        # Stored before the fields are compiled, because one of them may be of this type.
        self._messages[spelling.descriptor] = convert
        if spelling.inline is not None:
            convert = self._inlined(spelling, spelling.inline, convert)
        self._fill(members, spelling)
        return convert

    def _inlined(
        self, spelling: MessageSpelling, inline: FieldSpelling, convert: Callable[[Any], dict[str, Any]]
    ) -> Callable[[Any], dict[str, Any]]:
        """The conversion to an object that also has the members of the inline field's message.

        A member that both messages have is the outer message's.
        """
        name, own = inline.name, spelling.own_members

        def both(message: Any) -> dict[str, Any]:
            document = convert(message)
            if message.HasField(name):
                inner = convert_inner(getattr(message, name))
                document.update((member, value) for member, value in inner.items() if member not in own)
            return document

        self._messages[spelling.descriptor] = both
        convert_inner = self.message(inline.nested)
        return both

    def _tagged(self, spelling: MessageSpelling) -> Callable[[Any], Any]:
        """The conversion to an object whose tag (such as "type") tells which field of the oneof is set."""
        tag, oneof = spelling.tag, spelling.oneofs[0]
        members: _Members = {}
        convert_fields = _object_of_fields(spelling, members)
        oneof_name = oneof[0].oneof_name
        kinds = {field.name: field.member for field in oneof}
        empty = {field.name for field in oneof if _is_empty(field)}
        # An enum that a bare string can set is written as this string, not as an object.
        shorthand = spelling.shorthand
        word = shorthand.name if shorthand and shorthand.field.enum_type is not None else None

        def convert(message: Any) -> Any:
            document = convert_fields(message)
            name = message.WhichOneof(oneof_name)
            if name is None:
                return document
            kind = kinds[name]
            if name == word and document.keys() == {kind}:
                return document[kind]
            if name in empty:
                del document[kind]
            return {tag: kind, **document}

        self._messages[spelling.descriptor] = convert
        self._fill(members, spelling)
        return convert

    def _bare(self, spelling: MessageSpelling) -> Callable[[Any], Any]:
        """The conversion to the value of the field that is set."""
        fields: dict[FieldDescriptor, _Convert] = {}

        def convert(message: Any) -> Any:
            for field, value in message.ListFields():
                convert_value = fields[field]
                return value if convert_value is None else convert_value(value)
            return unset

        self._messages[spelling.descriptor] = convert
        unset = _unset_value(spelling.fields[0])
        for field in spelling.fields:
            fields[field.field] = self._field(field)
        return convert

    def _fill(self, members: _Members, spelling: MessageSpelling) -> None:
        for field in spelling.fields:
            members[field.field] = (field.member, _no_member if field.inline else self._field(field))

    def _field(self, field: FieldSpelling) -> _Convert:
        """The conversion of a field's value."""
        if field.is_map:
            key, value = message_spelling(field.nested).fields
            return _map(key.field, self._single_value(value))
        convert = self._single_value(field)
        if not field.field.is_repeated:
            return convert
        if convert is None:
            return _as_list
        return lambda values: list(map(convert, values[:]))

    def _single_value(self, field: FieldSpelling) -> _Convert:
        """The conversion of the value of a singular field, or of one value of a list or map."""
        if field.raw:
            return _raw_document
        match field.field.type:
            case FieldDescriptor.TYPE_MESSAGE | FieldDescriptor.TYPE_GROUP:
                return self.message(field.nested)
            case FieldDescriptor.TYPE_ENUM:
                # A number that these protos do not know yet becomes None, as if the field was unset.
                return enum_spelling(field.field.enum_type).words.get
            case FieldDescriptor.TYPE_BYTES:
                return list if field.byte_list else _base64
            case FieldDescriptor.TYPE_DOUBLE:
                return _float64
            case FieldDescriptor.TYPE_FLOAT:
                return _float32
            case _:
                return None


def _object_of_fields(spelling: MessageSpelling, members: _Members) -> Callable[[Any], dict[str, Any]]:
    """The conversion of a message to an object. `members` may be filled after this call."""
    empty = _empty_document(spelling)

    def convert(message: Any) -> dict[str, Any]:
        document = empty.copy()
        for field, value in message.ListFields():
            member, convert_value = members[field]
            if convert_value is not None:
                value = convert_value(value)
                if value is None:  # The value has no JSON form: the field is as if unset.
                    continue
            document[member] = value
        return document

    return convert


def _empty_document(spelling: MessageSpelling) -> dict[str, Any]:
    """The JSON object of a message in which no field is set."""
    document: dict[str, Any] = {"object": spelling.object} if spelling.object else {}
    for field in spelling.fields:
        unset = _unset_value(field)
        if field.null_when_unset or (unset is not None and not field.omit_when_empty):
            document[field.member] = unset
    if spelling.inline is None:
        return document
    inner = _empty_document(message_spelling(spelling.inline.nested))
    hidden = spelling.own_members - document.keys()
    return {member: value for member, value in inner.items() if member not in hidden} | document


def _unset_value(field: FieldSpelling) -> Any:
    """The JSON value of a field that ListFields omits; None if the member is null or absent."""
    if field.is_map:
        return {}
    if field.field.is_repeated:
        return []
    if field.field.has_presence or field.raw:
        return None
    if field.field.enum_type is not None:
        return enum_spelling(field.field.enum_type).words.get(0)
    if field.field.type == FieldDescriptor.TYPE_BYTES:
        return [] if field.byte_list else ""
    return field.field.default_value


def _no_member(_: Any) -> None:
    """The conversion of an inline field, which has no member: `_inlined` adds the members of its message."""


def _is_empty(field: FieldSpelling) -> bool:
    message = field.field.message_type
    return message is not None and not message.fields


def _map(key: FieldDescriptor, convert: _Convert) -> Callable[[Any], dict[str, Any]]:
    if key.type == FieldDescriptor.TYPE_BOOL:
        spell: Callable[[Any], str] = {True: "true", False: "false"}.__getitem__
    else:
        spell = str
    if convert is None:
        return lambda entries: {spell(name): value for name, value in entries.items()}
    return lambda entries: {spell(name): convert(value) for name, value in entries.items()}


def _float64(value: float) -> float:
    """A double, with -9999 for minus infinity. orjson writes null for NaN and infinity."""
    return _MINUS_INFINITY if value == -math.inf else value


def _float32(value: float) -> float:
    """A float, as the shortest decimal number that is equal in 32 bits."""
    if not math.isfinite(value):
        return _float64(value)
    for digits in range(6, 9):
        short = float(f"{value:.{digits}g}")
        try:
            if struct.unpack("f", struct.pack("f", short))[0] == value:
                return short
        except OverflowError:  # Rounded up, the number exceeds 32 bits.
            continue
    return float(f"{value:.9g}")


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _raw_document(text: str) -> orjson.Fragment | None:
    """The JSON document whose text a raw field holds; None if the text is empty."""
    return orjson.Fragment(text) if text else None
