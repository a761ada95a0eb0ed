"""JSON bytes to request messages: each message type is compiled once, at start, into closures a field.

Checks types only; what a well-typed request may ask for is checked by the services. Every fault of the
JSON ends as a ServiceError INVALID_ARGUMENT that names the member, spelled as the client spelled it.
"""

import base64
import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import grpc
import orjson
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from rest_bridge.spelling import (
    NUMBER,
    FieldSpelling,
    Kinds,
    MessageSpelling,
    SpellingError,
    bare_forms,
    element_kinds,
    enum_spelling,
    field_kinds,
    listed_kinds,
    message_spelling,
)
from services.errors import ServiceError, invalid

#: Turns a JSON value into what a message's constructor takes (a nested message is a dict), or raises
#: _Mismatch.
_Convert = Callable[[Any], Any]
#: By JSON member: the proto field's name, the type of a value that needs no conversion, the conversion.
_Members = dict[str, tuple[str, type | None, _Convert]]

_SPOKEN = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    list: "a list",
    dict: "an object",
    type(None): "null",
}
#: The least number that is infinity in 32 bits.
_FLOAT_INFINITY = 3.4028235677973366e38
_INTEGER_KEY = re.compile(r"-?[0-9]{1,20}", re.ASCII)


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object in a request's body.

    Raises INVALID_ARGUMENT: MALFORMED_JSON with line and column (from 1, in characters) where it is no
    JSON; also where it is no object, or is nested more than 1024 deep.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _malformed(body, error) from None
    if type(document) is not dict:
        raise _bad_body(f"the body must be a JSON object, not {_kind(document)}")
    return document


def flag(document: dict[str, Any], member: str) -> bool:
    """A boolean member that is no field of the request, such as "stream"; false where unset or null."""
    value = document.get(member)
    if value is None:
        return False
    try:
        return _boolean(value)
    except _Mismatch as mismatch:
        raise mismatch.under(member).error() from None


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
        except _Mismatch as mismatch:
            raise mismatch.error() from None
        except RecursionError:
            raise _bad_body("the body is nested too deeply") from None


class _Mismatch(Exception):
    """A JSON value that its field cannot hold. Its path grows on the way out, so that good values pay
    nothing for it; `text` follows the path in the message."""

    def __init__(self, text: str, reason: str = "INVALID_ARGUMENT") -> None:
        super().__init__(text)
        self.path = ""
        self.text = text
        self.reason = reason

    def under(self, step: str) -> "_Mismatch":
        """The same mismatch, seen from a level further out: `step` is a member, or [index], or ["key"]."""
        dot = "." if self.path and not self.path.startswith("[") else ""
        self.path = f"{step}{dot}{self.path}"
        return self

    def error(self) -> ServiceError:
        return invalid(self.path, f"{self.path}{self.text}", self.reason)


