"""Converts response messages to JSON bytes. Compiles each message type once, at start, to closures.

Every streamed token passes here, so that only the fields that are set are converted: `ListFields` finds them
in one call. The members of the other fields are copied from the JSON of an empty message. Does not write to
the client.
"""

import base64
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter, itemgetter, methodcaller
from typing import Any

import orjson
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from inferd.rest_bridge.errors import error_object
from inferd.rest_bridge.json_kinds import field_kinds
from inferd.rest_bridge.json_spelling import (
    FieldSpelling,
    InlineSpelling,
    MessageSpelling,
    SpellingError,
    enum_spelling,
    message_spelling,
)

#: Converts a field's value to a value that orjson writes. None: orjson writes the field's value itself.
_Convert = Callable[[Any], Any] | None
#: OpenAI's number for the logarithm of 0, because JSON has no infinity.
_MINUS_INFINITY = -9999.0

#: Copies a repeated field to a list by a slice, which takes a third of the time of iterating.
_as_list = itemgetter(slice(None))


#: In the JSON of a message without fields: the member is absent, but has its place if it is set.
_ABSENT: Any = object()


class Encoder:
    """Writes messages of one type. Raises SpellingError if the type has no JSON form.

    `dialect` is the name of the JSON's dialect (inferd.options.v1.Dialect), or empty.
    """

    def __init__(self, message: Descriptor, dialect: str = "") -> None:
        compiler = _Compiler(dialect)
        self._convert = compiler.message(message)
        self._stream = compiler.stream(message)

    def to_json(self, message: Message) -> Any:
        """The message as a value for orjson. Do not change the value: messages share its empty lists."""
        return self._convert(message)

    def encode(self, message: Message) -> bytes:
        """The message as compact JSON."""
        return orjson.dumps(self._convert(message))

    def begin_stream(self) -> Callable[[Message], Any]:
        """`to_json` for the messages of one stream.

        If a message of the stream has a field with the option `first_only`, the JSON of later messages, which
        lack the field, repeats the field's value.
        """
        return self._convert if self._stream is None else self._stream()


@dataclass
class _Members:
    """How the fields of a message become members of its JSON object. Filled after the closures are made.

    `fields` has the JSON member of each field, and the conversion of its value. `inlines` are the inline
    fields, each with the conversion of its message.
    """

    fields: dict[FieldDescriptor, tuple[str, _Convert]]
    inlines: list[tuple[InlineSpelling, Callable[[Any], Any]]]


