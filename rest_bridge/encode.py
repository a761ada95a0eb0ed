"""Response messages to JSON bytes: each message type is compiled once, at start, into closures a field.

It is on the way of every token. Only the fields that are set are visited: `ListFields` finds them in one
call, and the JSON of the others is a copy of what an empty message has.
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
from inferd.rest_bridge.spelling import FieldSpelling, MessageSpelling, enum_spelling, message_spelling

#: Turns a field's value into what orjson writes. None: it is that already.
_Convert = Callable[[Any], Any] | None
#: By field: its JSON member, and the conversion of its value.
_Members = dict[FieldDescriptor, tuple[str, _Convert]]

#: What OpenAI writes for the logarithm of 0, for which JSON has no number.
_MINUS_INFINITY = -9999.0

#: The fastest way to a list of a repeated field's elements; iterating costs three times as much.
_elements = itemgetter(slice(None))


class Encoder:
    """Writes messages of one type. Raises SpellingError for a type that has no JSON form."""

    def __init__(self, message: Descriptor) -> None:
        self._convert = _Compiler().message(message)

    def to_json(self, message: Message) -> Any:
        """The message as orjson takes it. Not to be changed: its empty lists are shared."""
        return self._convert(message)

    def encode(self, message: Message) -> bytes:
        """The message as compact JSON."""
        return orjson.dumps(self._convert(message))


class _Compiler:
    """Compiles message types, each once, so that a message may contain itself."""

    def __init__(self) -> None:
        self._messages: dict[Descriptor, Callable[[Any], Any]] = {}

    def message(self, message: Descriptor) -> Callable[[Any], Any]:
        """The conversion to a message's JSON form."""
        convert = self._messages.get(message)
        if convert is None:
            spelling = message_spelling(message)
            if spelling.text_form:
                convert = self._messages[message] = methodcaller("ToJsonString")
            elif spelling.error:
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
        convert = _visit(spelling, members)
        # Entered before its fields are compiled: one of them may be of this type.
        self._messages[spelling.descriptor] = convert
        if spelling.inline is not None:
            convert = self._inlined(spelling, spelling.inline, convert)
        self._fill(members, spelling)
        return convert

    def _inlined(
        self, spelling: MessageSpelling, inline: FieldSpelling, convert: Callable[[Any], dict[str, Any]]
    ) -> Callable[[Any], dict[str, Any]]:
        """An object with the members of its inline field too, but for those that it has itself."""
        name, own = inline.name, spelling.own

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
        tag, union = spelling.tag, spelling.unions[0]
        members: _Members = {}
        visit = _visit(spelling, members)
        oneof = union[0].oneof
        kinds = {field.name: field.member for field in union}
        empty = {field.name for field in union if _is_empty(field)}
        # An enum that has a bare string of its own is that string, not an object.
        shorthand = spelling.shorthand
        word = shorthand.name if shorthand and shorthand.field.enum_type is not None else None

        def convert(message: Any) -> Any:
            document = visit(message)
            name = message.WhichOneof(oneof)
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
        fields: dict[FieldDescriptor, _Convert] = {}

        def convert(message: Any) -> Any:
            for field, value in message.ListFields():
                convert_value = fields[field]
                return value if convert_value is None else convert_value(value)
            return unset

        self._messages[spelling.descriptor] = convert
        unset = _unset(spelling.fields[0])
        for field in spelling.fields:
            fields[field.field] = self._field(field)
        return convert

    def _fill(self, members: _Members, spelling: MessageSpelling) -> None:
        for field in spelling.fields:
            members[field.field] = (field.member, _elsewhere if field.inline else self._field(field))

    def _field(self, field: FieldSpelling) -> _Convert:
        if field.is_map:
            key, value = message_spelling(field.nested).fields
            return _map(key.field, self._leaf(value))
        convert = self._leaf(field)
        if not field.field.is_repeated:
            return convert
        if convert is None:
            return _elements
        return lambda values: list(map(convert, values[:]))

    def _leaf(self, field: FieldSpelling) -> _Convert:
        """The conversion of a singular field, or of one element of a list or map."""
        if field.raw:
            return _document
        match field.field.type:
            case FieldDescriptor.TYPE_MESSAGE | FieldDescriptor.TYPE_GROUP:
                return self.message(field.nested)
            case FieldDescriptor.TYPE_ENUM:
                # None for a number that is newer than these protos: the field is as if unset.
                return enum_spelling(field.field.enum_type).words.get
            case FieldDescriptor.TYPE_BYTES:
                return list if field.byte_list else _base64
            case FieldDescriptor.TYPE_DOUBLE:
                return _number
            case FieldDescriptor.TYPE_FLOAT:
                return _single
            case _:
                return None


def _visit(spelling: MessageSpelling, members: _Members) -> Callable[[Any], dict[str, Any]]:
    """The conversion of a message to an object of its fields, by `members`, which may be filled later."""
    blank = _blank(spelling)

    def convert(message: Any) -> dict[str, Any]:
        document = blank.copy()
        for field, value in message.ListFields():
            member, convert_value = members[field]
            if convert_value is not None:
                value = convert_value(value)
                if value is None:  # has no JSON form: as if unset
                    continue
            document[member] = value
        return document

    return convert


def _blank(spelling: MessageSpelling) -> dict[str, Any]:
    """The JSON of the message with nothing set."""
    blank: dict[str, Any] = {"object": spelling.object} if spelling.object else {}
    for field in spelling.fields:
        unset = _unset(field)
        if field.null_when_unset or (unset is not None and not field.omit_when_empty):
            blank[field.member] = unset
    if spelling.inline is None:
        return blank
    inner = _blank(message_spelling(spelling.inline.nested))
    hidden = spelling.own - blank.keys()
    return {member: value for member, value in inner.items() if member not in hidden} | blank


def _unset(field: FieldSpelling) -> Any:
    """The JSON of a field that ListFields leaves out; None: null, or nothing."""
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


def _elsewhere(_: Any) -> None:
    """An inline field has no member: what it holds is written after the message's own."""


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


def _number(value: float) -> float:
    """The number; orjson writes null for NaN and infinity."""
    return _MINUS_INFINITY if value == -math.inf else value


def _single(value: float) -> float:
    """The shortest number that is the same in 32 bits."""
    if not math.isfinite(value):
        return _number(value)
    for digits in range(6, 9):
        short = float(f"{value:.{digits}g}")
        try:
            if struct.unpack("f", struct.pack("f", short))[0] == value:
                return short
        except OverflowError:  # rounded up, past the greatest
            continue
    return float(f"{value:.9g}")


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _document(text: str) -> orjson.Fragment | None:
    """The JSON document that a raw field holds the text of; an empty text is none."""
    return orjson.Fragment(text) if text else None
