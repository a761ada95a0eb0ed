"""Converts a value that a model writes as plain text, or as a Python literal, to JSON text.

Does not find where a value ends: the readers do.
"""

import ast
import json
import math
import re
from typing import Any

from inferd.services.text.output.json_types import STRING, fits

_NAMES = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}
# Zeros before an integer, as in 07, which Python does not allow.
_PADDED = re.compile(r"\A0+(?=[1-9][0-9]*\Z)")
# What the parsers of JSON and Python raise for text that is malformed, nested too deeply, or a huge number.
_UNREADABLE = (ValueError, SyntaxError, RecursionError, MemoryError)


def json_of_text(text: str, types: frozenset[str]) -> str:
    """The JSON text of a parameter that is written as plain text if it is a string, and as JSON if not.

    `types` are the JSON types that the parameter's schema allows (empty: any). Text that fits no other type
    is a string.
    """
    bare = text.strip()
    try:
        value = json.loads(bare, parse_constant=_refuse)
        is_json = True
    except _UNREADABLE:
        is_json = False
    if is_json and (fits(value, types - STRING) or not (isinstance(value, str) or "string" in types)):
        return bare
    if is_json and isinstance(value, str) and types and "string" not in types:
        return bare
    if types and "string" not in types:
        try:
            return json_of_python(bare)
        except ValueError:
            pass
    return json.dumps(text, ensure_ascii=False)


def json_of_python(text: str) -> str:
    """The JSON text of a Python literal, which may have `true`, `false` and `null`, too.

    Raises ValueError if the text is no literal.
    """
    try:
        value = _value(ast.parse(_PADDED.sub("", text.strip()), mode="eval").body)
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (*_UNREADABLE, TypeError) as error:
        raise ValueError(f"no literal: {type(error).__name__}") from None


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=None | bool() | int() | str()):
            return node.value
        case ast.Constant(value=float() as number) if math.isfinite(number):
            return number
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=ast.Constant(value=int() | float() as number)):
            return -number if isinstance(node.op, ast.USub) else number
        case ast.List(elts=elements) | ast.Tuple(elts=elements) | ast.Set(elts=elements):
            return [_value(element) for element in elements]
        case ast.Dict(keys=keys, values=values):
            return {_key(key): _value(value) for key, value in zip(keys, values, strict=True)}
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case _:
            raise ValueError(type(node).__name__)


def _key(node: ast.expr | None) -> str:
    key = _value(node) if node else None
    return key if isinstance(key, str) else json.dumps(key)


def _refuse(constant: str) -> None:
    raise ValueError(constant)