class _Compiler:
    """Compiles message types, each once, because a message may contain itself."""

    def __init__(self, dialect: str) -> None:
        self._dialect = dialect
        self._messages: dict[Descriptor, Callable[[Any], Any]] = {}
        self._members: dict[Descriptor, _Members] = {}

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
            else:
                convert = self._object(spelling)
        return convert

    def stream(self, message: Descriptor) -> Callable[[], Callable[[Any], Any]] | None:
        """A function that returns the conversion of the messages of one stream. To be called after `message`.

        None if the messages of a stream are converted as any others: no field has the option `first_only`.
        """
        spelling = message_spelling(message)
        if spelling.bare:
            return self._bare_stream(spelling)
        if not spelling.is_first_only:
            return None
        fields, convert_first = self._members[message].fields, self._messages[message]
        first_only = {field.member for field in spelling.fields if field.first_only}
        # A member of a field that is set in the first message only has its place among the others.
        blank = {
            member: value
            for member, value in self._empty_document(spelling).items()
            if value is not _ABSENT or member in first_only
        }

        def begin() -> Callable[[Any], Any]:
            empty: dict[str, Any] = {}
            convert_later = _plain_object(empty, fields)

            def convert(message: Any) -> dict[str, Any]:
                if empty:
                    return convert_later(message)
                document: dict[str, Any] = convert_first(message)
                empty.update(blank)
                for member in first_only:
                    if member in document:
                        empty[member] = document[member]
                    else:
                        del empty[member]
                return document

            return convert

        return begin

    def _bare_stream(self, spelling: MessageSpelling) -> Callable[[], Callable[[Any], Any]] | None:
        fields = {field.field: self._field(field) for field in spelling.fields}
        streams = {
            field.field: begin
            for field in spelling.fields
            if field.field.message_type is not None
            and not field.field.is_repeated
            and message_spelling(field.nested).is_first_only
            if (begin := self.stream(field.nested)) is not None
        }
        if not streams:
            return None
        unset = self._unset_value(spelling.fields[0])
        return lambda: _set_field(fields | {field: begin() for field, begin in streams.items()}, unset)

    def _object(self, spelling: MessageSpelling) -> Callable[[Any], Any]:
        members = self._members[spelling.descriptor] = _Members({}, [])
        convert = _object(spelling, self._empty_document(spelling), members)
        # Stored before the fields are compiled, because one of them may be of this type.
        self._messages[spelling.descriptor] = convert
        for field in spelling.fields:
            is_member = not (field.inline or field.unknown or field.input_only)
            members.fields[field.field] = (field.member, self._field(field) if is_member else _no_member)
        members.inlines += [(inline, self.message(inline.field.nested)) for inline in spelling.inlines]
        return convert

    def _bare(self, spelling: MessageSpelling) -> Callable[[Any], Any]:
        """The conversion to the value of the field that is set."""
        fields: dict[FieldDescriptor, _Convert] = {}
        unset = self._unset_value(spelling.fields[0])
        convert = self._messages[spelling.descriptor] = _set_field(fields, unset)
        for field in spelling.fields:
            fields[field.field] = self._field(field)
        return convert

    def _field(self, field: FieldSpelling) -> _Convert:
        """The conversion of a field's value."""
        if field.is_map:
            key, value = message_spelling(field.nested).fields
            return _map(key.field, self._single_value(value))
        if field.pairs:
            return self._pairs(field)
        convert = self._single_value(field)
        if not field.field.is_repeated:
            return convert
        if convert is None:
            return _as_list
        return lambda values: list(map(convert, values[:]))

    def _pairs(self, field: FieldSpelling) -> Callable[[Any], dict[str, Any]]:
        """The conversion of messages with two fields to an object. Of equal names, the first one counts."""
        first, second = message_spelling(field.nested).fields
        name_of, value_of = attrgetter(first.name), attrgetter(second.name)
        convert = self._single_value(second)

        def pairs(values: Any) -> dict[str, Any]:
            document: dict[str, Any] = {}
            for pair in values[:]:
                name = name_of(pair)
                if name not in document:
                    value = value_of(pair)
                    document[name] = value if convert is None else convert(value)
            return document

        return pairs

    def _single_value(self, field: FieldSpelling) -> _Convert:
        """The conversion of the value of a singular field, or of one value of a list or map."""
        if field.raw:
            return _raw_document
        if field.seconds:
            return _whole_seconds
        match field.field.type:
            case FieldDescriptor.TYPE_MESSAGE | FieldDescriptor.TYPE_GROUP:
                return self.message(field.nested)
            case FieldDescriptor.TYPE_ENUM:
                # A number that these protos do not know yet becomes None, as if the field was unset.
                return enum_spelling(field.field.enum_type, self._dialect).words.get
            case FieldDescriptor.TYPE_BYTES:
                return list if field.byte_list else _base64
            case FieldDescriptor.TYPE_DOUBLE:
                return _float64
            case FieldDescriptor.TYPE_FLOAT:
                return _float32
            case _:
                return None

    def _empty_document(self, spelling: MessageSpelling) -> dict[str, Any]:
        """The JSON object of a message in which no field is set."""
        document: dict[str, Any] = {"object": spelling.object} if spelling.object else {}
        for field in spelling.fields:
            if field.inline or field.unknown or field.input_only:
                continue
            unset = self._unset_value(field)
            if field.default_value:
                document[field.member] = _default(field)
            elif field.null_when_unset or (unset is not None and not field.omit_when_empty):
                document[field.member] = unset
            elif field.seconds and not field.field.is_repeated:
                document[field.member] = _ABSENT
            if field.also_seconds:
                document[field.also_seconds] = _ABSENT
        for inline in spelling.inlines:
            if not inline.is_alternative:
                inner = self._empty_document(message_spelling(inline.field.nested))
                # A member of the outer message takes the place of the one that it hides.
                places = {
                    inline.renamed.get(name, name): value
                    for name, value in inner.items()
                    if name in document or name not in inline.hidden
                }
                document = places | document
        return document

    def _unset_value(self, field: FieldSpelling) -> Any:
        """The JSON value of a field that ListFields omits; None if the member is null or absent."""
        if field.is_map or field.pairs:
            return {}
        if field.field.is_repeated:
            return []
        if field.field.has_presence or field.raw:
            return None
        if field.field.enum_type is not None:
            return enum_spelling(field.field.enum_type, self._dialect).words.get(0)
        if field.field.type == FieldDescriptor.TYPE_BYTES:
            return [] if field.byte_list else ""
        return field.field.default_value


def _set_field(fields: Mapping[FieldDescriptor, _Convert], unset: Any) -> Callable[[Any], Any]:
    """The conversion of a bare message. `fields` may be filled after this call."""

    def convert(message: Any) -> Any:
        for field, value in message.ListFields():
            convert_value = fields[field]
            return value if convert_value is None else convert_value(value)
        return unset

    return convert


def _object(spelling: MessageSpelling, empty: dict[str, Any], members: _Members) -> Callable[[Any], Any]:
    """The conversion of a message to an object. `empty` is the object of a message in which no field is set.

    `members` may be filled after this call.
    """
    convert = _plain_object(empty, members.fields)
    if spelling.tag:
        return _tagged(spelling, convert)
    whole: Callable[[Any], dict[str, Any]] = convert
    if spelling.inlines:
        whole = _inlined(whole, members)
    if spelling.unknown is not None:
        whole = _with_unknown(spelling.unknown.name, spelling.own_members, whole)
    further = [(field.name, field.also_seconds) for field in spelling.fields if field.also_seconds]
    if further:
        whole = _with_seconds(further, whole)
    absent = [member for member, value in empty.items() if value is _ABSENT]
    return _without(absent, whole) if absent else whole


