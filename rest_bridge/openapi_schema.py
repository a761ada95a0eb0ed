"""JSON Schemas (2020-12) of messages, in the JSON spelling of their options. Knows nothing of HTTP.

The schemas describe the recommended JSON. `decode` also accepts camelCase names and oneofs without their tag,
which the schemas do not mention.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from inferd.options.v1 import options_pb2
from inferd.rest_bridge.json_spelling import (
    FieldSpelling,
    MessageSpelling,
    enum_spelling,
    json_fields,
    message_spelling,
)

Json = dict[str, Any]

# protobuf's stubs and its generated code disagree on the type of an extension.
_LIMITS: Any = options_pb2.limits

#: Name of the schema of an error, which is the JSON form of google.rpc.Status.
ERROR_OBJECT = "ErrorObject"
#: Name of the schema of the document that has an error. It is not "Error" because many languages have a type
#: of that name.
ERROR_RESPONSE = "ErrorResponse"
_ERROR_OBJECT: Json = {
    "type": "object",
    "description": "An error.",
    "properties": {
        "message": {"type": "string", "description": "Description of the error, for people."},
        "type": {"type": "string", "description": "Kind of the error, such as `server_error`."},
        "param": {"type": ["string", "null"], "description": "Path of the member at fault, if any."},
        "code": {"type": "string", "description": "Reason of the error, for programs."},
        "metadata": {
            "type": "object",
            "description": "Variable parts of the error, such as a limit. Absent if there are none.",
            "additionalProperties": {"type": "string"},
        },
    },
    "required": ["message", "type", "param", "code"],
}
_ERROR_RESPONSE: Json = {
    "type": "object",
    "description": "An error, as a response or as an event of a stream.",
    "properties": {"error": {"$ref": f"#/components/schemas/{ERROR_OBJECT}"}},
    "required": ["error"],
}

# The well-known types that are strings. A request may also give Timestamp and Duration as a number of
# seconds.
_STRING_TYPES: Mapping[str, Json] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"},
    "google.protobuf.FieldMask": {"type": "string"},
}

_NULL: Json = {"type": "null"}
_WHOLE_SECONDS: Json = {"type": "integer", "format": "int64"}
_NO_LIMITS = options_pb2.Limits()

# For each type of number: the JSON type, the format, and the range of an integer type.
_NUMBERS: Mapping[int, tuple[str, str, tuple[int, int] | None]] = {
    FieldDescriptor.CPPTYPE_INT32: ("integer", "int32", (-(2**31), 2**31 - 1)),
    FieldDescriptor.CPPTYPE_INT64: ("integer", "int64", (-(2**63), 2**63 - 1)),
    FieldDescriptor.CPPTYPE_UINT32: ("integer", "uint32", (0, 2**32 - 1)),
    FieldDescriptor.CPPTYPE_UINT64: ("integer", "uint64", (0, 2**64 - 1)),
    FieldDescriptor.CPPTYPE_FLOAT: ("number", "float", None),
    FieldDescriptor.CPPTYPE_DOUBLE: ("number", "double", None),
}


class Schemas:
    """The named schemas of a document, made on first use.

    A message has different schemas in requests and in responses. In a request, fields have limits, some are
    required, and null stands for an unset field; in a response, some members are always present. A message
    that is used in both gets two schemas, and the name of the second one ends in Body, Input or Output.
    """

    def __init__(self, comments: Mapping[str, str]) -> None:
        self.components: dict[str, Json] = {
            ERROR_OBJECT: _ERROR_OBJECT,
            ERROR_RESPONSE: _ERROR_RESPONSE,
        }
        self._comments = comments
        self._names: dict[tuple[object, ...], str] = {}

    def body(
        self, message: Descriptor, bound: frozenset[str], selector: str, selector_description: str
    ) -> Json:
        """A reference to the schema of a request body.

        The path sets the fields named in `bound`, so that the body need not. `selector` is the name of a
        boolean member beside the fields, or empty.
        """
        spelling = message_spelling(message)
        fields = json_fields(spelling)
        relaxed = frozenset(field.name for field in fields if field.required and field.name in bound)
        suffix = "".join(map(_title, sorted(relaxed)))
        plain = _name(message) + (f"{suffix}InPath" if relaxed else "")
        name, is_new = self._claim((message.full_name, "body", relaxed, selector), plain, f"{plain}Body")
        if is_new:
            schema = self._schema(name, spelling, True, relaxed)
            if selector:
                # There is no default, because openapi-typescript requires a member that has one.
                member = {"type": ["boolean", "null"], "description": selector_description}
                schema["properties"][selector] = member
            self.components[name] = self._described(message.full_name, schema)
        return _reference(name)

    def response(self, message: Descriptor) -> Json:
        """A reference to the schema of a response body."""
        return self._message(message, False)

    def value(self, field: FieldSpelling) -> Json:
        """The schema of the value of a response's field."""
        return self._value(field, False)

    def parameter(self, field: FieldDescriptor) -> Json:
        """The schema of a request's field that is a parameter of the path or the query."""
        return self._value(message_spelling(field.containing_type).fields[field.index], True)

    def _claim(self, key: tuple[object, ...], name: str, otherwise: str) -> tuple[str, bool]:
        """The component name of a key, and whether it is new. `otherwise` is used if `name` is taken."""
        if key in self._names:
            return self._names[key], False
        if name in self.components:
            name = otherwise
        if name in self.components:
            raise ValueError(f"two schemas would be named {name}")
        self._names[key] = name
        # The name is taken before the schema is made, because messages may be recursive.
        self.components[name] = {}
        return name, True

    def _message(self, message: Descriptor, request: bool) -> Json:
        """The schema of a message, or a reference to it."""
        spelling = message_spelling(message)
        if spelling.is_status:
            return _reference(ERROR_OBJECT)
        if spelling.is_json_string:
            return _json_string(spelling, request)
        if spelling.bare and len(spelling.fields) == 1:
            # No component, because openapi-generator's Go client has no type for a named list in a union.
            return self._schema("", spelling, request, frozenset())
        plain = _name(message)
        key = (message.full_name, "request" if request else "response")
        name, is_new = self._claim(key, plain, plain + ("Input" if request else "Output"))
        if is_new:
            schema = self._schema(name, spelling, request, frozenset())
            self.components[name] = self._described(message.full_name, schema)
        return _reference(name)

    def _schema(self, name: str, message: MessageSpelling, request: bool, relaxed: frozenset[str]) -> Json:
        """The schema of the component `name`, a message. Fields named in `relaxed` are not required."""
        if message.bare:
            forms = [self._form(field, request) for field in message.fields]
            unset = not request and all(field.field.has_presence for field in message.fields)
            return _any_of([*forms, _NULL] if unset else forms)
        if message.tag:
            return self._union(name, message, request)
        if any(inline.is_alternative for inline in message.inlines):
            return self._alternatives(name, message, request)
        schema = self._object(json_fields(message), request, relaxed)
        if word := message.constant:
            constant = {"type": "string", "const": word}
            schema["properties"] = {"object": constant, **schema["properties"]}
            schema["required"] = ["object", *schema.get("required", [])]
        # Responses use no shorthands, except the word of an enum in a oneof.
        if message.shorthand is None or not request:
            return schema
        form = self._component(f"{name}Object", message.descriptor.full_name, schema)
        return {"oneOf": [self._string_form(message.shorthand, request), form]}

    def _union(self, name: str, message: MessageSpelling, request: bool) -> Json:
        """The schema of a message with a tag: a component for each field of the oneof.

        Generators name a class after each component. They name inline schemas by rules that collide.
        """
        shorthand = message.shorthand
        word = shorthand if shorthand is not None and _is_enum(shorthand) else None
        (oneof,) = message.oneofs
        choices = [field for field in oneof if field is not word]
        # A request may leave the tag out, unless the choice may have no member of its own.
        if message.tag_after is not None and not request:
            schema = self._object(message.fields, request, frozenset())
            words = [field.member for field in choices]
            schema["properties"][message.tag] = {"type": "string", "enum": words}
            return schema
        needs_tag = not request or any(_may_be_absent(field, request) for field in choices)
        needs_tag = needs_tag or message.flat
        untagged = message.untagged if request else None
        schemas = {
            field: self._choice(message, field, request, needs_tag and field is not untagged)
            for field in choices
        }
        if len(schemas) == 1 and (shorthand is None or (not request and word is None)):
            return schemas[choices[0]]
        forms = {
            field.member: self._component(f"{name}{_title(field.name)}", field.field.full_name, schema)
            for field, schema in schemas.items()
        }
        if shorthand is not None and (request or word is not None):
            return {"oneOf": [self._string_form(shorthand, request), *forms.values()]}
        if not needs_tag or untagged is not None:
            return {"oneOf": list(forms.values())}
        mapping = {member: form["$ref"] for member, form in forms.items()}
        discriminator = {"propertyName": message.tag, "mapping": mapping}
        return {"oneOf": list(forms.values()), "discriminator": discriminator}

    def _choice(
        self, message: MessageSpelling, chosen: FieldSpelling, request: bool, needs_tag: bool
    ) -> Json:
        """The schema of a message whose oneof has the field `chosen`, which the tag names."""
        (oneof,) = message.oneofs
        fields = [field for field in message.fields if field is chosen or field not in oneof]
        if chosen.name in message.flat_members:
            fields = [field for field in fields if field is not chosen]
            fields += json_fields(message_spelling(chosen.nested))
        schema = self._object(fields, request, frozenset(), chosen)
        tag = {"type": "string", "const": chosen.member}
        schema["properties"] = {message.tag: tag, **schema["properties"]}
        if needs_tag:
            schema["required"] = [message.tag, *schema.get("required", [])]
        return schema

    def _alternatives(self, name: str, message: MessageSpelling, request: bool) -> Json:
        """The schema of a message with inline fields in a oneof: a component for each of them."""
        own = [field for field in message.fields if not field.inline]
        forms = []
        for inline in message.inlines:
            schema = self._object([*inline.fields, *own], request, frozenset())
            label = f"{name}{_title(inline.field.name)}"
            forms.append(self._component(label, inline.field.field.full_name, schema))
        return _any_of(forms)

    def _component(self, name: str, described: str, schema: Json) -> Json:
        """A reference to a new component, with the comment of the message or field `described`."""
        if name in self.components:
            raise ValueError(f"two schemas would be named {name}")
        self.components[name] = self._described(described, schema)
        return _reference(name)

    def _string_form(self, shorthand: FieldSpelling, request: bool) -> Json:
        """The schema of a string that stands for the whole message."""
        if shorthand.field.message_type is None and not shorthand.field.is_repeated:
            return self._form(shorthand, request)
        return self._described(shorthand.field.full_name, {"type": "string"})

    def _form(self, field: FieldSpelling, request: bool) -> Json:
        """The schema of a field's value that stands for the whole message."""
        return self._described(field.field.full_name, self._value(field, request))

    def _object(
        self,
        fields: Iterable[FieldSpelling],
        request: bool,
        relaxed: frozenset[str],
        chosen: FieldSpelling | None = None,
    ) -> Json:
        """The schema of an object with some fields; `chosen` is the field that the tag names."""
        properties: Json = {}
        required: list[str] = []
        for field in fields:
            if field.input_only and not request:
                continue
            if field is chosen:
                needed = not _may_be_absent(field, request)
            else:
                needed = (
                    field.required and field.name not in relaxed if request else _is_always_present(field)
                )
            if needed:
                required.append(field.member)
            schema = self._value(field, request)
            # In a request, null counts as an absent member.
            if field.null_when_unset if not request else not needed:
                schema = _or_null(schema)
            properties[field.member] = self._described(field.field.full_name, schema)
            if field.also_seconds and not request:
                properties[field.also_seconds] = self._described(field.field.full_name, _WHOLE_SECONDS)
                required += [field.also_seconds] if needed else []
        return {"type": "object", "properties": properties, **({"required": required} if required else {})}

    def _value(self, field: FieldSpelling, request: bool) -> Json:
        """The schema of a field's value, if the field is set."""
        limits = field.field.GetOptions().Extensions[_LIMITS] if request else _NO_LIMITS
        if field.is_map:
            value = message_spelling(field.nested).fields[1]
            schema: Json = {"type": "object", "additionalProperties": self._element(value, request, limits)}
            return {**schema, "maxProperties": limits.max_items} if limits.max_items else schema
        if field.pairs:
            value = message_spelling(field.nested).fields[1]
            return {"type": "object", "additionalProperties": self._element(value, request, limits)}
        element = self._element(field, request, limits)
        if not field.field.is_repeated:
            is_text = element.get("type") == "string"
            return {**element, "minLength": 1} if is_text and request and field.required else element
        schema = {"type": "array", "items": element}
        if limits.min_items or (request and field.required):
            schema["minItems"] = max(limits.min_items, 1)
        if limits.max_items:
            schema["maxItems"] = limits.max_items
        return _any_of([element, schema]) if request and field.shorthand else schema

    def _element(self, field: FieldSpelling, request: bool, limits: options_pb2.Limits) -> Json:
        """The schema of the value of a singular field, or of each value of a list or map."""
        match field.field.type:
            case _ if field.raw:
                return {}
            case _ if field.seconds:
                return {"type": "number", **_bounds(limits, float)} if request else _WHOLE_SECONDS
            case FieldDescriptor.TYPE_MESSAGE | FieldDescriptor.TYPE_GROUP:
                return self._message(field.nested, request)
            case FieldDescriptor.TYPE_ENUM:
                return self._enum(field.field)
            case FieldDescriptor.TYPE_BOOL:
                return {"type": "boolean"}
            case FieldDescriptor.TYPE_STRING:
                return {"type": "string", **_text_limits(limits)}
            case FieldDescriptor.TYPE_BYTES if field.byte_list:
                return {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 255}}
            case FieldDescriptor.TYPE_BYTES:
                return {"type": "string", "contentEncoding": "base64"}
            case _:
                return _number(field, limits, request)

    def _enum(self, field: FieldDescriptor) -> Json:
        enum = field.enum_type
        assert enum is not None, field.full_name
        name, is_new = self._claim((enum.full_name,), _name(enum), f"{_name(enum)}Enum")
        if is_new:
            words = enum_spelling(enum).words
            lines = [self._comments.get(enum.full_name, ""), ""]
            for number, word in words.items():
                comment = self._comments.get(f"{enum.full_name}.{enum.values_by_number[number].name}")
                lines.append(f"- `{word}`: {comment}" if comment else f"- `{word}`")
            text = "\n".join(lines).strip()
            self.components[name] = {
                "type": "string",
                "enum": list(words.values()),
                # The constants of Go, where all enums share one namespace, as values do in the protos.
                "x-enum-varnames": [enum.values_by_number[number].name for number in words],
                "description": text,
            }
        return _reference(name)

    def _described(self, name: str, schema: Json) -> Json:
        comment = self._comments.get(name)
        return {**schema, "description": comment} if comment else schema


