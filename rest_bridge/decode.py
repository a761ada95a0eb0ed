"""Converts JSON documents to request messages. Compiles each message type once, at start, to closures.

Checks the types of values only: the services check limits and meaning. A fault of the JSON is a ServiceError
INVALID_ARGUMENT that names the member as the client wrote it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from inferd.rest_bridge import well_known_types
from inferd.rest_bridge.json_body import bad_body
from inferd.rest_bridge.json_errors import Mismatch, expected, kind_names, not_one_of, quoted, required
from inferd.rest_bridge.json_kinds import bare_forms, element_kinds, field_kinds, inner_list_kinds
from inferd.rest_bridge.json_scalars import (
    BITS,
    Convert,
    base64_bytes,
    boolean,
    bounds,
    declared_bounds,
    float32,
    float64,
    integer,
    one_of,
    raw_document,
    refuse,
    string,
)
from inferd.rest_bridge.json_spelling import (
    FieldSpelling,
    InlineSpelling,
    MessageSpelling,
    SpellingError,
    enum_spelling,
    json_fields,
    message_spelling,
)

#: By JSON member: the name of the proto field, the Python type that needs no conversion (or None), the
#: conversion.
_Members = dict[str, tuple[str, type | None, Convert]]

_INTEGER_KEY = re.compile(r"-?[0-9]{1,20}", re.ASCII)


class Decoder:
    """Makes messages of one type. Raises SpellingError if the type cannot be the body of a request.

    `dialect` is the name of the JSON's dialect (inferd.options.v1.Dialect), or empty.
    """

    def __init__(self, message: Descriptor, dialect: str = "") -> None:
        if message_spelling(message).is_json_string:
            raise SpellingError(f"{message.full_name} is a JSON string: it cannot be a body")
        self._new = GetMessageClass(message)
        self._convert = _Compiler(dialect).message(message)

    def decode(self, document: Any) -> Message:
        """The message of a JSON document, as `json_body.parse` returns it.

        Raises ServiceError INVALID_ARGUMENT naming the member at fault.
        """
        try:
            return self._new(**self._convert(document))
        except Mismatch as mismatch:
            raise mismatch.error() from None
        except RecursionError:
            raise bad_body("the body is nested too deeply") from None


class _Compiler:
    """Compiles message types, each once, because a message may contain itself."""

    def __init__(self, dialect: str) -> None:
        self._dialect = dialect
        self._messages: dict[Descriptor, Convert] = {}
        #: By message: the conversion of a bare string that sets more than one string or enum field.
        self._shorthands: dict[Descriptor, Convert] = {}

    def message(self, message: Descriptor) -> Convert:
        """The conversion of a JSON value to the message's fields, as a dict by name."""
        convert = self._messages.get(message)
        if convert is None:
            spelling = message_spelling(message)
            if spelling.is_json_string:
                convert = self._messages[message] = well_known_types.json_reader(message)
            elif spelling.is_status:
                convert = self._messages[message] = refuse("nothing: only responses have errors")
            elif spelling.bare:
                convert = self._bare(spelling)
            elif spelling.tag:
                convert = self._tagged(spelling)
            else:
                convert = self._object(spelling)
            if spelling.shorthand is not None and not _is_plain_shorthand(spelling):
                self._shorthands[message] = self._shorthand(spelling, spelling.shorthand, convert)
        return convert

    def _shorthand(self, spelling: MessageSpelling, field: FieldSpelling, convert_object: Convert) -> Convert:
        """The conversion of a bare string that stands for the whole message."""
        name, convert = field.name, self._field(field)
        try:
            others = convert_object(spelling.shorthand_members) if spelling.shorthand_members else {}
        except Mismatch as mismatch:
            where = spelling.descriptor.full_name
            raise SpellingError(f"{where}: shorthand_members: {mismatch.path}{mismatch.text}") from None
        return lambda value: {**others, name: convert(value)}

    def _object(self, spelling: MessageSpelling) -> Convert:
        members: _Members = {}
        convert = _fields(members, self._no_object(spelling))
        if spelling.unknown is not None:
            convert = _all_members(convert, spelling.unknown.name, spelling.own_members)
        if spelling.oneofs:
            convert = _exclusive(spelling.oneofs, convert)
        if spelling.refused:
            convert = _refusing(spelling.refused, convert)
        # Stored before the members are compiled, because one of them may be of this type.
        self._messages[spelling.descriptor] = convert
        if spelling.inlines:
            convert = self._inlined(spelling, convert)
        for field in spelling.fields:
            self._add(members, field)
        return convert

    def _inlined(self, spelling: MessageSpelling, convert: Convert) -> Convert:
        """The conversion of an object that also has the members of inline messages.

        An inline field that is neither required nor an alternative is unset if none of its members is given.
        """
        # The alternative that nothing selects is the last one.
        inlines = sorted(spelling.inlines, key=lambda inline: not inline.selected_by)
        choices: list[tuple[InlineSpelling, Convert]] = []

        def both(value: Any) -> Any:
            values = convert(value)
            if type(value) is not dict:
                return values
            for inline, convert_inner in choices:
                selected_by, excluded = inline.selected_by, inline.excluded
                if selected_by and not any(value.get(member) is not None for member in selected_by):
                    continue
                inner = convert_inner({member: value[member] for member in value if member not in excluded})
                if inner or inline.is_alternative or inline.field.required:
                    values[inline.field.name] = inner
                break
            return values

        self._messages[spelling.descriptor] = both
        choices += [(inline, self.message(inline.field.nested)) for inline in inlines]
        return both

    def _tagged(self, spelling: MessageSpelling) -> Convert:
        """The conversion of an object whose tag (such as "type") tells which field of the oneof is set."""
        tag, oneof = spelling.tag, spelling.oneofs[0]
        no_object = self._no_object(spelling)
        untagged = spelling.untagged.member if spelling.untagged is not None else None
        flat_members = spelling.flat_members
        # An enum that a bare string can set is not offered as a kind too.
        offered = [field.member for field in oneof if field is not spelling.shorthand or not _is_enum(field)]
        may_be_absent = {field.name for field in oneof if _may_be_empty(field)}
        # By kind: the field, and the conversion of an object of that kind. Members of other kinds are
        # ignored, as unknown members are.
        kinds: dict[str, tuple[FieldSpelling, Convert]] = {}

        def infer(value: dict[str, Any]) -> tuple[FieldSpelling, Convert]:
            """The kind of an object without a tag, if its members are of one kind only."""
            present = (
                []
                if spelling.flat
                else [
                    kind for kind in kinds.values() if any(value.get(m) is not None for m in kind[0].accepted)
                ]
            )
            if len(present) != 1:
                raise required().prefixed(tag)
            return present[0]

        def convert(value: Any) -> dict[str, Any]:
            if type(value) is not dict:
                return no_object(value)
            named = value.get(tag)
            if named is None:
                field, fields = kinds[untagged] if untagged is not None else infer(value)
            elif type(named) is str and named in kinds:
                field, fields = kinds[named]
            else:
                raise not_one_of(offered, named).prefixed(tag)
            values = fields(value)
            if field.name not in values:
                if field.name not in may_be_absent:
                    raise required().prefixed(field.member)
                values[field.name] = {}
            return values

        self._messages[spelling.descriptor] = convert
        for chosen in oneof:
            is_flat = chosen.name in flat_members
            members: _Members = {}
            fields_of_kind = _fields(members, no_object)
            for field in spelling.fields:
                if (field is chosen and not is_flat) or field not in oneof:
                    self._add(members, field)
            if is_flat:
                excluded = frozenset({tag, *members})
                fields_of_kind = _beside(fields_of_kind, chosen.name, self.message(chosen.nested), excluded)
            kinds[chosen.member] = (chosen, fields_of_kind)
        return convert

    def _bare(self, spelling: MessageSpelling) -> Convert:
        """The conversion of a value to the field that is set. The kind of the JSON value tells the field."""
        forms: dict[type, tuple[str, Convert]] = {}

        def convert(value: Any) -> dict[str, Any]:
            form = forms.get(type(value))
            if form is None:
                if value is None:
                    return {}
                raise expected(expected_kinds, value)
            return {form[0]: form[1](value)}

        self._messages[spelling.descriptor] = convert
        by_kind = bare_forms(spelling)
        expected_kinds = kind_names(by_kind)
        fields = {field.name: self._field(field) for field in spelling.fields}
        for kind, field in by_kind.items():
            forms[kind] = (field.name, fields[field.name])
        return convert

    def _no_object(self, spelling: MessageSpelling) -> Convert:
        """The conversion of a value that is not an object: the shorthand string, or an error."""
        field = spelling.shorthand
        if field is None:
            return refuse("an object")
        otherwise = refuse("an object or a string")
        if not _is_plain_shorthand(spelling):
            # Compiled after the message, because the string may set a field of the same type.
            shorthands, message = self._shorthands, spelling.descriptor
            return lambda value: shorthands[message](value) if type(value) is str else otherwise(value)
        name, convert = field.name, self._single_value(field)
        return lambda value: {name: convert(value)} if type(value) is str else otherwise(value)

    def _add(self, members: _Members, field: FieldSpelling) -> None:
        convert = self._field(field)
        plain = _PLAIN.get(convert)
        for member in field.accepted:
            members[member] = (field.name, plain, convert)

    def _field(self, field: FieldSpelling) -> Convert:
        """The conversion of a field's JSON value."""
        if field.is_map:
            entry = message_spelling(field.nested)
            key, value = entry.fields
            convert = self._single_value(value)
            if value.field.message_type is not None:
                convert = _as_message(value.nested, convert)
            return _map(_key(key.field), convert)
        if field.pairs:
            first, second = message_spelling(field.nested).fields
            return _pairs(first.name, second.name, self._single_value(second))
        if not field.field.is_repeated:
            return self._single_value(field)
        element = self._single_value(field)
        elements = _list(element, _needs_no_conversion(field.field))
        if not field.shorthand:
            return elements
        return _list_or_element(element, elements, field)

    def _single_value(self, field: FieldSpelling) -> Convert:
        """The conversion of the value of a singular field, or of one value of a list or map."""
        if field.raw:
            return raw_document
        match field.field.type:
            case FieldDescriptor.TYPE_MESSAGE | FieldDescriptor.TYPE_GROUP:
                return self.message(field.nested)
            case FieldDescriptor.TYPE_ENUM:
                return one_of(enum_spelling(field.field.enum_type, self._dialect).numbers)
            case FieldDescriptor.TYPE_BYTES:
                return _byte_list if field.byte_list else base64_bytes
            case FieldDescriptor.TYPE_STRING:
                return string
            case FieldDescriptor.TYPE_BOOL:
                return boolean
            case FieldDescriptor.TYPE_DOUBLE:
                return float64
            case FieldDescriptor.TYPE_FLOAT:
                return float32
            case _:
                return integer(*bounds(field.field), declared_bounds(field.field))


