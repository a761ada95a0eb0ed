"""JSON Schemas of requests, made into what the engine's grammars enforce, so that nothing of one is left out
in silence. Knows nothing of requests, and nothing of the grammar that is made of a schema.

The engine's compiler (xgrammar 0.2) ignores keywords that it does not know, and most that stand beside $ref,
anyOf, allOf or enum. A schema is written anew here, with keywords that it enforces; the rest is refused.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn
from urllib.parse import unquote

import jsonschema_rs
import orjson
from inferd.services.constraints.regex import json_pattern
from inferd.services.errors import ServiceError, invalid

#: Of a schema as the engine gets it, in bytes.
MAX_BYTES = 131_072
#: Of schemas in schemas, and of lists and objects in documents.
MAX_DEPTH, MAX_JSON_DEPTH = 64, 160

# What the compiler's time grows with, beyond the size: seconds for schemas that are short to write.
_MAX_NODES = 20_000
_MAX_OPTIONAL_PAIRS = 600_000
_MAX_LENGTHS = 4_000
#: Above this a length costs no more.
_LENGTH_COST = 200
_MAX_INT = 2**63 - 1

#: A character that JSON does not escape.
_CHARACTER = r'[^"\\\x00-\x1f]'

_META = jsonschema_rs.Draft202012Validator({"$ref": "https://json-schema.org/draft/2020-12/schema"})

_OBJECT = frozenset(
    (
        "properties",
        "required",
        "additionalProperties",
        "patternProperties",
        "propertyNames",
        "unevaluatedProperties",
        "minProperties",
        "maxProperties",
    )
)
_ARRAY = frozenset(("items", "prefixItems", "unevaluatedItems", "minItems", "maxItems"))
_STRING = frozenset(("pattern", "format", "minLength", "maxLength"))
_NUMBER = frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"))
_TYPED = {"object": _OBJECT, "array": _ARRAY, "string": _STRING, "number": _NUMBER, "integer": _NUMBER}
_CORE = frozenset(("$ref", "const", "enum", "anyOf", "oneOf", "allOf"))
_REFUSED = frozenset(
    (
        "if",
        "then",
        "else",
        "not",
        "contains",
        "minContains",
        "maxContains",
        "dependentRequired",
        "dependentSchemas",
        "dependencies",
        "multipleOf",
        "uniqueItems",
        "$dynamicRef",
        "$recursiveRef",
    )
)
_ASSERTIONS = _OBJECT | _ARRAY | _STRING | _NUMBER | _CORE | _REFUSED | {"type"}
#: What else than its own properties an object may have.
_OTHER_PROPERTIES = frozenset(("additionalProperties", "patternProperties", "propertyNames"))

#: Formats that the engine enforces. Others are what JSON Schema makes of them: notes.
_FORMATS = frozenset(
    (
        "date",
        "date-time",
        "duration",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "json-pointer",
        "relative-json-pointer",
        "time",
        "uri",
        "uri-reference",
        "uri-template",
        "uuid",
    )
)

Schema = Mapping[str, Any]
Path = tuple[str | int, ...]


def parse_schema(text: str, field: str) -> Any:
    """The schema of `text`. Raises ServiceError INVALID_ARGUMENT where it is no JSON document or schema."""
    try:
        schema = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise _refusal(field, f"{field} is no JSON document: {error}") from error
    check_schema(schema, field)
    return schema


def check_schema(schema: Any, field: str) -> None:
    """Raise ServiceError INVALID_ARGUMENT for what is no JSON Schema; it names the place within `field`."""
    if not isinstance(schema, Mapping | bool):
        raise _refusal(field, f"{field} must be a JSON object: a JSON Schema")
    check_document(schema, field)
    error = next(_META.iter_errors(schema), None)
    if error is not None:
        path = place(field, error.instance_path)
        raise _refusal(path, f"{path} is no JSON Schema: {error.message[:500]}")


def engine_schema(schema: Any, field: str, *, arguments: bool = False) -> dict[str, Any]:
    """A checked schema as the engine enforces it: all that the engine then allows is valid by `schema`.

    But for two things that a grammar cannot say: an object's keys may repeat, and oneOf is anyOf where its
    schemas overlap. With `arguments` it is of a function's arguments, which are an object.

    Raises ServiceError INVALID_ARGUMENT (INVALID_CONSTRAINT) naming the place in `field` that could not be
    enforced.
    """
    return _Writer(schema, field).document(arguments)


def place(field: str, path: Any) -> str:
    """The path of a place within a field: `schema.properties.age`, `schema.anyOf[0]`."""
    return field + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)[:512]


class _Writer:
    def __init__(self, root: Any, field: str) -> None:
        self._root = root
        self._field = field
        self._names: dict[str, str] = {}
        self._waiting: list[tuple[str, str]] = []
        self._nodes = 0
        self._optional_pairs = 0
        self._lengths: set[tuple[int, int | None]] = set()

    def document(self, arguments: bool) -> dict[str, Any]:
        root = self._root
        if arguments and root is not False:
            try:
                joined = self._joined({} if root is True else root, ())
                root = self._both({"type": "object"}, joined, ())
            except _Nothing as problem:
                self._refuse((), str(problem))
        written = self._schema(root, ())
        definitions = {}
        while self._waiting:
            name, pointer = self._waiting.pop()
            definitions[name] = self._schema(self._target(pointer, ()), (f"({pointer})",))
        if "$ref" in written:
            # The root is the definition itself: xgrammar's forms other than JSON take no reference there.
            written = definitions[written["$ref"].rpartition("/")[2]]
        if definitions:
            written = {**written, "$defs": definitions}
        if len(orjson.dumps(written)) > MAX_BYTES:
            self._refuse((), f"is too large: at most {MAX_BYTES} bytes, written out")
        return written

    def _schema(self, schema: Any, path: Path, depth: int = 0) -> dict[str, Any]:
        self._nodes += 1
        if self._nodes > _MAX_NODES:
            self._refuse((), f"is too large: at most {_MAX_NODES} schemas, written out")
        if depth > MAX_DEPTH:
            self._refuse(path, f"is nested deeper than {MAX_DEPTH} schemas")
        if schema is False:
            self._refuse(path, "is false: nothing can follow it")
        try:
            keywords = self._joined({} if schema is True else schema, path)
        except _Nothing as problem:
            self._refuse(path, str(problem))
        if "$ref" in keywords:
            return {"$ref": f"#/$defs/{self._name(keywords['$ref'], path)}"}
        if "const" in keywords or "enum" in keywords:
            return self._values(keywords, path)
        for alternatives in ("anyOf", "oneOf"):
            if alternatives in keywords:
                return {alternatives: self._alternatives(keywords, alternatives, path, depth)}
        return self._typed(keywords, path, depth)

    def _joined(self, schema: Schema, path: Path) -> dict[str, Any]:
        """The assertions of a schema, of its allOf, and of a $ref that does not stand alone, in one."""
        keywords = self._assertions(schema, path)
        seen: set[str] = set()
        while "allOf" in keywords or ("$ref" in keywords and len(keywords) > 1):
            if "allOf" in keywords:
                parts = [(part, (*path, "allOf", i)) for i, part in enumerate(keywords.pop("allOf"))]
            else:
                pointer = keywords.pop("$ref")
                if pointer in seen:
                    self._refuse(path, f"refers to itself by {pointer}")
                seen.add(pointer)
                parts = [(self._target(pointer, path), path)]
            for part, where in parts:
                if part is False:
                    self._refuse(where, "is false: nothing can follow it")
                keywords = self._both(keywords, {} if part is True else part, where)
        return keywords

    def _both(self, first: Schema, second: Schema, path: Path) -> dict[str, Any]:
        """What follows both schemas. Raises where that is no one schema."""
        one, other = self._assertions(first, path), self._assertions(second, path)
        if not one or not other:
            return one or other
        for a, b in ((one, other), (other, one)):
            extra = _OTHER_PROPERTIES & a.keys()
            new = b.get("properties", {}).keys() - a.get("properties", {}).keys()
            if extra and new and a.get("additionalProperties") is not True:
                self._refuse(path, f"cannot be enforced: properties are joined with another {min(extra)}")
        joined = {**one, **other}
        for keyword in one.keys() & other.keys():
            left, right = one[keyword], other[keyword]
            if keyword == "type":
                joined["type"] = types = _common_types(left, right)
                if not types:
                    raise _Nothing(f"is joined with another type: nothing is both {left} and {right}")
            elif keyword == "required":
                joined["required"] = list(dict.fromkeys((*left, *right)))
            elif keyword == "allOf":
                joined["allOf"] = [*left, *right]
            elif keyword == "properties":
                joined["properties"] = {**left, **right}
                for name in left.keys() & right.keys():
                    if left[name] != right[name]:
                        joined["properties"][name] = {"allOf": [left[name], right[name]]}
            elif left != right:
                self._refuse(path, f"cannot be enforced: it is joined with another {keyword}")
        return joined

    def _assertions(self, schema: Schema, path: Path) -> dict[str, Any]:
        keywords = {keyword: schema[keyword] for keyword in schema if keyword in _ASSERTIONS}
        for keyword in _REFUSED & keywords.keys():
            if keywords.pop(keyword) is not False or keyword != "uniqueItems":
                self._refuse((*path, keyword), f"cannot be enforced: the engine knows no {keyword}")
        return keywords

    def _values(self, keywords: dict[str, Any], path: Path) -> dict[str, Any]:
        keyword = "const" if "const" in keywords else "enum"
        beside = keywords.keys() - {keyword, "type"}
        if beside:
            self._refuse(path, f"cannot be enforced: {min(beside)} stands beside {keyword}")
        values = [keywords["const"]] if keyword == "const" else keywords["enum"]
        if "type" in keywords:
            values = [value for value in values if _is_type(value, _types(keywords["type"]))]
        if not values:
            self._refuse((*path, keyword), "has no value that may be used")
        self._nodes += len(values)
        return {"enum": values}

    def _alternatives(
        self, keywords: dict[str, Any], alternatives: str, path: Path, depth: int
    ) -> list[dict[str, Any]]:
        rest = {key: value for key, value in keywords.items() if key != alternatives}
        written = []
        for index, branch in enumerate(keywords[alternatives]):
            where = (*path, alternatives, index)
            if branch is False:
                continue
            try:
                both = self._both(rest, self._joined({} if branch is True else branch, where), where)
                written.append(self._schema(both, where, depth + 1))
            except _Nothing:
                continue
        if not written:
            self._refuse((*path, alternatives), "has no schema that can be followed")
        return written

    def _typed(self, keywords: dict[str, Any], path: Path, depth: int) -> dict[str, Any]:
        if "type" in keywords:
            types = _types(keywords["type"])
        else:
            # Any other type is allowed too; the engine keeps to those that the schema speaks of.
            types = [name for name, own in _TYPED.items() if name != "integer" and own & keywords.keys()]
        if "number" in types and "integer" in types:
            types.remove("integer")
        written: dict[str, Any] = {}
        if types:
            written["type"] = types[0] if len(types) == 1 else types
        if "object" in types:
            written |= self._object(keywords, path, depth)
        if "array" in types:
            written |= self._array(keywords, path, depth)
        if "string" in types:
            written |= self._string(keywords, path)
        if "number" in types or "integer" in types:
            written |= self._number(keywords, "integer" in types, path)
        return written

    def _object(self, keywords: dict[str, Any], path: Path, depth: int) -> dict[str, Any]:
        if not _OBJECT & keywords.keys():
            return {}
        written = self._counts(keywords, "minProperties", "maxProperties", path)
        if "unevaluatedProperties" in keywords:
            keywords.setdefault("additionalProperties", keywords["unevaluatedProperties"])
        properties = dict(keywords.get("properties", {}))
        required = list(dict.fromkeys(keywords.get("required", ())))
        others = [key for key in ("patternProperties", "propertyNames") if keywords.get(key)]
        if others and (properties or required or len(others) > 1):
            self._refuse((*path, others[0]), "cannot be enforced beside properties, required, or one another")
        additional = keywords.get(
            "additionalProperties", None if "properties" in keywords or others else True
        )
        for name in required:
            if name in properties:
                continue
            if additional is False:
                self._refuse((*path, "required"), f"names {name[:64]!r}, which is none of the properties")
            properties[name] = True if additional is None else additional
        if properties or "properties" in keywords:
            written["properties"] = {
                name: self._schema(value, (*path, "properties", name), depth + 1)
                for name, value in properties.items()
                # A property that cannot be is left out; the engine closes objects.
                if value is not False or name in required or additional not in (None, False)
            }
        if required:
            written["required"] = required
        if additional is not None and not others:
            written["additionalProperties"] = self._or_bool(
                additional, (*path, "additionalProperties"), depth
            )
        self._count_optional(len(properties) - len(required), written, path)
        if "patternProperties" in others:
            patterns = keywords["patternProperties"]
            if len(patterns) > 1:
                self._refuse((*path, "patternProperties"), "cannot be enforced: it has more than one pattern")
            for pattern, value in patterns.items():
                where = (*path, "patternProperties", pattern)
                name = self._pattern(pattern, where)
                written["patternProperties"] = {name: self._schema(value, where, depth + 1)}
            written["additionalProperties"] = False
        if "propertyNames" in others:
            where = (*path, "propertyNames")
            written["propertyNames"] = self._schema(
                self._both({"type": "string"}, keywords["propertyNames"], where), where, depth + 1
            )
            values = True if additional is None else additional
            written["additionalProperties"] = self._or_bool(values, (*path, "additionalProperties"), depth)
        return written

    def _array(self, keywords: dict[str, Any], path: Path, depth: int) -> dict[str, Any]:
        if not _ARRAY & keywords.keys():
            return {}
        written: dict[str, Any] = self._counts(keywords, "minItems", "maxItems", path)
        first = keywords.get("prefixItems", ())
        if first:
            written["prefixItems"] = [
                self._schema(item, (*path, "prefixItems", i), depth + 1) for i, item in enumerate(first)
            ]
        items = keywords.get("items", keywords.get("unevaluatedItems"))
        if items is None and (not first or written.get("minItems", 0) > len(first)):
            items = True
        if items is not None:
            written["items"] = self._or_bool(items, (*path, "items"), depth)
        return written

    def _or_bool(self, schema: Any, path: Path, depth: int) -> Any:
        return schema if isinstance(schema, bool) else self._schema(schema, path, depth + 1)

    def _string(self, keywords: dict[str, Any], path: Path) -> dict[str, Any]:
        written = self._counts(keywords, "minLength", "maxLength", path)
        if not written.get("minLength", 1):
            del written["minLength"]
        if written:
            self._lengths.add((written.get("minLength", 0), written.get("maxLength")))
            cost = sum(min(max(low, high or 0), _LENGTH_COST) for low, high in self._lengths)
            if cost > _MAX_LENGTHS:
                self._refuse(path, "is one length too many: a schema may not have this many different ones")
        known = keywords.get("format") in _FORMATS
        found = [key for key in ("pattern", *(["format"] if known else ())) if key in keywords]
        if len(found) + bool(written) > 1:
            names = [*found, *written]
            self._refuse(path, f"cannot be enforced: {names[0]} and {names[1]} together")
        if "pattern" in found:
            return {"pattern": self._pattern(keywords["pattern"], (*path, "pattern"))}
        if written:
            # xgrammar's own lengths let control characters through, which are no JSON.
            return {
                "pattern": f"{_CHARACTER}{{{written.get('minLength', 0)},{written.get('maxLength', '')}}}"
            }
        return {key: keywords[key] for key in found}

    def _number(self, keywords: dict[str, Any], whole: bool, path: Path) -> dict[str, Any]:
        written = {key: keywords[key] for key in _NUMBER & keywords.keys()}
        if keywords.get("minimum", -math.inf) > keywords.get("maximum", math.inf):
            self._refuse((*path, "minimum"), "is greater than maximum")
        if whole:
            for key, value in list(written.items()):
                if not math.isfinite(value) or abs(value) > _MAX_INT:
                    self._refuse((*path, key), "is beyond 64 bits")
                if value != int(value):
                    del written[key]
                    low = key in ("minimum", "exclusiveMinimum")
                    bound = math.ceil(value) if low else math.floor(value)
                    kept = "minimum" if low else "maximum"
                    written[kept] = (max if low else min)(bound, keywords.get(kept, bound))
        return written

    def _counts(self, keywords: Schema, least: str, most: str, path: Path) -> dict[str, Any]:
        # 3.0 is a whole number too.
        counts = {name: int(keywords[name]) for name in (least, most) if name in keywords}
        if len(counts) == 2 and counts[least] > counts[most]:
            self._refuse((*path, least), f"is greater than {most}")
        return counts

    def _pattern(self, pattern: str, path: Path) -> str:
        if not pattern:
            self._refuse(path, "must not be empty")
        return json_pattern(pattern, place(self._field, path))

    def _count_optional(self, optional: int, written: Schema, path: Path) -> None:
        bounded = "minProperties" in written or "maxProperties" in written
        self._optional_pairs += optional**3 // 2 if bounded else optional**2
        if self._optional_pairs > _MAX_OPTIONAL_PAIRS:
            self._refuse(path, "has too many optional properties")

    def _name(self, pointer: str, path: Path) -> str:
        """The definition that stands for what a reference points to; written later, once."""
        seen = set()
        while isinstance(target := self._target(pointer, path), Mapping) and "$ref" in target:
            if self._assertions(target, path).keys() != {"$ref"}:
                break
            seen.add(pointer)
            pointer = target["$ref"]
            if pointer in seen:
                self._refuse(path, "refers to itself")
        if pointer not in self._names:
            self._names[pointer] = name = f"d{len(self._names)}"
            self._waiting.append((name, pointer))
        return self._names[pointer]

    def _target(self, pointer: str, path: Path) -> Any:
        where = (*path, "$ref")
        if pointer != "#" and not pointer.startswith("#/"):
            self._refuse(
                where, f"is {pointer[:256]!r}: only what is in the schema (#/...) can be referred to"
            )
        target = self._root
        for step in _pointer_steps(pointer):
            if isinstance(target, Mapping) and step in target:
                target = target[step]
            elif isinstance(target, list) and step.isdecimal() and int(step[:9]) < len(target):
                target = target[int(step)]
            else:
                self._refuse(where, f"is {pointer[:256]!r}, which is not in the schema")
        if not isinstance(target, Mapping | bool):
            self._refuse(where, f"is {pointer[:256]!r}, which is no schema")
        return target

    def _refuse(self, path: Path, problem: str) -> NoReturn:
        where = place(self._field, path)
        raise _refusal(where, f"{where} {problem}")


class _Nothing(Exception):
    """No document follows both of two schemas."""


def check_document(document: Any, field: str) -> None:
    """Raise ServiceError INVALID_ARGUMENT for a JSON document that is nested too deep to be looked at."""
    level = [document]
    for _ in range(MAX_JSON_DEPTH):
        level = [child for node in level for child in _children(node)]
        if not level:
            return
    raise _refusal(field, f"{field} is nested deeper than {MAX_JSON_DEPTH} lists and objects")


def _children(node: Any) -> Iterator[Any]:
    values = node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ()
    return (value for value in values if isinstance(value, Mapping | list))


def _types(types: str | list[str]) -> list[str]:
    return [types] if isinstance(types, str) else list(types)


def _common_types(first: str | list[str], second: str | list[str]) -> list[str]:
    one, other = _types(first), _types(second)
    both = [name for name in one if name in other]
    for a, b in ((one, other), (other, one)):
        if "number" in a and "integer" in b and not {"number", "integer"} & set(both):
            both.append("integer")
    return both


def _is_type(value: Any, types: list[str]) -> bool:
    match value:
        case None:
            return "null" in types
        case bool():
            return "boolean" in types
        case int() | float():
            return "number" in types or ("integer" in types and value == int(value))
        case str():
            return "string" in types
        case list():
            return "array" in types
        case _:
            return "object" in types


def _pointer_steps(pointer: str) -> list[str]:
    steps = unquote(pointer[1:]).split("/")[1:]
    return [step.replace("~1", "/").replace("~0", "~") for step in steps]


def _refusal(field: str, message: str) -> ServiceError:
    return invalid(field, message, "INVALID_CONSTRAINT")
