"""Rewrites JSON Schemas of requests into schemas that the engine enforces completely.

The engine's compiler (xgrammar 0.2) ignores keywords that it does not know, and most keywords that stand
beside $ref, anyOf, allOf or enum. The rewritten schema has only keywords that the compiler enforces. A schema
that cannot be rewritten is refused. Does not compile the grammar: the engine does.
"""

import math
from collections.abc import Mapping
from typing import Any

import orjson

from inferd.services.constraints.json_schema import Path, Schema, place
from inferd.services.constraints.regex import json_pattern
from inferd.services.constraints.schema_resolver import (
    ARRAY_KEYWORDS,
    NUMBER_KEYWORDS,
    OBJECT_KEYWORDS,
    STRING_KEYWORDS,
    SchemaResolver,
    Unsatisfiable,
    type_names,
)

#: Bytes of a rewritten schema.
MAX_BYTES = 131_072
#: How deep schemas may be nested.
MAX_DEPTH = 64

# Further limits on parts of a schema that make the compiler slow: a short schema can take it seconds.
_MAX_NODES = 20_000
_MAX_OPTIONAL_PAIRS = 600_000
#: The sum of all different string lengths, each counted up to _LENGTH_COST: longer ones cost no more.
_MAX_LENGTHS, _LENGTH_COST = 4_000, 200
_MAX_INT = 2**63 - 1

#: A regular expression for a character that JSON does not escape.
_CHARACTER = r'[^"\\\x00-\x1f]'

#: The keywords that apply to each JSON type.
_TYPED = {
    "object": OBJECT_KEYWORDS,
    "array": ARRAY_KEYWORDS,
    "string": STRING_KEYWORDS,
    "number": NUMBER_KEYWORDS,
    "integer": NUMBER_KEYWORDS,
}

#: Formats that the engine enforces. Other formats are annotations, as JSON Schema has it by default.
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


def engine_schema(schema: Any, field: str, *, arguments: bool = False) -> dict[str, Any]:
    """A checked schema, rewritten: each document that the engine then allows is valid by `schema`.

    Two things are looser, because a grammar cannot say them: an object may repeat a key, and oneOf acts as
    anyOf if its schemas overlap. `arguments`: the schema is of a function's arguments, which are an object.

    Raises ServiceError INVALID_ARGUMENT (INVALID_CONSTRAINT) that names the place in `field` that the engine
    could not enforce.
    """
    return _EngineSchemaWriter(schema, field).document(arguments)


