"""The JSON spelling of messages, fields and enums, read from their options (inferd/options/v1) at start.

Checks the options: one that cannot work raises SpellingError with the name of the message or field. Does not
convert values: `decode` and `encode` compile the conversions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import orjson
from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, EnumValueDescriptor, FieldDescriptor

from inferd.options.v1 import options_pb2
from inferd.rest_bridge.refused_members import REFUSED
from inferd.services.net.declared_oneofs import declared_oneofs

_TIMESTAMP = "google.protobuf.Timestamp"
#: Well-known types that are a JSON string, or a number of seconds; see `well_known_types`.
_TIMES = (_TIMESTAMP, "google.protobuf.Duration")
_STRING_TYPES = (*_TIMES, "google.protobuf.FieldMask")
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
    """The JSON spelling of a field: inferd.options.v1.FieldJson, and google.api.field_behavior.

    `member` is the name of the JSON member in responses. `accepted` are the names that a request may use; a
    field with the option `inline` or `unknown` has none. The other attributes are the options, as
    options.proto describes them.
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
    seconds: bool
    also_seconds: str
    first_only: bool
    pairs: bool
    selected_by: tuple[str, ...]
    hides_inline: bool
    unknown: bool
    default_value: str
    required: bool
    input_only: bool

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

    @property
    def all_members(self) -> tuple[str, ...]:
        """The names of all members of the field, in requests and in responses."""
        return (*self.accepted, self.also_seconds) if self.also_seconds else self.accepted