def _fields(members: _Members, no_object: Convert) -> Convert:
    """The conversion of an object to a dict of field values, by field name. Unknown members are ignored.

    `no_object` converts values that are not objects.
    """

    def convert(value: Any) -> Any:
        if type(value) is not dict:
            return no_object(value)
        values = {}
        try:
            for member, given in value.items():
                entry = members.get(member)
                if entry is not None and given is not None:
                    name, plain, convert_value = entry
                    values[name] = given if type(given) is plain else convert_value(given)
        except Mismatch as mismatch:
            raise mismatch.prefixed(member) from None
        return values

    return convert


def _all_members(convert_known: Convert, unknown: str, known: frozenset[str]) -> Convert:
    """`convert_known`, after which the members that are not `known` are put into the field `unknown`."""

    def convert(value: Any) -> Any:
        values = convert_known(value)
        if type(value) is not dict:
            return values
        kept = {}
        for member, given in value.items():
            if member not in known and given is not None:
                try:
                    kept[member] = raw_document(given)
                except Mismatch as mismatch:
                    raise mismatch.prefixed(member) from None
        return {**values, unknown: kept} if kept else values

    return convert


def _beside(convert: Convert, name: str, convert_message: Convert, excluded: frozenset[str]) -> Convert:
    """`convert`, after which the field `name` is set to the message whose members stand beside the others.

    `excluded` are the members that are not the message's.
    """

    def both(value: Any) -> Any:
        values = convert(value)
        values[name] = convert_message({member: value[member] for member in value if member not in excluded})
        return values

    return both


