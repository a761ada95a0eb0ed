"""The JSON spelling of messages, fields and enums, read from their options (inferd/options/v1) at start.

Checks the options: one that cannot work raises SpellingError with the name of the message or field. Does not
convert values: `decode` and `encode` compile the conversions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto

from inferd.options.v1 import options_pb2

#: Kinds of JSON values, as the Python types that orjson reads them to. null is no kind: it means "unset"
#: everywhere.
Kinds = frozenset[type]
ANY_KIND: Kinds = frozenset({str, bool, int, float, list, dict})
NUMBER: Kinds = frozenset({int, float})

#: Well-known types that are a JSON string, with the kinds of values that a request may use; see
#: `well_known_types`.
_STRING_TYPES: dict[str, Kinds] = {
    "google.protobuf.Timestamp": frozenset({str}) | NUMBER,
    "google.protobuf.Duration": frozenset({str}) | NUMBER,
    "google.protobuf.FieldMask": frozenset({str}),
}
#: The status of an RPC, which is OpenAI's error object in JSON. Only responses have it.
_STATUS = "google.rpc.Status"
#: Well-known types that proto3 JSON spells as the value that they wrap.
_WRAPPERS = {
    f"google.protobuf.{name}Value"
    for name in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
}
_REFUSED = {f"google.protobuf.{name}" for name in ("Any", "Struct", "Value", "ListValue")}


class SpellingError(ValueError):
    """A message has no JSON form: its options contradict each other, or one of its types is not supported."""


@dataclass(frozen=True)
class FieldSpelling:
    """The JSON spelling of a field: inferd.options.v1.FieldJson, and `required` of Limits.

    `member` is the name of the JSON member in responses. `accepted` are the names that a request may use; an
    inline field has none.
    """

    field: FieldDescriptor
    member: str
    accepted: tuple[str, ...]
    shorthand: bool
    raw: bool
    null_when_unset: bool
    omit_when_empty: bool
    byte_list: bool
    inline: bool
    comment: bool
    required: bool

    @property
    def name(self) -> str:
        """The field's name in the proto."""
        return self.field.name

    @property
    def nested(self) -> Descriptor:
        """The message type of a message field."""
        message = self.field.message_type
        assert message is not None, self.field.full_name
        return message

    @property
    def oneof_name(self) -> str:
        """The name of the field's oneof."""
        oneof = self.field.containing_oneof
        assert oneof is not None, self.field.full_name
        return oneof.name

    @property
    def is_map(self) -> bool:
        """Whether the field is a map."""
        message = self.field.message_type
        return message is not None and message.GetOptions().map_entry


@dataclass(frozen=True)
class MessageSpelling:
    """The JSON spelling of a message: inferd.options.v1.MessageJson, with field names resolved to fields.

    `oneofs` excludes the oneofs that make a single field optional; a message with a tag has exactly one.
    `inline` is the field whose members stand among the message's own. `refused` has the reason of each
    refused member. `is_json_string` is true for well-known types that are JSON strings, `is_status` for
    google.rpc.Status, which is OpenAI's error object.
    """

    descriptor: Descriptor
    fields: tuple[FieldSpelling, ...]
    oneofs: tuple[tuple[FieldSpelling, ...], ...]
    object: str
    bare: bool
    tag: str
    shorthand: FieldSpelling | None
    inline: FieldSpelling | None
    refused: Mapping[str, str]
    is_json_string: bool
    is_status: bool

    @property
    def accepts_number(self) -> bool:
        """Whether a request may give a number in place of the string."""
        return self.is_json_string and float in _STRING_TYPES[self.descriptor.full_name]

    @property
    def own_members(self) -> frozenset[str]:
        """The message's own members. They hide members of the same names of the inline field's message."""
        constant = {"object"} if self.object else set()
        return frozenset(constant.union(*(field.accepted for field in self.fields)))


@dataclass(frozen=True)
class EnumSpelling:
    """The JSON words of an enum's values, both ways. A value without a word has no JSON form."""

    words: dict[int, str]
    numbers: dict[str, int]


@cache
def message_spelling(message: Descriptor) -> MessageSpelling:
    """The spelling of a message type, by its options and those of its fields. Raises SpellingError."""
    if message.full_name in _REFUSED:
        raise SpellingError(
            f"{message.full_name} is not supported: hold the document in a string field with json.raw"
        )
    if message.is_extendable:
        raise SpellingError(f"{message.full_name}: extensions have no JSON form")
    options = _option(message, options_pb2.message_json)
    _check_inline(message)
    fields = tuple(_field_spelling(field) for field in message.fields)
    by_name = {spelling.name: spelling for spelling in fields}
    if options.shorthand and options.shorthand not in by_name:
        raise SpellingError(f"{message.full_name}: shorthand names no field: {options.shorthand!r}")
    spelling = MessageSpelling(
        descriptor=message,
        fields=fields,
        oneofs=_oneofs(message, by_name),
        object=options.object,
        bare=options.bare or message.full_name in _WRAPPERS,
        tag=options.tag,
        shorthand=by_name.get(options.shorthand),
        inline=next((field for field in fields if field.inline), None),
        refused={member.name: member.reason for member in options.refused},
        is_json_string=message.full_name in _STRING_TYPES,
        is_status=message.full_name == _STATUS,
    )
    _check_message(spelling)
    return spelling