class _Compiler:
    """Compiles message types, each once, so that a message may contain itself."""

    def __init__(self) -> None:
        self._messages: dict[Descriptor, _Convert] = {}

    def message(self, message: Descriptor) -> _Convert:
        """The conversion of a message's JSON form."""
        convert = self._messages.get(message)
        if convert is None:
            spelling = message_spelling(message)
            if spelling.text_form:
                convert = self._messages[message] = _text_form(spelling)
            elif spelling.bare:
                convert = self._bare(spelling)
            elif spelling.tag:
                convert = self._tagged(spelling)
            else:
                convert = self._object(spelling)
        return convert

    def _object(self, spelling: MessageSpelling) -> _Convert:
        members: _Members = {}
        convert = _fields(members, self._no_object(spelling))
        if spelling.unions:
            convert = _exclusive(spelling.unions, convert)
        # Entered before its members are compiled: one of them may be of this type.
        self._messages[spelling.descriptor] = convert
        for field in spelling.fields:
            self._add(members, field)
        return convert

    def _tagged(self, spelling: MessageSpelling) -> _Convert:
        tag, union = spelling.tag, spelling.unions[0]
        no_object = self._no_object(spelling)
        # An enum that has a bare string of its own is not offered a second time, as a kind.
        offered = [field.member for field in union if field is not spelling.shorthand or not _is_enum(field)]
        may_be_missing = {field.name for field in union if _may_be_empty(field)}
        # By kind: the field, and the conversion of an object of that kind. Members of other kinds are
        # ignored, like any other that the kind does not have.
        kinds: dict[str, tuple[FieldSpelling, _Convert]] = {}

        def infer(value: dict[str, Any]) -> tuple[FieldSpelling, _Convert]:
            present = [
                kind for kind in kinds.values() if any(value.get(m) is not None for m in kind[0].accepted)
            ]
            if len(present) != 1:
                raise _required().under(tag)
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
                raise _unknown_word(offered, named).under(tag)
            values = fields(value)
            if field.name not in values:
                if field.name not in may_be_missing:
                    raise _required().under(field.member)
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

    def _bare(self, spelling: MessageSpelling) -> _Convert:
        forms: dict[type, tuple[str, _Convert]] = {}

        def convert(value: Any) -> dict[str, Any]:
            form = forms.get(type(value))
            if form is None:
                if value is None:
                    return {}
                raise _expected(expected, value)
            return {form[0]: form[1](value)}

        self._messages[spelling.descriptor] = convert
        by_kind = bare_forms(spelling)
        expected = _spoken(by_kind)
        fields = {field.name: self._field(field) for field in spelling.fields}
        for kind, field in by_kind.items():
            forms[kind] = (field.name, fields[field.name])
        return convert

    def _no_object(self, spelling: MessageSpelling) -> _Convert:
        """The conversion of what is no object: the shorthand string, or an error."""
        field = spelling.shorthand
        if field is None:
            return _refuse("an object")
        name, convert = field.name, self._leaf(field)
        refuse = _refuse("an object or a string")
        return lambda value: {name: convert(value)} if type(value) is str else refuse(value)

    def _add(self, members: _Members, field: FieldSpelling) -> None:
        convert = self._field(field)
        plain = _PLAIN.get(convert)
        for member in field.accepted:
            members[member] = (field.name, plain, convert)

    def _field(self, field: FieldSpelling) -> _Convert:
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

    def _leaf(self, field: FieldSpelling) -> _Convert:
        """The conversion of a singular field, or of one element of a list or map."""
        if field.raw:
            return _raw
        match field.field.type:
            case FieldDescriptor.TYPE_MESSAGE | FieldDescriptor.TYPE_GROUP:
                return self.message(field.nested)
            case FieldDescriptor.TYPE_ENUM:
                return _word(enum_spelling(field.field.enum_type).numbers)
            case FieldDescriptor.TYPE_BYTES:
                return _byte_list if field.byte_list else _base64
            case FieldDescriptor.TYPE_STRING:
                return _string
            case FieldDescriptor.TYPE_BOOL:
                return _boolean
            case FieldDescriptor.TYPE_DOUBLE:
                return _double
            case FieldDescriptor.TYPE_FLOAT:
                return _float
            case _:
                return _integer(*_bounds(field.field))


def _fields(members: _Members, no_object: _Convert) -> _Convert:
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
        except _Mismatch as mismatch:
            raise mismatch.under(member) from None
        return values

    return convert


def _exclusive(unions: Sequence[Sequence[FieldSpelling]], convert: _Convert) -> _Convert:
    """An object of which at most one member of each union is given."""

    def check(value: Any) -> Any:
        values = convert(value)
        for union in unions:
            given = [field for field in union if field.name in values]
            if len(given) > 1:
                raise _Mismatch(f" cannot stand beside {given[0].member}").under(given[1].member)
        return values

    return check


