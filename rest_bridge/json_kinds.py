"""The kinds of JSON values that a request may give for a field: strings, numbers, lists, objects.

Checks that one kind does not stand for two things. Converts no values.
"""

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from inferd.rest_bridge.json_spelling import FieldSpelling, MessageSpelling, SpellingError, message_spelling

#: Kinds of JSON values, as the Python types that orjson reads them to. null is no kind: it means "unset"
#: everywhere.
Kinds = frozenset[type]
ANY_KIND: Kinds = frozenset({str, bool, int, float, list, dict})
NUMBER: Kinds = frozenset({int, float})


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
    if field.is_map or field.pairs:
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
        return NUMBER | {str} if message.accepts_number else frozenset({str})
    if message.bare:
        return frozenset(bare_forms(message, within))
    return frozenset({dict, str}) if message.shorthand else frozenset({dict})
