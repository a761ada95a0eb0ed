"""Fields named by a path (`a.b.c`) and set from text: for variables of URL paths and query parameters.

Handles scalars and messages that are strings in JSON, and lists of them. Other messages can only be set by
the JSON body.
"""

import base64
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from inferd.rest_bridge import well_known_types
from inferd.rest_bridge.json_spelling import FieldSpelling, enum_spelling, message_spelling
from inferd.services.errors import invalid

_INTEGER = re.compile(r"-?[0-9]{1,20}", re.ASCII)
_BITS = {
    FieldDescriptor.CPPTYPE_INT32: (31, True),
    FieldDescriptor.CPPTYPE_INT64: (63, True),
    FieldDescriptor.CPPTYPE_UINT32: (32, False),
    FieldDescriptor.CPPTYPE_UINT64: (64, False),
}


class FieldPathError(ValueError):
    """A path that does not name a field of a message type, or names a field that text cannot set."""


@dataclass(frozen=True)
class FieldPath:
    """A field of a message, or of a message within it, that text can set.

    `text` is the path as it was given. `names` are the fields on the way to the field, as the protos name
    them, inline fields included. `read` converts a text to the field's value, or raises ValueError.
    """

    text: str
    names: tuple[str, ...]
    field: FieldDescriptor
    read: Callable[[str], Any]

    def set(self, message: Message, texts: Sequence[str]) -> None:
        """Set the field to the values of `texts`, of which a field that is not repeated takes one.

        Raises ServiceError INVALID_ARGUMENT for a text that is not a value of the field, or for too many
        texts.
        """
        values = [self._read(text) for text in texts]
        *parents, name = self.names
        holder: Any = message
        for parent in parents:
            holder = getattr(holder, parent)
        if self.field.is_repeated:
            holder.ClearField(name)
            getattr(holder, name).extend(values)
        elif len(values) == 1 and self.field.message_type is not None:
            getattr(holder, name).CopyFrom(values[0])
        elif len(values) == 1:
            setattr(holder, name, values[0])
        else:
            raise invalid(self.text, f"{self.text}: given {len(values)} times, it takes one value")

    def _read(self, text: str) -> Any:
        try:
            return self.read(text)
        except ValueError as error:
            raise invalid(self.text, f"{self.text}: {error}, got {_quoted(text)}") from None


def resolve(message: Descriptor, names: Sequence[str], dialect: str = "") -> FieldPath:
    """Find a field. Each name is the field's name in the proto or in JSON. Raises FieldPathError.

    `dialect` is the name of the JSON's dialect, or empty.
    """
    *parents, last = names
    path: list[str] = []
    for name in parents:
        steps = _find(message, name)
        field = steps[-1].field
        if field.message_type is None or field.is_repeated:
            raise FieldPathError(f"{field.full_name} is no single message: nothing in it can be named")
        path += [step.name for step in steps]
        message = field.message_type
    steps = _find(message, last)
    spelling = steps[-1]
    if spelling.field.message_type is not None and not message_spelling(spelling.nested).is_json_string:
        raise FieldPathError(f"{spelling.field.full_name} is no scalar")
    return FieldPath(
        text=".".join(names),
        names=(*path, *(step.name for step in steps)),
        field=spelling.field,
        read=_reader(spelling.field, dialect),
    )


def _find(message: Descriptor, name: str) -> tuple[FieldSpelling, ...]:
    """The field of that name, after the inline fields that contain it."""
    inlines: list[FieldSpelling] = []
    spelling = message_spelling(message)
    while True:
        for field in spelling.fields:
            if name in field.accepted:
                return (*inlines, field)
        inline = next((inline for inline in spelling.inlines if not inline.is_alternative), None)
        if inline is None or name in inline.excluded:
            raise FieldPathError(f"{message.full_name} has no field {name}")
        inlines.append(inline.field)
        spelling = message_spelling(inline.field.nested)


def _reader(field: FieldDescriptor, dialect: str) -> Callable[[str], Any]:
    """The conversion of a text to the field's value; raises ValueError with the expected values."""
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return str
        case FieldDescriptor.TYPE_BOOL:
            return _one_of({"true": True, "false": False})
        case FieldDescriptor.TYPE_ENUM:
            enum = field.enum_type
            assert enum is not None
            names = {value.name: value.number for value in enum.values}
            return _one_of(enum_spelling(enum, dialect).numbers, unlisted=names)
        case FieldDescriptor.TYPE_MESSAGE:
            assert field.message_type is not None
            return well_known_types.text_reader(field.message_type)
        case FieldDescriptor.TYPE_BYTES:
            return _base64
        case FieldDescriptor.TYPE_DOUBLE | FieldDescriptor.TYPE_FLOAT:
            return _number
        case _:
            bits, signed = _BITS[field.cpp_type]
            return _integer(-(2**bits) if signed else 0, 2**bits - 1)


def _one_of(words: dict[str, Any], unlisted: dict[str, Any] | None = None) -> Callable[[str], Any]:
    """The conversion of a few words. Words of `unlisted` are accepted, but not named in the error."""
    values = {**(unlisted or {}), **words}

    def read(text: str) -> Any:
        if text not in values:
            raise ValueError(f"expected one of {', '.join(words)}")
        return values[text]

    return read


def _integer(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if _INTEGER.fullmatch(text) and low <= (number := int(text)) <= high:
            return number
        raise ValueError(f"expected an integer from {low} to {high}")

    return read


def _number(text: str) -> float:
    # float() also takes spaces and underscores.
    if text.isascii() and text == text.strip() and "_" not in text:
        try:
            return float(text)
        except ValueError:
            pass
    raise ValueError("expected a number")


def _base64(text: str) -> bytes:
    standard = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except ValueError:
        raise ValueError("expected base64") from None


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 64 else f"{text[:60]}…")
