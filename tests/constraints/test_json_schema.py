"""JSON Schemas as the engine enforces them: each document that its grammar allows is valid. Keywords that it
would ignore are refused, with their place."""

import json

import grpc
import jsonschema
import pytest

from inferd.services.constraints.engine_schema import MAX_DEPTH, engine_schema
from inferd.services.constraints.json_schema import MAX_JSON_DEPTH, parse_schema
from inferd.services.errors import ServiceError
from inferd.services.runtimes.base import Constraint
from tests.support.grammar import Grammar, documents

FIELD = "response_format.json_schema.schema"


def written(schema: object, **options: bool) -> dict[str, object]:
    return engine_schema(parse_schema(json.dumps(schema), FIELD), FIELD, **options)


def constraint(schema: object) -> Constraint:
    return Constraint("json_schema", json.dumps(written(schema)))


POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}

ENFORCED = [
    {},
    {"type": "object"},
    {"type": "object", "properties": {}},
    POINT,
    {"properties": {"a": {"type": "boolean"}, "b": {}}, "required": ["b"]},
    {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "boolean"}},
    {"type": "object", "required": ["z"]},
    {"type": "object", "properties": {"a": {}}, "required": ["z"]},
    {"type": "object", "properties": {"a": False, "b": {"type": "null"}}},
    {"type": "object", "properties": {"a": {"type": "null"}, "b": {"type": "null"}}, "maxProperties": 1},
    {"type": "object", "patternProperties": {"^x[a-z]": {"type": "integer"}}},
    {"type": "object", "propertyNames": {"pattern": "^x"}},
    {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "integer"}},
    {"type": "object", "unevaluatedProperties": False, "properties": {"a": {"type": "null"}}},
    {"type": "array"},
    {"type": "array", "minItems": 1},
    {"type": "array", "maxItems": 2},
    {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 3},
    {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "null"}], "minItems": 3},
    {"type": "array", "prefixItems": [{"type": "integer"}], "items": False},
    {"type": "string", "minLength": 2, "maxLength": 3},
    {"type": "string", "pattern": "^a.c$"},
    {"type": "string", "pattern": "[^a]{1,5}"},
    {"type": "string", "pattern": "[^a]{1,1000}"},
    {"type": "string", "pattern": ".{1,1000}"},
    {"type": "string", "pattern": "[ -~]{3,500}"},
    {"type": "string", "maxLength": 100_000},
    {"type": "string", "maxLength": 0},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "a note that JSON Schema ignores"},
    {"type": ["string", "null"], "minLength": 2},
    {"type": "integer", "minimum": 1.5, "maximum": 7.5},
    {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 5},
    {"type": "number", "minimum": 0, "maximum": 1},
    {"minimum": 5},
    {"minLength": 5},
    {"enum": ['é"\n', 1.5, None, {"a": [True]}]},
    {"type": "string", "enum": ["a", 1]},
    {"const": {"a": [1, "x"]}},
    {"anyOf": [{"type": "integer"}, {"type": "null"}, False]},
    {"type": "integer", "anyOf": [{"minimum": 5}, {"maximum": 1}, {"type": "string"}]},
    {**POINT, "anyOf": [{"required": ["x"]}]},
    {"oneOf": [POINT, {"type": "string"}]},
    {"allOf": [{"type": "integer"}, {"minimum": 5}]},
    {"allOf": [POINT, {"properties": {"y": {"type": "null"}}, "required": ["y"]}]},
    {"allOf": [{"$ref": "#/$defs/p"}], "$defs": {"p": POINT}, "description": "of pydantic's"},
    {"$ref": "#/$defs/a", "minimum": 5, "$defs": {"a": {"type": "integer"}}},
    {"$ref": "#/$defs/a~1b%20c", "$defs": {"a/b c": {"type": "integer"}}},
    {"properties": {"a": {"type": "integer"}, "b": {"$ref": "#/properties/a"}}, "required": ["b"]},
    {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/c"}, "c": POINT}, "$ref": "#/$defs/a"},
    {
        "$defs": {"tree": {"type": "object", "properties": {"kids": {"items": {"$ref": "#/$defs/tree"}}}}},
        "$ref": "#/$defs/tree",
    },
    {"type": "object", "properties": {"next": {"$ref": "#"}}},
    {"nullable": True, "type": "string", "x-note": 1, "title": "t", "default": "d"},
]


@pytest.mark.parametrize("schema", ENFORCED, ids=json.dumps)
def test_what_the_grammar_allows_is_valid(schema):
    found = documents(constraint(schema))
    assert found
    validator = jsonschema.Draft202012Validator(schema)
    for document in found:
        validator.validate(document)


@pytest.mark.parametrize(
    ("schema", "allowed", "refused"),
    [
        (POINT, '{"x":1}', '{"x":"1"}'),
        ({"allOf": [POINT, {"required": ["x"]}]}, '{"x": 1}', "{}"),
        ({"type": "object", "minProperties": 1}, '{"a":1}', "{}"),
        ({"required": ["z"]}, '{"z":1,"y":2}', '{"y":2}'),
        ({"anyOf": [{"maximum": 1}, {"minimum": 5}], "type": "integer"}, "7", "3"),
        ({"const": "a"}, '"a"', '"b"'),
    ],
    ids=json.dumps,
)
def test_what_is_valid_is_allowed(schema, allowed, refused):
    grammar = Grammar(constraint(schema))
    assert grammar.accepts(allowed)
    assert not grammar.accepts(refused)