def _plain_object(
    empty: dict[str, Any], fields: Mapping[FieldDescriptor, tuple[str, _Convert]]
) -> Callable[[Any], dict[str, Any]]:
    """The conversion of a message to a copy of `empty`, with the members of the fields that are set.

    `empty` may change between calls, and `fields` may be filled after this call.
    """

    def convert(message: Any) -> dict[str, Any]:
        document = empty.copy()
        for field, value in message.ListFields():
            member, convert_value = fields[field]
            if convert_value is not None:
                value = convert_value(value)
                if value is None:  # The value has no JSON form: the field is as if unset.
                    continue
            document[member] = value
        return document

    return convert


def _inlined(convert: Callable[[Any], dict[str, Any]], members: _Members) -> Callable[[Any], dict[str, Any]]:
    """`convert`, after which the members of inline messages are added."""
    inlines = members.inlines

    def both(message: Any) -> dict[str, Any]:
        document = convert(message)
        for inline, convert_inner in inlines:
            if message.HasField(inline.field.name):
                document.update(inline.members_of(convert_inner(getattr(message, inline.field.name))))
        return document

    return both


def _tagged(
    spelling: MessageSpelling, convert_fields: Callable[[Any], dict[str, Any]]
) -> Callable[[Any], Any]:
    """The conversion to an object whose tag (such as "type") tells which field of the oneof is set."""
    tag, oneof = spelling.tag, spelling.oneofs[0]
    oneof_name = oneof[0].oneof_name
    kinds = {field.name: field.member for field in oneof}
    flat = {field.name for field in oneof if field.name in spelling.flat_members}
    empty = {field.name for field in oneof if _is_empty(field)} - flat
    # An enum that a bare string can set is written as this string, not as an object.
    shorthand = spelling.shorthand
    word = shorthand.name if shorthand and shorthand.field.enum_type is not None else None
    after = spelling.tag_after.member if spelling.tag_after is not None else None

    def convert(message: Any) -> Any:
        document = convert_fields(message)
        name = message.WhichOneof(oneof_name)
        if name is None:
            return document
        kind = kinds[name]
        if name == word and document.keys() == {kind}:
            return document[kind]
        if name in flat:
            document |= document.pop(kind)
        elif name in empty:
            del document[kind]
        if after is None:
            return {tag: kind, **document}
        return _insert(document, after, tag, kind)

    return convert


def _insert(document: dict[str, Any], after: str, member: str, value: Any) -> dict[str, Any]:
    """The document with another member after the member `after`; unchanged if that is absent or null."""
    if document.get(after) is None:
        return document
    made = {}
    for name, given in document.items():
        made[name] = given
        if name == after:
            made[member] = value
    return made


def _with_unknown(
    name: str, known: frozenset[str], convert: Callable[[Any], dict[str, Any]]
) -> Callable[[Any], dict[str, Any]]:
    """`convert`, with the members in the field `name`, unless they are `known` as members of fields."""

    def convert_all(message: Any) -> dict[str, Any]:
        document = convert(message)
        for member, text in getattr(message, name).items():
            if text and member not in known:
                document[member] = _raw_document(text)
        return document

    return convert_all


def _with_seconds(
    further: Sequence[tuple[str, str]], convert: Callable[[Any], dict[str, Any]]
) -> Callable[[Any], dict[str, Any]]:
    """`convert`, with the further members of the option `also_seconds`: pairs of a field and a member."""

    def convert_all(message: Any) -> dict[str, Any]:
        document = convert(message)
        for name, member in further:
            if message.HasField(name):
                document[member] = _whole_seconds(getattr(message, name))
        return document

    return convert_all


def _without(
    absent: Sequence[str], convert: Callable[[Any], dict[str, Any]]
) -> Callable[[Any], dict[str, Any]]:
    """`convert`, after which the members `absent` that are not set are removed."""

    def convert_all(message: Any) -> dict[str, Any]:
        document = convert(message)
        for member in absent:
            if document[member] is _ABSENT:
                del document[member]
        return document

    return convert_all


def _default(field: FieldSpelling) -> Any:
    """The JSON value of the option `default_value`."""
    try:
        value = orjson.loads(field.default_value)
    except ValueError:
        value = None
    if type(value) not in field_kinds(field):
        raise SpellingError(f"{field.field.full_name}: json.default_value cannot be {field.default_value}")
    return value


def _no_member(_: Any) -> None:
    """The conversion of a field that has no member of its own."""


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


def _whole_seconds(value: Any) -> int:
    """The seconds of a Timestamp or Duration, rounded down. Only a Duration has negative nanos."""
    return int(value.seconds) - (value.nanos < 0)


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _raw_document(text: str) -> orjson.Fragment | None:
    """The JSON document whose text a raw field holds; None if the text is empty.

    The document is one line, because the data of a server-sent event is. In JSON, line ends are only spaces.
    """
    if "\n" in text or "\r" in text:
        text = text.replace("\n", " ").replace("\r", " ")
    return orjson.Fragment(text) if text else None