class _EngineSchemaWriter:
    """Rewrites one schema, and counts the parts that make the compiler slow."""

    def __init__(self, root: Any, field: str) -> None:
        self._root = root
        self._field = field
        self._resolver = SchemaResolver(root, field)
        #: The name in $defs for each pointer that a $ref has, and the definitions that are not written yet.
        self._names: dict[str, str] = {}
        self._waiting: list[tuple[str, str]] = []
        self._nodes = 0
        self._optional_pairs = 0
        self._lengths: set[tuple[int, int | None]] = set()

    def document(self, arguments: bool) -> dict[str, Any]:
        root = self._root
        if arguments and root is not False:
            try:
                joined = self._resolver.flattened({} if root is True else root, ())
                root = self._resolver.merged({"type": "object"}, joined, ())
            except Unsatisfiable as problem:
                self._resolver.refuse((), str(problem))
        written = self._schema(root, ())
        definitions = {}
        while self._waiting:
            name, pointer = self._waiting.pop()
            definitions[name] = self._schema(self._resolver.target(pointer, ()), (f"({pointer})",))
        if "$ref" in written:
            # Replace the reference by its definition: xgrammar's styles other than JSON (such as qwen_xml)
            # take no $ref at the root.
            written = definitions[written["$ref"].rpartition("/")[2]]
        if definitions:
            written = {**written, "$defs": definitions}
        if len(orjson.dumps(written)) > MAX_BYTES:
            self._resolver.refuse((), f"is too large: at most {MAX_BYTES} bytes, written out")
        return written

    def _schema(self, schema: Any, path: Path, depth: int = 0) -> dict[str, Any]:
        self._nodes += 1
        if self._nodes > _MAX_NODES:
            self._resolver.refuse((), f"is too large: at most {_MAX_NODES} schemas, written out")
        if depth > MAX_DEPTH:
            self._resolver.refuse(path, f"is nested deeper than {MAX_DEPTH} schemas")
        if schema is False:
            self._resolver.refuse(path, "is false: nothing can follow it")
        try:
            keywords = self._resolver.flattened({} if schema is True else schema, path)
        except Unsatisfiable as problem:
            self._resolver.refuse(path, str(problem))
        if "$ref" in keywords:
            return {"$ref": f"#/$defs/{self._name(keywords['$ref'], path)}"}
        if "const" in keywords or "enum" in keywords:
            return self._values(keywords, path)
        for alternatives in ("anyOf", "oneOf"):
            if alternatives in keywords:
                return {alternatives: self._alternatives(keywords, alternatives, path, depth)}
        return self._typed(keywords, path, depth)

    def _values(self, keywords: dict[str, Any], path: Path) -> dict[str, Any]:
        keyword = "const" if "const" in keywords else "enum"
        beside = keywords.keys() - {keyword, "type"}
        if beside:
            self._resolver.refuse(path, f"cannot be enforced: {min(beside)} stands beside {keyword}")
        values = [keywords["const"]] if keyword == "const" else keywords["enum"]
        if "type" in keywords:
            values = [value for value in values if _is_type(value, type_names(keywords["type"]))]
        if not values:
            self._resolver.refuse((*path, keyword), "has no value that may be used")
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
                both = self._resolver.merged(
                    rest, self._resolver.flattened({} if branch is True else branch, where), where
                )
                written.append(self._schema(both, where, depth + 1))
            except Unsatisfiable:
                continue
        if not written:
            self._resolver.refuse((*path, alternatives), "has no schema that can be followed")
        return written

    def _typed(self, keywords: dict[str, Any], path: Path, depth: int) -> dict[str, Any]:
        if "type" in keywords:
            types = type_names(keywords["type"])
        else:
            # JSON Schema allows all other types as well. The engine gets only those that the keywords apply
            # to.
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
        if not OBJECT_KEYWORDS & keywords.keys():
            return {}
        written = self._counts(keywords, "minProperties", "maxProperties", path)
        if "unevaluatedProperties" in keywords:
            keywords.setdefault("additionalProperties", keywords["unevaluatedProperties"])
        properties = dict(keywords.get("properties", {}))
        required = list(dict.fromkeys(keywords.get("required", ())))
        others = [key for key in ("patternProperties", "propertyNames") if keywords.get(key)]
        if others and (properties or required or len(others) > 1):
            self._resolver.refuse(
                (*path, others[0]), "cannot be enforced beside properties, required, or one another"
            )
        additional = keywords.get(
            "additionalProperties", None if "properties" in keywords or others else True
        )
        for name in required:
            if name in properties:
                continue
            if additional is False:
                self._resolver.refuse(
                    (*path, "required"), f"names {name[:64]!r}, which is none of the properties"
                )
            properties[name] = True if additional is None else additional
        if properties or "properties" in keywords:
            written["properties"] = {
                name: self._schema(value, (*path, "properties", name), depth + 1)
                for name, value in properties.items()
                # A property that is false is left out: the engine allows no properties that are not named.
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
                self._resolver.refuse(
                    (*path, "patternProperties"), "cannot be enforced: it has more than one pattern"
                )
            for pattern, value in patterns.items():
                where = (*path, "patternProperties", pattern)
                name = self._pattern(pattern, where)
                written["patternProperties"] = {name: self._schema(value, where, depth + 1)}
            written["additionalProperties"] = False
        if "propertyNames" in others:
            where = (*path, "propertyNames")
            written["propertyNames"] = self._schema(
                self._resolver.merged({"type": "string"}, keywords["propertyNames"], where), where, depth + 1
            )
            values = True if additional is None else additional
            written["additionalProperties"] = self._or_bool(values, (*path, "additionalProperties"), depth)
        return written

    def _array(self, keywords: dict[str, Any], path: Path, depth: int) -> dict[str, Any]:
        if not ARRAY_KEYWORDS & keywords.keys():
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
                self._resolver.refuse(
                    path, "is one length too many: a schema may not have this many different ones"
                )
        known = keywords.get("format") in _FORMATS
        found = [key for key in ("pattern", *(["format"] if known else ())) if key in keywords]
        if len(found) + bool(written) > 1:
            names = [*found, *written]
            self._resolver.refuse(path, f"cannot be enforced: {names[0]} and {names[1]} together")
        if "pattern" in found:
            return {"pattern": self._pattern(keywords["pattern"], (*path, "pattern"))}
        if written:
            # Not minLength and maxLength: with them xgrammar allows control characters, which are no JSON.
            return {
                "pattern": f"{_CHARACTER}{{{written.get('minLength', 0)},{written.get('maxLength', '')}}}"
            }
        return {key: keywords[key] for key in found}

    def _number(self, keywords: dict[str, Any], whole: bool, path: Path) -> dict[str, Any]:
        written = {key: keywords[key] for key in NUMBER_KEYWORDS & keywords.keys()}
        if keywords.get("minimum", -math.inf) > keywords.get("maximum", math.inf):
            self._resolver.refuse((*path, "minimum"), "is greater than maximum")
        if whole:
            for key, value in list(written.items()):
                if not math.isfinite(value) or abs(value) > _MAX_INT:
                    self._resolver.refuse((*path, key), "is beyond 64 bits")
                if value != int(value):
                    del written[key]
                    low = key in ("minimum", "exclusiveMinimum")
                    bound = math.ceil(value) if low else math.floor(value)
                    kept = "minimum" if low else "maximum"
                    written[kept] = (max if low else min)(bound, keywords.get(kept, bound))
        return written

    def _counts(self, keywords: Schema, least: str, most: str, path: Path) -> dict[str, Any]:
        # A count may be written 3.0.
        counts = {name: int(keywords[name]) for name in (least, most) if name in keywords}
        if len(counts) == 2 and counts[least] > counts[most]:
            self._resolver.refuse((*path, least), f"is greater than {most}")
        return counts

    def _pattern(self, pattern: str, path: Path) -> str:
        if not pattern:
            self._resolver.refuse(path, "must not be empty")
        return json_pattern(pattern, place(self._field, path))

    def _count_optional(self, optional: int, written: Schema, path: Path) -> None:
        bounded = "minProperties" in written or "maxProperties" in written
        self._optional_pairs += optional**3 // 2 if bounded else optional**2
        if self._optional_pairs > _MAX_OPTIONAL_PAIRS:
            self._resolver.refuse(path, "has too many optional properties")

    def _name(self, pointer: str, path: Path) -> str:
        """The name in $defs of the schema that a $ref points to. The definition is written later, once."""
        seen = set()
        while isinstance(target := self._resolver.target(pointer, path), Mapping) and "$ref" in target:
            if self._resolver.assertions(target, path).keys() != {"$ref"}:
                break
            seen.add(pointer)
            pointer = target["$ref"]
            if pointer in seen:
                self._resolver.refuse(path, "refers to itself")
        if pointer not in self._names:
            self._names[pointer] = name = f"d{len(self._names)}"
            self._waiting.append((name, pointer))
        return self._names[pointer]


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