def _exclusive(oneofs: Sequence[Sequence[FieldSpelling]], convert: Convert) -> Convert:
    """`convert`, after which two members of one oneof are refused."""

    def check(value: Any) -> Any:
        values = convert(value)
        for oneof in oneofs:
            given = [field for field in oneof if field.name in values]
            if len(given) > 1:
                raise Mismatch(f" cannot stand beside {given[0].member}").prefixed(given[1].member)
        return values

    return check


def _refusing(refused: Mapping[str, str], convert: Convert) -> Convert:
    """`convert`, before which the members of `refused`, which have their reasons, are refused.

    null, false, 0 and empty values pass.
    """
    names = frozenset(refused)

    def check(value: Any) -> Any:
        if type(value) is dict and not names.isdisjoint(value):
            for member in value:
                if member in names and value[member]:
                    raise Mismatch(f" is not supported: {refused[member]}", "UNSUPPORTED_PARAMETER").prefixed(
                        member
                    )
        return convert(value)

    return check


def _list(convert: Convert, needs_none: Callable[[list[Any]], bool]) -> Convert:
    """The conversion of a list. A list for which `needs_none` is true is returned as it is."""

    def elements(value: Any) -> list[Any]:
        if type(value) is not list:
            raise expected("a list", value)
        if needs_none(value):
            return value
        converted: list[Any] = []
        try:
            for element in value:
                converted.append(convert(element))
        except Mismatch as mismatch:
            raise mismatch.prefixed(f"[{len(converted)}]") from None
        return converted

    return elements