def _list(convert: _Convert, uniform: Callable[[list[Any]], bool]) -> _Convert:
    """A list; one that is `uniform` is taken as it is."""

    def elements(value: Any) -> list[Any]:
        if type(value) is not list:
            raise _expected("a list", value)
        if uniform(value):
            return value
        converted: list[Any] = []
        try:
            for element in value:
                converted.append(convert(element))
        except _Mismatch as mismatch:
            raise mismatch.under(f"[{len(converted)}]") from None
        return converted

    return elements


def _list_or_element(element: _Convert, elements: _Convert, field: FieldSpelling) -> _Convert:
    """A list, or a bare element that stands for a list of one."""
    kinds, held = element_kinds(field), listed_kinds(field)
    expected = _spoken(field_kinds(field))

    def convert(value: Any) -> list[Any]:
        if type(value) is list:
            if held and value and type(value[0]) in held:
                return [element(value)]
            return elements(value)
        if type(value) in kinds:
            return [element(value)]
        raise _expected(expected, value)

    return convert


def _uniform(field: FieldDescriptor) -> Callable[[list[Any]], bool]:
    """Whether a whole list needs no conversion: token ids come by the ten thousand."""
    if field.type == FieldDescriptor.TYPE_STRING:
        return lambda value: set(map(type, value)) == {str}
    if field.cpp_type in _BITS:
        low, high = _bounds(field)
        return lambda value: set(map(type, value)) == {int} and low <= min(value) and max(value) <= high
    return lambda value: not value


def _map(key: _Convert, convert: _Convert) -> _Convert:
    def entries(value: Any) -> dict[Any, Any]:
        if type(value) is not dict:
            raise _expected("an object", value)
        converted = {}
        try:
            for name, given in value.items():
                converted[key(name)] = convert(given)
        except _Mismatch as mismatch:
            raise mismatch.under(f"[{_shown(name)}]") from None
        return converted

    return entries


def _built(message: Descriptor, convert: _Convert) -> _Convert:
    """The message itself, not a dict: a map's constructor takes nothing else."""
    new = GetMessageClass(message)

    def build(value: Any) -> Message:
        made = convert(value)
        return made if isinstance(made, Message) else new(**made)

    return build


def _key(field: FieldDescriptor) -> _Convert:
    """A map's key, which JSON always spells as a string."""
    if field.type == FieldDescriptor.TYPE_STRING:
        return _string
    if field.type == FieldDescriptor.TYPE_BOOL:
        return _word({"true": True, "false": False})
    low, high = _bounds(field)

    def integer(value: str) -> int:
        if _INTEGER_KEY.fullmatch(value) and low <= (number := int(value)) <= high:
            return number
        raise _Mismatch(f": expected an integer from {low} to {high} as the key")

    return integer


def _text_form(spelling: MessageSpelling) -> _Convert:
    new = GetMessageClass(spelling.descriptor)
    name = spelling.descriptor.name

    def convert(value: Any) -> Message:
        message: Any = new()
        try:
            message.FromJsonString(_string(value))
        except (ValueError, OverflowError):
            raise _Mismatch(f": expected a {name}, as proto3 JSON spells it, got {_shown(value)}") from None
        return message

    return convert


def _string(value: Any) -> str:
    if type(value) is str:
        return value
    raise _expected("a string", value)


def _boolean(value: Any) -> bool:
    if type(value) is bool:
        return value
    raise _expected("a boolean", value)


def _double(value: Any) -> float:
    if type(value) is float or type(value) is int:
        return float(value)
    raise _expected("a number", value)


def _float(value: Any) -> float:
    number = _double(value)
    if abs(number) >= _FLOAT_INFINITY:
        raise _Mismatch(f": expected a number of up to 32 bits, got {_shown(value)}", "OUT_OF_RANGE")
    return number


def _integer(low: int, high: int) -> _Convert:
    def integer(value: Any) -> int:
        if type(value) is int:
            number = value
        elif type(value) is float:
            if not value.is_integer():
                raise _Mismatch(f": expected an integer, got {value}")
            number = int(value)
        else:
            raise _expected("an integer", value)
        if low <= number <= high:
            return number
        raise _Mismatch(f": expected an integer from {low} to {high}, got {value}", "OUT_OF_RANGE")

    return integer