@dataclass(frozen=True)
class InlineSpelling:
    """An inline field of a message, and the names of its members among the message's own.

    `fields` are the inline message's fields that remain members, by the names that they have here. Of the
    members of the inline message's JSON, `hidden` are the ones that the outer message hides, and `renamed`
    has the ones that have another name here. `excluded` are names in a request that are no members of the
    inline message.

    If the field is one of a oneof (`is_alternative`), any member of `selected_by` in a request tells that the
    field is the one that is set. If `selected_by` is empty, the field is set otherwise.
    """

    field: FieldSpelling
    fields: tuple[FieldSpelling, ...]
    hidden: frozenset[str]
    renamed: Mapping[str, str]
    excluded: frozenset[str]
    is_alternative: bool
    selected_by: frozenset[str]

    def members_of(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """The members of the inline message's JSON that are not hidden, by the names that they have here."""
        renamed, hidden = self.renamed, self.hidden
        return {renamed.get(name, name): value for name, value in document.items() if name not in hidden}


@dataclass(frozen=True)
class MessageSpelling:
    """The JSON spelling of a message: inferd.options.v1.MessageJson, with field names resolved to fields.

    `oneofs` excludes the oneofs that make a single field optional; a message with a tag has exactly one.
    `tag_after` is the field after which the tag stands; None if the tag is the first member. `inlines` are
    the fields whose members stand among the message's own. `refused` has the reason of each refused member
    (`refused_members`). `flat` is true if the members of the oneof's messages stand beside the tag.
    `untagged` is the field that an object without a tag sets. `shorthand_members` are further members of a
    message that a bare string stands for. `event` is the member that names a server-sent event. `unknown` is
    the field with the members that the message does not know. `is_json_string` is true for well-known types
    that are JSON strings, `is_status` for google.rpc.Status, which is OpenAI's error object.
    """

    descriptor: Descriptor
    fields: tuple[FieldSpelling, ...]
    oneofs: tuple[tuple[FieldSpelling, ...], ...]
    object: str
    bare: bool
    tag: str
    tag_after: FieldSpelling | None
    shorthand: FieldSpelling | None
    inlines: tuple[InlineSpelling, ...]
    flat: bool
    untagged: FieldSpelling | None
    shorthand_members: Mapping[str, Any]
    event: str
    unknown: FieldSpelling | None
    refused: Mapping[str, str]
    is_json_string: bool
    is_status: bool

    @property
    def accepts_number(self) -> bool:
        """Whether a request may give a number in place of the string."""
        return self.descriptor.full_name in _TIMES

    @property
    def own_members(self) -> frozenset[str]:
        """The message's own members, in requests and in responses, without those of inline messages."""
        constant = {"object"} if self.object else set()
        return frozenset(constant.union(*(field.all_members for field in self.fields)))

    @property
    def flat_members(self) -> frozenset[str]:
        """Names of the fields whose messages' members stand beside the tag. These names are no members."""
        arms = [field for oneof in self.oneofs for field in oneof if field.field.message_type is not None]
        return frozenset(name for field in arms for name in field.accepted) if self.flat else frozenset()

    @property
    def is_first_only(self) -> bool:
        """Whether a field has the option `first_only`."""
        return any(field.first_only for field in self.fields)

    @property
    def constant(self) -> str:
        """Value of the constant member "object", which may be an inline message's; empty if there is none."""
        inner = (message_spelling(i.field.nested).constant for i in self.inlines if "object" not in i.hidden)
        return self.object or next(inner, "")


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
    _check_cycles(message)
    _check_shorthand_cycle(message)
    fields = tuple(_field_spelling(field) for field in message.fields)
    by_name = {spelling.name: spelling for spelling in fields}
    for option in ("shorthand", "tag_after", "untagged"):
        named = getattr(options, option)
        if named and named not in by_name:
            raise SpellingError(f"{message.full_name}: {option} names no field: {named!r}")
    oneofs = _oneofs(message, by_name)
    spelling = MessageSpelling(
        descriptor=message,
        fields=fields,
        oneofs=oneofs,
        object=options.object,
        bare=options.bare or message.full_name in _WRAPPERS,
        tag=options.tag,
        tag_after=by_name.get(options.tag_after),
        shorthand=by_name.get(options.shorthand),
        inlines=_inlines(message, options.object, fields, oneofs),
        flat=options.flat,
        untagged=by_name.get(options.untagged),
        shorthand_members=_object(message, options.shorthand_members),
        event=options.event,
        unknown=next((field for field in fields if field.unknown), None),
        refused=REFUSED.get(message.full_name, {}),
        is_json_string=message.full_name in _STRING_TYPES,
        is_status=message.full_name == _STATUS,
    )
    _check_message(spelling)
    return spelling


def json_fields(message: MessageSpelling) -> tuple[FieldSpelling, ...]:
    """The fields that are members of the JSON object: the message's own and those of its inline messages.

    Fields of an inline message are required only if the inline field is; of several inline fields in one
    oneof, if all of their messages require them. If two of these have the same member, the one of the last
    message counts, which is the message that is set if nothing selects another one.
    """
    inlined: dict[str, FieldSpelling] = {}
    required = [{field.member for field in inline.fields if field.required} for inline in message.inlines]
    for inline in sorted(message.inlines, key=lambda inline: not inline.selected_by):
        for field in inline.fields:
            is_required = inline.is_alternative or inline.field.required
            is_required = is_required and all(field.member in members for members in required)
            inlined[field.member] = replace(field, required=is_required)
    own = (field for field in message.fields if not field.inline and not field.unknown)
    return (*inlined.values(), *own)


@cache
def enum_spelling(enum: EnumDescriptor, dialect: str = "") -> EnumSpelling:
    """The words of an enum's values: their json_value or, if no value has one, their names (proto3 JSON).

    A value that has another word in the dialect has this word only. The value 0 has a word only if one is
    declared. Raises SpellingError.
    """
    declared: dict[int, str] = {
        value.number: word for value in enum.values if (word := _declared_word(value, dialect))
    }
    words = declared or {value.number: value.name for value in reversed(enum.values) if value.number}
    for value in enum.values:
        if value.number and value.number not in words:
            raise SpellingError(f"{enum.full_name}: {value.name} has no json_value, but other values have")
    numbers = {word: number for number, word in words.items()}
    if len(numbers) < len(words):
        raise SpellingError(f"{enum.full_name}: two values have the same json_value")
    return EnumSpelling(words, numbers)


def _field_spelling(field: FieldDescriptor) -> FieldSpelling:
    options = _option(field, options_pb2.json)
    behavior = _option(field, field_behavior_pb2.field_behavior)
    member = options.name or field.name
    names = () if options.inline or options.unknown else (member, field.name, field.json_name)
    spelling = FieldSpelling(
        field=field,
        member=member,
        accepted=tuple(dict.fromkeys(names)),
        shorthand=options.shorthand,
        raw=options.raw,
        null_when_unset=options.null_when_unset,
        omit_when_empty=options.omit_when_empty,
        byte_list=options.byte_list,
        inline=options.inline,
        comment=options.comment,
        seconds=options.seconds,
        also_seconds=options.also_seconds,
        first_only=options.first_only,
        pairs=options.pairs,
        selected_by=tuple(options.selected_by),
        hides_inline=options.hides_inline,
        unknown=options.unknown,
        default_value=options.default_value,
        required=field_behavior_pb2.REQUIRED in behavior,
        input_only=field_behavior_pb2.INPUT_ONLY in behavior,
    )
    is_list = field.is_repeated and not spelling.is_map
    type_name = field.message_type.full_name if field.message_type is not None else ""
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
        (spelling.seconds, type_name in _TIMES, "seconds needs a Timestamp or Duration field"),
        (
            bool(spelling.also_seconds),
            type_name == _TIMESTAMP and not field.is_repeated,
            "also_seconds needs a single Timestamp field",
        ),
        (
            spelling.pairs,
            is_list and _is_pair(field.message_type),
            "pairs needs a repeated field of messages with two single fields, the first of them a string",
        ),
        (spelling.pairs, not spelling.shorthand, "pairs goes not with shorthand"),
        (spelling.first_only, not spelling.inline, "first_only goes not with inline"),
        (bool(spelling.selected_by), spelling.inline, "selected_by needs an inline field"),
        (spelling.hides_inline, not spelling.inline, "hides_inline goes not with inline"),
        (spelling.unknown, _is_text_map(spelling), "unknown needs a map<string, string> field"),
        (spelling.unknown, not spelling.inline, "unknown goes not with inline"),
        (
            bool(spelling.default_value),
            not (spelling.inline or spelling.unknown or spelling.null_when_unset or spelling.input_only),
            "default_value needs a member of responses that is not null if it is unset",
        ),
    ):
        if given and not possible:
            raise SpellingError(f"{field.full_name}: json.{needed}")
    return spelling


