"""JSON documents to request messages: each message type is compiled once, at start, into closures a field.

Checks types only; what a well-typed request may ask for is checked by the services. Every fault of the
JSON ends as a ServiceError INVALID_ARGUMENT that names the member, spelled as the client spelled it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from inferd.rest_bridge import well_known
from inferd.rest_bridge.json_body import bad_body
from inferd.rest_bridge.json_faults import Mismatch, expected, required, shown, spoken, unknown_word
from inferd.rest_bridge.json_scalars import (
    BITS,
    Convert,
    base64_bytes,
    boolean,
    bounds,
    declared_bounds,
    double,
    integer,
    raw_document,
    refuse,
    single,
    string,
    word,
)
from inferd.rest_bridge.spelling import (
    FieldSpelling,
    MessageSpelling,
    SpellingError,
    bare_forms,
    element_kinds,
    enum_spelling,
    field_kinds,
    flattened,
    listed_kinds,
    message_spelling,
)

#: By JSON member: the proto field's name, the type of a value that needs no conversion, the conversion.
_Members = dict[str, tuple[str, type | None, Convert]]

_INTEGER_KEY = re.compile(r"-?[0-9]{1,20}", re.ASCII)


class Decoder:
    """Makes messages of one type. Raises SpellingError for a type that has no JSON form."""

    def __init__(self, message: Descriptor) -> None:
        if message_spelling(message).text_form:
            raise SpellingError(f"{message.full_name} is a JSON string: it cannot be a body")
        self._new = GetMessageClass(message)
        self._convert = _Compiler().message(message)

    def decode(self, document: Any) -> Message:
        """The message that a JSON document (of `parse`) spells. Raises INVALID_ARGUMENT."""
        try:
            return self._new(**self._convert(document))
        except Mismatch as mismatch:
            raise mismatch.error() from None
        except RecursionError:
            raise bad_body("the body is nested too deeply") from None


class _Compiler:
    """Compiles message types, each once, so that a message may contain itself."""

    def __init__(self) -> None:
        self._messages: dict[Descriptor, Convert] = {}

    def message(self, message: Descriptor) -> Convert:
        """The conversion of a message's JSON form."""
        convert = self._messages.get(message)
        if convert is None:
            spelling = message_spelling(message)
            if spelling.text_form:
                convert = self._messages[message] = well_known.json_reader(message)
            elif spelling.error:
                convert = self._messages[message] = refuse("nothing: only responses have errors")
            elif spelling.bare:
                convert = self._bare(spelling)
            elif spelling.tag:
                convert = self._tagged(spelling)
            else:
                convert = self._object(spelling)
        return convert

    def _object(self, spelling: MessageSpelling) -> Convert:
        members: _Members = {}
        convert = _fields(members, self._no_object(spelling))
        if spelling.unions:
            convert = _exclusive(spelling.unions, convert)
        if spelling.refused:
            convert = _refusing(spelling.refused, convert)
        # Entered before its members are compiled: one of them may be of this type.
        self._messages[spelling.descriptor] = convert
        if spelling.inline is not None:
            convert = self._inlined(spelling, spelling.inline, convert)
        for field in spelling.fields:
            self._add(members, field)
        return convert

    def _inlined(self, spelling: MessageSpelling, inline: FieldSpelling, convert: Convert) -> Convert:
        """An object of which the members that are not its own are those of its inline field."""
        name, own = inline.name, spelling.own

        def both(value: Any) -> Any:
            values = convert(value)
            if type(value) is dict:
                others = {member: given for member, given in value.items() if member not in own}
                if inner := convert_inner(others):
                    values[name] = inner
            return values

        self._messages[spelling.descriptor] = both
        convert_inner = self.message(inline.nested)
        return both

    def _tagged(self, spelling: MessageSpelling) -> Convert:
        tag, union = spelling.tag, spelling.unions[0]
        no_object = self._no_object(spelling)
        # An enum that has a bare string of its own is not offered a second time, as a kind.
        offered = [field.member for field in union if field is not spelling.shorthand or not _is_enum(field)]
        may_be_missing = {field.name for field in union if _may_be_empty(field)}
        # By kind: the field, and the conversion of an object of that kind. Members of other kinds are
        # ignored, like any other that the kind does not have.
        kinds: dict[str, tuple[FieldSpelling, Convert]] = {}

        def infer(value: dict[str, Any]) -> tuple[FieldSpelling, Convert]:
            present = [
                kind for kind in kinds.values() if any(value.get(m) is not None for m in kind[0].accepted)
            ]
            if len(present) != 1:
                raise required().under(tag)
            return present[0]

        def convert(value: Any) -> dict[str, Any]:
            if type(value) is not dict:
                return no_object(value)
            named = value.get(tag)
            if named is None:
                field, fields = infer(value)
            elif type(named) is str and named in kinds:
                field, fields = kinds[named]
            else:
                raise unknown_word(offered, named).under(tag)
            values = fields(value)
            if field.name not in values:
                if field.name not in may_be_missing:
                    raise required().under(field.member)
                values[field.name] = {}
            return values

        self._messages[spelling.descriptor] = convert
        for chosen in union:
            members: _Members = {}
            kinds[chosen.member] = (chosen, _fields(members, no_object))
            for field in spelling.fields:
                if field is chosen or field not in union:
                    self._add(members, field)
        return convert

    def _bare(self, spelling: MessageSpelling) -> Convert:
        forms: dict[type, tuple[str, Convert]] = {}

        def convert(value: Any) -> dict[str, Any]:
            form = forms.get(type(value))
            if form is None:
                if value is None:
                    return {}
                raise expected(wanted, value)
            return {form[0]: form[1](value)}

        self._messages[spelling.descriptor] = convert
        by_kind = bare_forms(spelling)
        wanted = spoken(by_kind)
        fields = {field.name: self._field(field) for field in spelling.fields}
        for kind, field in by_kind.items():
            forms[kind] = (field.name, fields[field.name])
        return convert

    def _no_object(self, spelling: MessageSpelling) -> Convert:
        """The conversion of what is no object: the shorthand string, or an error."""
        field = spelling.shorthand
        if field is None:
            return refuse("an object")
        name, convert = field.name, self._leaf(field)
        otherwise = refuse("an object or a string")
        return lambda value: {name: convert(value)} if type(value) is str else otherwise(value)

    def _add(self, members: _Members, field: FieldSpelling) -> None:
        convert = self._field(field)
        plain = _PLAIN.get(convert)
        for member in field.accepted:
            members[member] = (field.name, plain, convert)

    def _field(self, field: FieldSpelling) -> Convert:
        if field.is_map:
            entry = message_spelling(field.nested)
            key, value = entry.fields
            convert = self._leaf(value)
            if value.field.message_type is not None:
                convert = _built(value.nested, convert)
            return _map(_key(key.field), convert)
        if not field.field.is_repeated:
            return self._leaf(field)
        element = self._leaf(field)
        elements = _list(element, _uniform(field.field))
        if not field.shorthand:
            return elements
        return _list_or_element(element, elements, field)

    def _leaf(self, field: FieldSpelling) -> Convert:
        """The conversion of a singular field, or of one element of a list or map."""
        if field.raw:
            return raw_document
        match field.field.type:
            case FieldDescriptor.TYPE_MESSAGE | FieldDescriptor.TYPE_GROUP:
                return self.message(field.nested)
            case FieldDescriptor.TYPE_ENUM:
                return word(enum_spelling(field.field.enum_type).numbers)
            case FieldDescriptor.TYPE_BYTES:
                return _byte_list if field.byte_list else base64_bytes
            case FieldDescriptor.TYPE_STRING:
                return string
            case FieldDescriptor.TYPE_BOOL:
                return boolean
            case FieldDescriptor.TYPE_DOUBLE:
                return double
            case FieldDescriptor.TYPE_FLOAT:
                return single
            case _:
                return integer(*bounds(field.field), declared_bounds(field.field))