def _word(words: dict[str, Any]) -> _Convert:
    """One of a few strings."""
    offered = list(words)

    def convert(value: Any) -> Any:
        if type(value) is str and value in words:
            return words[value]
        raise _unknown_word(offered, value)

    return convert


def _raw(value: Any) -> str:
    """Any JSON document, kept as its text; an object's members keep their order."""
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # orjson writes 254 levels, and reads 1024
        raise _Mismatch(" is nested too deeply") from None


def _byte_list(value: Any) -> bytes:
    return bytes(_bytes_of(value))


def _base64(value: Any) -> bytes:
    """Standard or URL-safe base64, with or without padding, as proto3 JSON takes it."""
    text = _string(value).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise _Mismatch(": expected base64") from None


def _refuse(expected: str) -> _Convert:
    def refuse(value: Any) -> Any:
        raise _expected(expected, value)

    return refuse


_PLAIN: dict[_Convert, type] = {_string: str, _boolean: bool, _double: float}

_BITS = {
    FieldDescriptor.CPPTYPE_INT32: (31, True),
    FieldDescriptor.CPPTYPE_INT64: (63, True),
    FieldDescriptor.CPPTYPE_UINT32: (32, False),
    FieldDescriptor.CPPTYPE_UINT64: (64, False),
}


def _bounds(field: FieldDescriptor) -> tuple[int, int]:
    bits, signed = _BITS[field.cpp_type]
    return -(2**bits) if signed else 0, 2**bits - 1


_bytes_of = _list(_integer(0, 255), lambda value: not value)


def _is_enum(field: FieldSpelling) -> bool:
    return field.field.type == FieldDescriptor.TYPE_ENUM


def _may_be_empty(field: FieldSpelling) -> bool:
    """Whether the field is a message that may be empty, so that its tag alone says everything."""
    return field.field.message_type is not None and not any(
        inner.required for inner in message_spelling(field.nested).fields
    )


def _expected(what: str, value: Any) -> _Mismatch:
    return _Mismatch(f": expected {what}, got {_kind(value)}")


def _required() -> _Mismatch:
    return _Mismatch(" is required", "REQUIRED_FIELD_MISSING")


def _unknown_word(offered: Sequence[str], value: Any) -> _Mismatch:
    words = _either([_shown(word) for word in offered])
    return _Mismatch(f": expected {words}, got {_shown(value) if type(value) is str else _kind(value)}")


def _kind(value: Any) -> str:
    return _SPOKEN.get(type(value), type(value).__name__)


def _shown(value: Any) -> str:
    """A value in a message, as JSON: cut short, since it is the client's."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 64 else f"{text[:60]}…"


def _spoken(kinds: Kinds | Iterable[type]) -> str:
    kinds = set(kinds)
    if kinds >= NUMBER:
        kinds.discard(int)
    return _either([spoken for kind, spoken in _SPOKEN.items() if kind in kinds])


def _either(words: Sequence[str]) -> str:
    *others, last = words or ["nothing"]
    return f"{', '.join(others)} or {last}" if others else last


def _bad_body(message: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", message)


def _malformed(body: bytes, error: orjson.JSONDecodeError) -> ServiceError:
    line, column, fault = error.lineno, error.colno, error.msg
    if not body:
        fault = "the body is empty"
    try:
        body.decode()
    except UnicodeDecodeError as bad:  # which orjson reports without its place
        before = body[: bad.start].decode()
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        fault = "invalid UTF-8"
    return ServiceError(
        grpc.StatusCode.INVALID_ARGUMENT,
        "MALFORMED_JSON",
        f"malformed JSON at line {line}, column {column}: {fault}",
        metadata={"line": str(line), "column": str(column)},
    )