def _oneofs(message: Descriptor, by_name: dict[str, FieldSpelling]) -> tuple[tuple[FieldSpelling, ...], ...]:
    return tuple(tuple(by_name[field.name] for field in oneof.fields) for oneof in declared_oneofs(message))


def _check_message(message: MessageSpelling) -> None:
    name = message.descriptor.full_name
    owners: dict[str, str] = {}
    if message.object:
        owners["object"] = "the constant member object"
    if message.tag:
        owners[message.tag] = "the tag"
    for field in message.fields:
        for member in field.all_members:
            if member in owners:
                raise SpellingError(
                    f"{name}: the member {member!r} is both {owners[member]} and {field.name}"
                )
            owners[member] = field.name
    if message.tag and len(message.oneofs) != 1:
        raise SpellingError(f"{name}: a tag needs exactly one oneof, not {len(message.oneofs)}")
    if message.tag_after and (not message.tag or message.tag_after.inline):
        raise SpellingError(f"{name}: tag_after needs a tag, and a field that is a member")
    if message.tag_after and any(message.tag_after in oneof for oneof in message.oneofs):
        raise SpellingError(f"{name}: tag_after names a field of the oneof: {message.tag_after.name}")
    if message.inlines and (message.bare or message.tag):
        raise SpellingError(f"{name}: a bare or tagged message has no inline field")
    if not message.inlines and any(field.hides_inline for field in message.fields):
        raise SpellingError(f"{name}: json.hides_inline needs an inline field beside it")
    further = message.inlines or message.unknown or any(field.also_seconds for field in message.fields)
    if (message.bare or message.tag or further) and message.is_first_only:
        raise SpellingError(f"{name}: json.first_only needs a message whose fields are its only members")
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
    if message.shorthand and not _takes_string(message.shorthand):
        raise SpellingError(
            f"{name}: shorthand needs a field that a string can set, not {message.shorthand.name}"
        )
    if message.shorthand_members and not message.shorthand:
        raise SpellingError(f"{name}: shorthand_members needs a shorthand")
    if message.unknown and (message.bare or message.tag or message.inlines):
        raise SpellingError(f"{name}: json.unknown needs a plain object without inline fields")
    if sum(field.unknown for field in message.fields) > 1:
        raise SpellingError(f"{name}: at most one field has json.unknown")
    _check_union(message, owners)
    _check_event(message)