@pytest.mark.parametrize(
    ("schema", "path", "problem"),
    [
        (1, "", "must be a JSON object"),
        ([], "", "must be a JSON object"),
        (False, "", "is false"),
        ({"properties": {"age": {"type": "integr"}}}, ".properties.age.type", '"integr" is not valid'),
        ({"anyOf": [{}, {"required": "a"}]}, ".anyOf[1].required", "is no JSON Schema"),
        ({"items": [{}]}, ".items", "is no JSON Schema"),
        ({"properties": {"a": {"not": {}}}}, ".properties.a.not", "the engine knows no not"),
        ({"items": {"multipleOf": 2}}, ".items.multipleOf", "the engine knows no multipleOf"),
        ({"uniqueItems": True}, ".uniqueItems", "the engine knows no uniqueItems"),
        ({"$ref": "http://example.org/a"}, ".$ref", "only what is in the schema"),
        ({"$ref": "#anchor"}, ".$ref", "only what is in the schema"),
        ({"properties": {"a": {"$ref": "#/$defs/nope"}}}, ".properties.a.$ref", "is not in the schema"),
        ({"$ref": "#"}, "", "refers to itself"),
        (
            {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
            "",
            "itself",
        ),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "", "another type"),
        ({"allOf": [{"pattern": "a"}, {"pattern": "b"}]}, ".allOf[1]", "joined with another pattern"),
        (
            {"allOf": [{"properties": {"a": {}}, "additionalProperties": False}, {"properties": {"b": {}}}]},
            ".allOf[1]",
            "additionalProperties",
        ),
        ({"enum": []}, ".enum", "no value"),
        ({"type": "string", "enum": [1]}, ".enum", "no value"),
        ({"enum": ["a"], "minLength": 2}, "", "stands beside enum"),
        ({"required": ["q"], "additionalProperties": False}, ".required", "none of the properties"),
        ({"pattern": "a", "maxLength": 2}, "", "pattern and maxLength together"),
        ({"pattern": "(?=a)"}, ".pattern", "lookahead"),
        ({"pattern": 'say "no"'}, ".pattern", "quote"),
        ({"pattern": "a\\nb"}, ".pattern", "control character"),
        (
            {"patternProperties": {"a": {}}, "properties": {"b": {}}},
            ".patternProperties",
            "beside properties",
        ),
        ({"minLength": 3, "maxLength": 2}, ".minLength", "greater than maxLength"),
        ({"items": {}, "minItems": 3, "maxItems": 2}, ".minItems", "greater than maxItems"),
        ({"minimum": 3, "maximum": 2}, ".minimum", "greater than maximum"),
        ({"type": "integer", "maximum": 2**70}, ".maximum", "64 bits"),
    ],
    ids=json.dumps,
)
def test_what_cannot_be_enforced_is_refused_with_its_place(schema, path, problem):
    with pytest.raises(ServiceError) as caught:
        written(schema)
    assert (caught.value.code, caught.value.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_CONSTRAINT",
    )
    assert caught.value.field == FIELD + path
    assert problem in caught.value.message


@pytest.mark.parametrize("text", ["", "{", '{"a": 1,}', '{"enum": ["\\ud800"]}', "nope"])
def test_what_is_no_json_is_refused(text):
    with pytest.raises(ServiceError, match="no JSON document"):
        parse_schema(text, FIELD)


def nested(levels: int) -> str:
    return '{"type":"array","items":' * levels + "{}" + "}" * levels


@pytest.mark.parametrize(
    "text",
    [
        nested(MAX_DEPTH + 1),
        nested(MAX_JSON_DEPTH + 1),
        '{"const":' + "[" * 900 + "]" * 900 + "}",
        json.dumps({"enum": ["x" * 200_000]}),
        json.dumps({"enum": list(range(30_000))}),
        json.dumps({"properties": {f"p{i}": {"type": "string"} for i in range(1000)}}),
        json.dumps({"properties": {f"p{i}": {"type": "null"} for i in range(200)}, "minProperties": 9}),
        json.dumps({"properties": {f"p{i}": {"type": "string", "maxLength": 300 + i} for i in range(100)}}),
        json.dumps(
            {
                "properties": {f"p{i}": {"type": "null"} for i in range(300)},
                "anyOf": [{"required": [f"p{i}"]} for i in range(300)],
            }
        ),
    ],
    ids=lambda text: f"{text[:30]}, {len(text)}",
)
def test_what_would_take_the_engine_too_long_is_refused(text):
    with pytest.raises(ServiceError) as caught:
        engine_schema(parse_schema(text, FIELD), FIELD)
    assert caught.value.reason == "INVALID_CONSTRAINT"


def test_many_required_properties_are_taken():
    names = [f"p{i}" for i in range(1000)]
    assert (
        written({"properties": {name: {"type": "null"} for name in names}, "required": names})["required"]
        == names
    )


def test_a_chain_of_references_is_followed_however_long():
    definitions = {f"a{i}": {"items": {"$ref": f"#/$defs/a{i + 1}"}} for i in range(1500)}
    schema = {"$ref": "#/$defs/a0", "$defs": definitions | {"a1500": {"type": "null"}}}
    assert len(written(schema)["$defs"]) == 1501


@pytest.mark.parametrize(
    "schema", [True, {}, {"properties": {}}, {"anyOf": [POINT, {"type": "string"}]}], ids=json.dumps
)
def test_arguments_are_an_object(schema):
    grammar = Grammar(Constraint("json_schema", json.dumps(written(schema, arguments=True))))
    assert not grammar.accepts('"a"')
    assert not grammar.accepts("1")


def test_arguments_that_can_be_no_object_are_refused():
    with pytest.raises(ServiceError, match="another type"):
        written({"type": "string"}, arguments=True)