def _name(type_: Descriptor | EnumDescriptor) -> str:
    return type_.full_name.removeprefix(f"{type_.file.package}.")


def _title(name: str) -> str:
    """A field's name as a part of a component's name."""
    return name.title().replace("_", "")


def _reference(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _json_string(message: MessageSpelling, request: bool) -> Json:
    schema = _STRING_TYPES[message.descriptor.full_name]
    if not request or not message.accepts_number:
        return schema
    # No format, because openapi-generator's Java client does not compile with a date in a union.
    text = {key: value for key, value in schema.items() if key != "format"}
    return {"anyOf": [text, {"type": "number"}]}


def _is_enum(field: FieldSpelling) -> bool:
    return field.field.enum_type is not None


def _is_always_present(field: FieldSpelling) -> bool:
    """Whether every response has the field's member."""
    if field.field.has_presence or field.raw:
        # A field that all messages of a stream repeat is set in the first one.
        is_set = field.required or field.first_only or bool(field.default_value)
        return (is_set and not field.input_only) or field.null_when_unset
    return not field.omit_when_empty


def _may_be_absent(field: FieldSpelling, request: bool) -> bool:
    """Whether the member of a field that the tag names may be absent."""
    if field.field.message_type is None:
        return False
    inner = json_fields(message_spelling(field.nested))
    return not any(member.required for member in inner) if request else not inner


def _number(field: FieldSpelling, limits: options_pb2.Limits, request: bool) -> Json:
    kind, width, bounds = _NUMBERS[field.field.cpp_type]
    schema: Json = {"type": kind, "format": width}
    if request and bounds is not None:
        schema |= {"minimum": bounds[0], "maximum": bounds[1]}
    return {**schema, **_bounds(limits, int if kind == "integer" else float)}


def _text_limits(limits: options_pb2.Limits) -> Json:
    length: Json = {"maxLength": limits.max_length} if limits.max_length else {}
    return {**length, **({"pattern": f"^{limits.pattern}$"} if limits.pattern else {})}


def _bounds(limits: options_pb2.Limits, number: type[int] | type[float]) -> Json:
    """The bounds of a number."""
    names = {"min": "minimum", "max": "maximum", "above": "exclusiveMinimum"}
    return {names[name]: number(getattr(limits, name)) for name in names if limits.HasField(name)}


def _any_of(schemas: list[Json]) -> Json:
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _or_null(schema: Json) -> Json:
    if not schema:
        return schema
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], _NULL]}
    if isinstance(schema.get("type"), str):
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, _NULL]}