def _check_union(message: MessageSpelling, owners: Mapping[str, str]) -> None:
    """Check the options `flat` and `untagged`. `owners` has the message's own members and the tag."""
    name = message.descriptor.full_name
    if (message.flat or message.untagged) and not message.tag:
        raise SpellingError(f"{name}: flat and untagged need a tag")
    if message.untagged and message.untagged not in message.oneofs[0]:
        raise SpellingError(f"{name}: untagged names no field of the oneof: {message.untagged.name}")
    for field in message.oneofs[0] if message.flat else ():
        if field.field.message_type is None:
            continue
        inner = _option(field.nested, options_pb2.message_json)
        if inner.bare or inner.tag or field.nested.full_name in (*_STRING_TYPES, _STATUS, *_WRAPPERS):
            raise SpellingError(f"{name}: flat: {field.nested.full_name} has no members")
        arm = message_spelling(field.nested)
        members = {member for inner_field in json_fields(arm) for member in inner_field.all_members}
        # Fields of the oneof that are messages are no members.
        twice = (members | arm.own_members) & (owners.keys() - message.flat_members)
        if twice:
            raise SpellingError(f"{name}: flat: two members are named {min(twice)}")


def _check_event(message: MessageSpelling) -> None:
    """Check the option `event`."""
    name = message.descriptor.full_name
    if not message.event:
        return
    if message.tag == message.event:
        words = [field.member for field in message.oneofs[0]]
    else:
        enums = [field.field.enum_type for field in message.fields if field.member == message.event]
        if message.bare or len(enums) != 1 or enums[0] is None:
            raise SpellingError(f"{name}: event names neither the tag nor an enum: {message.event!r}")
        words = [value.name for value in enums[0].values]
        for value in enums[0].values:
            words.append(_option(value, options_pb2.json_value))
            words += [entry.value for entry in _option(value, options_pb2.dialect_value)]
    if message.shorthand and message.shorthand.field.enum_type is not None:
        raise SpellingError(f"{name}: event goes not with a shorthand that is an enum")
    if not all(word.isprintable() for word in words):
        raise SpellingError(f"{name}: event: a name is not one line")


def _check_shorthand_cycle(message: Descriptor) -> None:
    """Check that the shorthand of a message does not lead to the message itself."""
    within: list[Descriptor] = []
    inner: Descriptor | None = message
    while inner is not None:
        if inner in within:
            raise SpellingError(f"{message.full_name}: its shorthand contains itself")
        within.append(inner)
        field = inner.fields_by_name.get(_option(inner, options_pb2.message_json).shorthand)
        inner = field.message_type if field is not None else None


def _takes_string(field: FieldSpelling) -> bool:
    """Whether a JSON string can be the value of a field: of the field itself, or of a message in it."""
    if field.raw or field.is_map or (field.field.is_repeated and not field.shorthand):
        return False
    if field.field.message_type is not None:
        return bool(_option(field.nested, options_pb2.message_json).shorthand)
    return field.field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_ENUM)


def _check_cycles(message: Descriptor, within: tuple[Descriptor, ...] = ()) -> None:
    """Check the inline fields before the other fields are read: a message must not be inline in itself."""
    for field in message.fields:
        inner = field.message_type
        # `_field_spelling` refuses inline fields of other types.
        if inner is None or field.is_repeated or not _option(field, options_pb2.json).inline:
            continue
        if inner in (*within, message):
            raise SpellingError(f"{field.full_name}: json.inline: {inner.full_name} contains itself")
        _check_cycles(inner, (*within, message))