def _fields(members: _Members, no_object: Convert) -> Convert:
    """An object: its fields, by their names in the proto. Unknown members are ignored."""

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
            raise mismatch.under(member) from None
        return values

    return convert


def _exclusive(unions: Sequence[Sequence[FieldSpelling]], convert: Convert) -> Convert:
    """An object of which at most one member of each union is given."""

    def check(value: Any) -> Any:
        values = convert(value)
        for union in unions:
            given = [field for field in union if field.name in values]
            if len(given) > 1:
                raise Mismatch(f" cannot stand beside {given[0].member}").under(given[1].member)
        return values

    return check


def _refusing(refused: Mapping[str, str], convert: Convert) -> Convert:
    """An object without members that ask for what is not done. Null, false, 0 and what is empty ask for
    nothing."""
    names = frozenset(refused)

    def check(value: Any) -> Any:
        if type(value) is dict and not names.isdisjoint(value):
            for member in value:
                if member in names and value[member]:
                    raise Mismatch(f" is not supported: {refused[member]}", "UNSUPPORTED_PARAMETER").under(
                        member
                    )
        return convert(value)

    return check


def _list(convert: Convert, uniform: Callable[[list[Any]], bool]) -> Convert:
    """A list; one that is `uniform` is taken as it is."""

    def elements(value: Any) -> list[Any]:
        if type(value) is not list:
            raise expected("a list", value)
        if uniform(value):
            return value
        converted: list[Any] = []
        try:
            for element in value:
                converted.append(convert(element))
        except Mismatch as mismatch:
            raise mismatch.under(f"[{len(converted)}]") from None
        return converted

    return elements