def _list_or_element(element: Convert, elements: Convert, field: FieldSpelling) -> Convert:
    """The conversion of a list, or of a bare element that stands for a list of one."""
    kinds, inner_kinds = element_kinds(field), inner_list_kinds(field)
    expected_kinds = kind_names(field_kinds(field))

    def convert(value: Any) -> list[Any]:
        if type(value) is list:
            if inner_kinds and value and type(value[0]) in inner_kinds:
                return [element(value)]
            return elements(value)
        if type(value) in kinds:
            return [element(value)]
        raise expected(expected_kinds, value)

    return convert


def _needs_no_conversion(field: FieldDescriptor) -> Callable[[list[Any]], bool]:
    """Tells whether a whole list can be kept as it is.

    Lists of token ids may have tens of thousands of elements, for which one test is faster than conversions.
    """
    if field.type == FieldDescriptor.TYPE_STRING:
        return lambda value: set(map(type, value)) == {str}
    if field.cpp_type in BITS:
        low, high = bounds(field)
        return lambda value: set(map(type, value)) == {int} and low <= min(value) and max(value) <= high
    return lambda value: not value


def _map(key: Convert, convert: Convert) -> Convert:
    def entries(value: Any) -> dict[Any, Any]:
        if type(value) is not dict:
            raise expected("an object", value)
        converted = {}
        try:
            for name, given in value.items():
                converted[key(name)] = convert(given)
        except Mismatch as mismatch:
            raise mismatch.prefixed(f"[{quoted(name)}]") from None
        return converted

    return entries


def _pairs(first: str, second: str, convert: Convert) -> Convert:
    """The conversion of an object to a list of messages with a name, in the field `first`, and a value."""
    entries = _map(string, convert)
    return lambda value: [{first: name, second: given} for name, given in entries(value).items()]


def _as_message(message: Descriptor, convert: Convert) -> Convert:
    """The conversion to a message instead of a dict, which the values of a map field must be."""
    new = GetMessageClass(message)

    def build(value: Any) -> Message:
        made = convert(value)
        return made if isinstance(made, Message) else new(**made)

    return build


def _key(field: FieldDescriptor) -> Convert:
    """The conversion of a map's key, which is a string in JSON."""
    if field.type == FieldDescriptor.TYPE_STRING:
        return string
    if field.type == FieldDescriptor.TYPE_BOOL:
        return one_of({"true": True, "false": False})
    low, high = bounds(field)

    def convert(value: str) -> int:
        if _INTEGER_KEY.fullmatch(value) and low <= (number := int(value)) <= high:
            return number
        raise Mismatch(f": expected an integer from {low} to {high} as the key")

    return convert


#: Conversions that return a value of this type unchanged.
_PLAIN: dict[Convert, type] = {string: str, boolean: bool, float64: float}


_bytes_of = _list(integer(0, 255), lambda value: not value)


def _byte_list(value: Any) -> bytes:
    return bytes(_bytes_of(value))


def _is_plain_shorthand(spelling: MessageSpelling) -> bool:
    """Whether a bare string sets one string or enum field of the message, and nothing else."""
    field = spelling.shorthand
    if field is None or spelling.shorthand_members or field.field.is_repeated:
        return False
    return field.field.message_type is None


def _is_enum(field: FieldSpelling) -> bool:
    return field.field.type == FieldDescriptor.TYPE_ENUM


def _may_be_empty(field: FieldSpelling) -> bool:
    """Whether the field is a message without required fields, so that the tag alone may stand for it."""
    return field.field.message_type is not None and not any(
        inner.required for inner in json_fields(message_spelling(field.nested))
    )