def _inlines(
    message: Descriptor,
    constant: str,
    fields: tuple[FieldSpelling, ...],
    oneofs: tuple[tuple[FieldSpelling, ...], ...],
) -> tuple[InlineSpelling, ...]:
    """The inline fields of a message. `constant` is the message's own constant member "object", or empty."""
    inline = tuple(field for field in fields if field.inline)
    alternatives = inline in oneofs
    if not alternatives and len(inline) > 1:
        raise SpellingError(
            f"{message.full_name}: at most one field is inline, or all fields of one oneof are"
        )
    if not alternatives and any(inline[0] in oneof for oneof in oneofs if inline):
        raise SpellingError(f"{message.full_name}: all fields of a oneof are inline, or none is")
    if not alternatives and any(field.selected_by for field in inline):
        raise SpellingError(f"{message.full_name}: json.selected_by needs a field of a oneof")
    if alternatives and sum(not field.selected_by for field in inline) > 1:
        raise SpellingError(f"{message.full_name}: only one inline field can lack json.selected_by")
    owners = {member: field for field in fields for member in field.all_members}
    return tuple(_inline_spelling(field, constant, owners, alternatives) for field in inline)


def _inline_spelling(
    field: FieldSpelling, constant: str, owners: Mapping[str, FieldSpelling], is_alternative: bool
) -> InlineSpelling:
    """The members of an inline field. `owners` are the outer message's own fields by their members."""
    inner = message_spelling(field.nested)
    where = field.field.full_name
    if inner.is_json_string or inner.bare or inner.tag or inner.is_status:
        raise SpellingError(f"{where}: json.inline: {field.nested.full_name} has no members")
    fields: list[FieldSpelling] = []
    hidden, excluded, renamed = set[str](), {*owners}, dict[str, str]()
    if inner.constant and (constant or "object" in owners):
        if not constant and not owners["object"].hides_inline:
            raise SpellingError(f"{where}: two members are named object")
        hidden.add("object")
    for member in json_fields(inner):
        taken = [owners[name] for name in member.all_members if name in owners]
        free = tuple(name for name in member.accepted if name not in owners)
        if any(owner.hides_inline for owner in taken):
            hidden.update((member.member, member.also_seconds))
            excluded.update(member.accepted)
        elif constant and "object" in member.all_members:
            raise SpellingError(f"{where}: two members are named object")
        elif not {member.member, member.name} & {*free} or member.also_seconds in owners:
            raise SpellingError(f"{where}: two members are named {member.member}, one of {taken[0].name}")
        else:
            name = member.member if member.member in free else member.name
            fields.append(replace(member, member=name, accepted=free))
            if name != member.member:
                renamed[member.member] = name
    # An inline message with unknown members may have any member.
    constants = {"object"} if constant else set[str]()
    hidden.update({*owners, *constants} - renamed.keys())
    excluded.update(constants)
    names = {name for member in fields for name in member.accepted}
    selected_by = set[str]()
    for name in field.selected_by:
        if name not in names:
            raise SpellingError(f"{where}: json.selected_by names no member: {name!r}")
        selected_by.update(*(member.accepted for member in fields if name in member.accepted))
    return InlineSpelling(
        field=field,
        fields=tuple(fields),
        hidden=frozenset(hidden),
        renamed=renamed,
        excluded=frozenset(excluded),
        is_alternative=is_alternative,
        selected_by=frozenset(selected_by),
    )


def _is_pair(message: Descriptor | None) -> bool:
    if message is None or len(message.fields) != 2:
        return False
    first, second = message.fields
    return first.type == FieldDescriptor.TYPE_STRING and not (first.is_repeated or second.is_repeated)


def _is_text_map(field: FieldSpelling) -> bool:
    text = FieldDescriptor.TYPE_STRING
    return field.is_map and [entry.type for entry in field.nested.fields] == [text, text]


def _object(message: Descriptor, text: str) -> Mapping[str, Any]:
    """The JSON object in the option `shorthand_members`; empty if the option is not set."""
    try:
        document = orjson.loads(text or "{}")
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise SpellingError(f"{message.full_name}: shorthand_members is no JSON object: {text!r}")
    return document


def _declared_word(value: EnumValueDescriptor, dialect: str) -> str:
    """The word that an option declares for an enum value in a dialect; empty if none does."""
    word: str = _option(value, options_pb2.json_value)
    for entry in _option(value, options_pb2.dialect_value):
        if entry.dialect == dialect:
            word = entry.value
    return word


def _option(descriptor: Any, extension: Any) -> Any:
    return descriptor.GetOptions().Extensions[extension]