def _list_or_element(element: Convert, elements: Convert, field: FieldSpelling) -> Convert:
    """A list, or a bare element that stands for a list of one."""
    kinds, held = element_kinds(field), listed_kinds(field)
    wanted = spoken(field_kinds(field))

    def convert(value: Any) -> list[Any]:
        if type(value) is list:
            if held and value and type(value[0]) in held:
                return [element(value)]
            return elements(value)
        if type(value) in kinds:
            return [element(value)]
        raise expected(wanted, value)

    return convert


def _uniform(field: FieldDescriptor) -> Callable[[list[Any]], bool]:
    """Whether a whole list needs no conversion: token ids come by the ten thousand."""
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
            raise mismatch.under(f"[{shown(name)}]") from None
        return converted

    return entries


def _built(message: Descriptor, convert: Convert) -> Convert:
    """The message itself, not a dict: a map's constructor takes nothing else."""
    new = GetMessageClass(message)

    def build(value: Any) -> Message:
        made = convert(value)
        return made if isinstance(made, Message) else new(**made)

    return build


def _key(field: FieldDescriptor) -> Convert:
    """A map's key, which JSON always spells as a string."""
    if field.type == FieldDescriptor.TYPE_STRING:
        return string
    if field.type == FieldDescriptor.TYPE_BOOL:
        return word({"true": True, "false": False})
    low, high = bounds(field)

    def convert(value: str) -> int:
        if _INTEGER_KEY.fullmatch(value) and low <= (number := int(value)) <= high:
            return number
        raise Mismatch(f": expected an integer from {low} to {high} as the key")

    return convert


_PLAIN: dict[Convert, type] = {string: str, boolean: bool, double: float}


_bytes_of = _list(integer(0, 255), lambda value: not value)


def _byte_list(value: Any) -> bytes:
    return bytes(_bytes_of(value))


def _is_enum(field: FieldSpelling) -> bool:
    return field.field.type == FieldDescriptor.TYPE_ENUM


def _may_be_empty(field: FieldSpelling) -> bool:
    """Whether the field is a message that may be empty, so that its tag alone says everything."""
    return field.field.message_type is not None and not any(
        inner.required for inner in flattened(message_spelling(field.nested))
    )