def json_fields(message: MessageSpelling) -> tuple[FieldSpelling, ...]:
    """The fields that are members of the JSON object: the message's own and those of its inline message.

    If two have the same member, the message's own field wins. Fields of the inline message are required only
    if the inline field is.
    """
    own = {field.member: field for field in message.fields if not field.inline}
    if message.inline is None:
        return tuple(own.values())
    hidden = message.own_members - own.keys()
    fields = {
        field.member: replace(field, required=field.required and message.inline.required)
        for field in json_fields(message_spelling(message.inline.nested))
        if field.member not in hidden
    }
    return tuple((fields | own).values())


@cache
def enum_spelling(enum: EnumDescriptor) -> EnumSpelling:
    """The words of an enum's values: their json_value or, if no value has one, their names (proto3 JSON).

    The value 0 has a word only if it has a json_value. Raises SpellingError.
    """
    declared: dict[int, str] = {
        value.number: word for value in enum.values if (word := _option(value, options_pb2.json_value))
    }
    words = declared or {value.number: value.name for value in reversed(enum.values) if value.number}
    for value in enum.values:
        if value.number and value.number not in words:
            raise SpellingError(f"{enum.full_name}: {value.name} has no json_value, but other values have")
    numbers = {word: number for number, word in words.items()}
    if len(numbers) < len(words):
        raise SpellingError(f"{enum.full_name}: two values have the same json_value")
    return EnumSpelling(words, numbers)


def element_kinds(field: FieldSpelling, within: tuple[Descriptor, ...] = ()) -> Kinds:
    """The kinds of JSON values of a singular field, or of one element of a repeated field.

    `within` are the bare messages around the field, so that a bare message that contains itself is found.
    """
    match field.field.type:
        case _ if field.raw:
            return ANY_KIND
        case FieldDescriptor.TYPE_MESSAGE | FieldDescriptor.TYPE_GROUP:
            return _message_kinds(message_spelling(field.nested), within)
        case FieldDescriptor.TYPE_STRING | FieldDescriptor.TYPE_ENUM:
            return frozenset({str})
        case FieldDescriptor.TYPE_BYTES:
            return frozenset({list}) if field.byte_list else frozenset({str})
        case FieldDescriptor.TYPE_BOOL:
            return frozenset({bool})
        case _:
            return NUMBER


def field_kinds(field: FieldSpelling, within: tuple[Descriptor, ...] = ()) -> Kinds:
    """The kinds of JSON values of a field, which include lists if the field is repeated."""
    if field.is_map:
        return frozenset({dict})
    if field.field.is_repeated:
        elements = element_kinds(field, within) if field.shorthand else frozenset[type]()
        return elements | {list}
    return element_kinds(field, within)


def bare_forms(message: MessageSpelling, within: tuple[Descriptor, ...] = ()) -> dict[type, FieldSpelling]:
    """The field of a bare message that each kind of JSON value sets.

    Raises SpellingError if one kind could set two fields.
    """
    if message.descriptor in within:
        raise SpellingError(f"{message.descriptor.full_name}: its bare form contains itself")
    forms: dict[type, FieldSpelling] = {}
    for field in message.fields:
        for kind in field_kinds(field, (*within, message.descriptor)):
            if kind in forms:
                raise SpellingError(
                    f"{message.descriptor.full_name}: {forms[kind].name} and {field.name} have the same bare"
                    f" JSON form"
                )
            forms[kind] = field
    return forms


def inner_list_kinds(field: FieldSpelling) -> Kinds:
    """The kinds of an inner list's elements, if the elements of a repeated shorthand field may be lists.

    Empty if no element may be a list. Raises SpellingError if a list of elements cannot be told from an
    element that is a list.
    """
    if list not in element_kinds(field):
        return frozenset()
    holder = field
    while holder.field.message_type is not None and not holder.raw and not holder.byte_list:
        holder = bare_forms(message_spelling(holder.nested))[list]
        if holder.field.is_repeated:
            break
    held = ANY_KIND if holder.raw else frozenset({int}) if holder.byte_list else element_kinds(holder)
    if held & element_kinds(field):
        raise SpellingError(f"{field.field.full_name}: json.shorthand cannot tell an element from a list")
    return held


def _message_kinds(message: MessageSpelling, within: tuple[Descriptor, ...]) -> Kinds:
    if message.is_json_string:
        return _STRING_TYPES[message.descriptor.full_name]
    if message.bare:
        return frozenset(bare_forms(message, within))
    return frozenset({dict, str}) if message.shorthand else frozenset({dict})


def _field_spelling(field: FieldDescriptor) -> FieldSpelling:
    options = _option(field, options_pb2.json)
    member = options.name or field.name
    spelling = FieldSpelling(
        field=field,
        member=member,
        accepted=() if options.inline else tuple(dict.fromkeys((member, field.name, field.json_name))),
        shorthand=options.shorthand,
        raw=options.raw,
        null_when_unset=options.null_when_unset,
        omit_when_empty=options.omit_when_empty,
        byte_list=options.byte_list,
        inline=options.inline,
        comment=options.comment,
        required=_option(field, options_pb2.limits).required,
    )
    is_list = field.is_repeated and not spelling.is_map
    may_be_unset = (field.has_presence and not spelling.inline) or (
        (not field.is_repeated and field.type == FieldDescriptor.TYPE_ENUM) or spelling.raw
    )
    for given, possible, needed in (
        (spelling.shorthand, is_list, "shorthand needs a repeated field"),
        (
            spelling.raw,
            field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated,
            "raw needs a string field",
        ),
        (spelling.null_when_unset, may_be_unset, "null_when_unset needs a field that can be unset"),
        (spelling.omit_when_empty, field.is_repeated, "omit_when_empty needs a repeated or map field"),
        (
            spelling.byte_list,
            field.type == FieldDescriptor.TYPE_BYTES and not field.is_repeated,
            "byte_list needs a bytes field",
        ),
        (
            spelling.inline,
            field.message_type is not None and not field.is_repeated,
            "inline needs a single message field",
        ),
    ):
        if given and not possible:
            raise SpellingError(f"{field.full_name}: json.{needed}")
    return spelling


def _oneofs(message: Descriptor, by_name: dict[str, FieldSpelling]) -> tuple[tuple[FieldSpelling, ...], ...]:
    proto = DescriptorProto()
    message.CopyToProto(proto)
    # In the descriptor, an optional field is a oneof with one field.
    optional = {field.name for field in proto.field if field.proto3_optional}
    oneofs = [[field.name for field in oneof.fields] for oneof in message.oneofs]
    return tuple(tuple(by_name[n] for n in names) for names in oneofs if not optional.issuperset(names))


def _check_message(message: MessageSpelling) -> None:
    name = message.descriptor.full_name
    owners: dict[str, str] = {}
    if message.object:
        owners["object"] = "the constant member object"
    if message.tag:
        owners[message.tag] = "the tag"
    for field in message.fields:
        for member in field.accepted:
            if member in owners:
                raise SpellingError(
                    f"{name}: the member {member!r} is both {owners[member]} and {field.name}"
                )
            owners[member] = field.name
    if message.tag and len(message.oneofs) != 1:
        raise SpellingError(f"{name}: a tag needs exactly one oneof, not {len(message.oneofs)}")
    if message.inline and (message.bare or message.tag):
        raise SpellingError(f"{name}: a bare or tagged message has no inline field")
    if message.inline and any(message.inline in oneof for oneof in message.oneofs):
        raise SpellingError(f"{name}: an inline field stands in no oneof, as {message.inline.name} does")
    if not message.bare and any(field.comment for field in message.fields):
        raise SpellingError(f"{name}: json.comment needs a field of a bare message")
    if message.bare:
        if message.object or message.tag or message.shorthand:
            raise SpellingError(f"{name}: a bare message has no object, tag or shorthand")
        in_oneof = len(message.oneofs) == 1 and len(message.oneofs[0]) == len(message.fields)
        if len(message.fields) != 1 and not in_oneof:
            raise SpellingError(f"{name}: a bare message has one field, or one oneof and nothing beside it")
    for member in message.refused.keys() & message.own_members:
        raise SpellingError(f"{name}: {member} is refused, and the member of a field")
    if message.refused and (message.bare or message.tag):
        raise SpellingError(f"{name}: only a message that is a plain object has members to refuse")
    if message.shorthand:
        meant = message.shorthand.field
        is_text = meant.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_ENUM)
        if meant.is_repeated or message.shorthand.raw or not is_text:
            raise SpellingError(f"{name}: shorthand needs a string or enum field, not {meant.name}")


def _check_inline(message: Descriptor) -> None:
    """Check the inline fields before the other fields are read: a message must not be inline in itself."""
    within = [message]
    while fields := [field for field in within[-1].fields if _option(field, options_pb2.json).inline]:
        if len(fields) > 1:
            raise SpellingError(f"{within[-1].full_name}: at most one field is inline")
        inner = fields[0].message_type
        if inner is None or fields[0].is_repeated:
            return  # `_field_spelling` refuses such a field.
        if inner in within:
            raise SpellingError(f"{fields[0].full_name}: json.inline: {inner.full_name} contains itself")
        within.append(inner)
    if len(within) > 1:
        spelling = message_spelling(within[1])
        if spelling.is_json_string or spelling.bare or spelling.tag or spelling.is_status:
            raise SpellingError(f"{message.full_name}: json.inline: {within[1].full_name} has no members")


def _option(descriptor: Any, extension: Any) -> Any:
    return descriptor.GetOptions().Extensions[extension]
